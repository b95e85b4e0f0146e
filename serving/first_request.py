"""The first answered request of an instance, for its deployment's trace. Later ones cost nothing.

Whoever checks a candidate sends the deployment's trace along (W3C traceparent): those requests are
the pipeline's own and do not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from serving.express import Express
from serving.logs import log
from serving.moments import Moments
from serving.settings import Settings


class FirstRequest(Express):
    """An Express that tells of the first request which it answers, and is a plain one after."""

    def __init__(self, *parts: Any, trace_id: str, tell: Callable[[str, int, int], None]) -> None:
        super().__init__(*parts)
        self._trace_id = trace_id
        self._tell = tell

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        answered: list[str] = []

        def note(status: str, *rest: Any) -> Any:
            answered.append(status)
            return start_response(status, *rest)

        began = time.time_ns()
        content = super().__call__(environ, note)
        path = environ["PATH_INFO"]
        ours = self._trace_id in environ.get("HTTP_TRACEPARENT", "")
        if path in self._questions and not ours and answered[-1:] == ["200 OK"]:
            # The class decides what a call does: from here on this is an Express, and as fast.
            self.__class__ = Express  # type: ignore[assignment]
            self._tell(path, began, time.time_ns())
        return content


def application(
    parts: Sequence[Any], settings: Settings, moments: Moments, folder: Path
) -> Express:
    """Return an Express of these parts, which tells of its first request where there is a trace.

    `folder` is the instance's own: of its workers only the first one tells.
    """
    if not settings.traceparent:
        return Express(*parts)

    def tell(path: str, began: int, ended: int) -> None:
        try:
            (folder / "first-request").touch(exist_ok=False)
        except FileExistsError:
            return
        start = f"start {settings.model_id} {settings.model_version}"
        spans = [
            {"name": start, "began": moments.began, "ended": moments.ready or began},
            {"name": f"first request {path}", "began": began, "ended": ended},
        ]
        threading.Thread(target=_send, args=(settings, spans), daemon=True).start()

    return FirstRequest(*parts, trace_id=settings.traceparent.split("-")[1], tell=tell)


def _send(settings: Settings, spans: list[dict[str, Any]]) -> None:
    """Let a process of its own send them: OpenTelemetry's import would hold requests up here."""
    sent = {
        "traceparent": settings.traceparent,
        "spans": spans,
        "attributes": {
            "turnout.model_id": settings.model_id,
            "turnout.version": settings.model_version,
        },
    }
    try:
        subprocess.run(
            [sys.executable, "-m", "serving.traces", json.dumps(sent)], check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        log("WARNING", "first request not traced", reason=type(error).__name__)
