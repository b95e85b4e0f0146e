"""The process that runs the functions: `python -m localcloud.functions.child SETTINGS`.

SETTINGS is JSON, the fields of `Settings`. The server is gunicorn with threads, as
functions-framework uses it in production.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from localcloud.calls import Calls
from localcloud.functions.dispatch import Dispatcher, load
from localcloud.functions.invoker import Invoker
from localcloud.functions.lifeline import die_with
from localcloud.functions.stamps import stamp_calls


@dataclass(frozen=True)
class Settings:
    """What the parent tells its child; `socket` is the inherited listening descriptor."""

    parent: int
    socket: int
    source: str
    folder: str
    targets: dict[str, str]
    public: list[str]
    base_url: str
    public_key: str
    threads: int
    grace_s: int

    def command(self) -> list[str]:
        """Return the command line that starts a child with these settings."""
        return [sys.executable, "-m", "localcloud.functions.child", json.dumps(asdict(self))]


class Server(BaseApplication):  # type: ignore[misc]
    """One gunicorn worker with threads on the inherited socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's options (called by gunicorn)."""
        options = {
            "bind": f"fd://{self._settings.socket}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": self._settings.threads,
            "timeout": 0,  # a function may take as long as it takes
            "graceful_timeout": self._settings.grace_s,
            "post_fork": _follow_arbiter,
            "control_socket_disable": True,
            "loglevel": "warning",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Dispatcher:
        """Load the functions (called by gunicorn in the worker)."""
        settings = self._settings
        invoker = Invoker(settings.base_url, settings.public_key, frozenset(settings.public))
        stamp_calls()
        functions = load(Path(settings.source), settings.targets)
        return Dispatcher(functions, invoker, Calls(Path(settings.folder)))


def _follow_arbiter(arbiter: Any, _worker: Any) -> None:
    die_with(arbiter.pid)


def main() -> None:
    """Serve until SIGTERM, or until the parent has ended."""
    settings = Settings(**json.loads(sys.argv[1]))
    die_with(settings.parent)
    os.set_inheritable(settings.socket, False)
    Server(settings).run()


if __name__ == "__main__":
    main()
