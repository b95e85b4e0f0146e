"""The users of a model: wrk asks at a steady rate until it is told to stop; see trace.lua."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.load import SCRIPT, TIMEOUT_S, TOP_K, LoadFailed

TRACE = Path(__file__).with_name("trace.lua")
# wrk wants to know how long; it is always stopped before that.
LONGEST_S = 4 * 3600
BEGINS_WITHIN_S = 30.0
_PREFIX = "RESULT "


@dataclass(frozen=True)
class Audience:
    """Whom to ask, with which key, and for which customers (a file, one id a line).

    `rate` is in requests/s, offered whether or not earlier ones are answered; a free one of
    `connections` sends each.
    """

    url: str
    key: str
    customers: Path
    rate: float
    connections: int = 64


@dataclass(frozen=True)
class Answer:
    """One answer: when it came (monotonic, s), the version that it names or "", whether right."""

    at: float
    version: str
    status: int
    right: bool


@dataclass(frozen=True)
class Seen:
    """All that users saw. `broken` counts connections that broke, without any answer."""

    answers: tuple[Answer, ...]
    broken: int
    first_failure: str
    raw: dict[str, Any]

    @property
    def requests(self) -> int:
        """How many requests ended, well or not."""
        return len(self.answers) + self.broken

    @property
    def failed(self) -> int:
        """How many requests were not answered, or not rightly."""
        return sum(not answer.right for answer in self.answers) + self.broken

    def versions(self) -> Counter[str]:
        """Count the answers by the version that they name."""
        return Counter(answer.version for answer in self.answers if answer.version)

    def last(self, version: str, since: float, to: float = float("inf")) -> float | None:
        """Return when the version gave its last answer in that time (monotonic, s), or None."""
        return max(
            (one.at for one in self.answers if one.version == version and since <= one.at <= to),
            default=None,
        )


class Users:
    """Asks from entry to exit; `seen` is there after the exit."""

    seen: Seen

    def __init__(self, audience: Audience, trace: Path) -> None:
        self._audience = audience
        self._trace = trace
        self._process: subprocess.Popen[str]

    def __enter__(self) -> Users:
        self._trace.unlink(missing_ok=True)
        audience = self._audience
        environment = {
            "BENCH_SCRIPT": str(SCRIPT),
            "BENCH_TRACE": str(self._trace),
            "BENCH_CUSTOMERS": str(audience.customers),
            "BENCH_SEED": str(time.monotonic_ns() % 1_000_000),
            "BENCH_KEY": audience.key,
            "BENCH_TOP_K": str(TOP_K),
            "BENCH_BATCH": "0",
            "BENCH_ECHO": "1",
            "BENCH_RATE": str(audience.rate),
        }
        command = ["wrk", "--threads", "1", "--connections", str(audience.connections)]
        command += ["--duration", f"{LONGEST_S}s", "--timeout", f"{TIMEOUT_S}s", "--latency"]
        self._process = subprocess.Popen(
            [*command, "--script", str(TRACE), f"{audience.url}/recommend"],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C reaches the benchmark, which stops it in order.
            start_new_session=True,
        )
        self._wait_for_answers()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # It then prints what it has seen, as at the end of its time.
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=60)
        lines = [line for line in output.splitlines() if line.startswith(_PREFIX)]
        if not lines:
            raise LoadFailed(f"wrk ended with {self._process.returncode}: {output}")
        raw = json.loads(lines[-1].removeprefix(_PREFIX))
        self.seen = Seen(
            tuple(read(self._trace)),
            raw["socket_errors"] + raw["timeouts"],
            raw["first_wrong"],
            raw,
        )

    def _wait_for_answers(self) -> None:
        until = time.monotonic() + BEGINS_WITHIN_S
        while not (self._trace.exists() and self._trace.stat().st_size):
            if self._process.poll() is not None or time.monotonic() > until:
                with suppress(ProcessLookupError):
                    self._process.kill()
                raise LoadFailed(f"wrk sees no answers: {self._process.communicate()[0]}")
            time.sleep(0.05)


def read(trace: Path) -> Iterator[Answer]:
    """Give the answers that a trace holds; its last line may be half written."""
    for line in trace.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            at, version, status, right = line.split()
            yield Answer(float(at), "" if version == "-" else version, int(status), right == "1")
