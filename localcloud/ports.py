"""Free loopback ports that stay the same across restarts where they can."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

HOST = "127.0.0.1"
_PATIENCE_S, _POLL_S = 3.0, 0.05


class Ports:
    """Hands out bound sockets by name and remembers their numbers in `ports.json`.

    A URL handed to somebody yesterday should work today, so a name gets its old port back
    unless another program took it meanwhile; then it gets a free one. A short wait lets the
    children of a cloud that was killed a moment ago let go of theirs.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ports.json"
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, int] = (
            json.loads(self._path.read_text()) if self._path.exists() else {}
        )

    def bind(self, name: str) -> socket.socket:
        """Return a socket bound to 127.0.0.1 on the port of `name` (not yet listening)."""
        with self._lock:
            old = self._known.get(name, 0)
            bound = _bind_patiently(old) or _bind(0)
            port = bound.getsockname()[1]
            if port != old:
                self._known[name] = port
                self._save()
            return bound

    def number(self, name: str) -> int | None:
        """Return the remembered port of `name`, or None."""
        return self._known.get(name)

    def _save(self) -> None:
        # Written beside and renamed: a kill in between leaves the old file whole.
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(self._known, indent=1, sort_keys=True))
        beside.replace(self._path)


def _bind_patiently(port: int) -> socket.socket | None:
    deadline = time.monotonic() + _PATIENCE_S
    while port:
        try:
            return _bind(port)
        except OSError:
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_S)
    return None


def _bind(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Only lets us take back a port whose old connections linger in TIME_WAIT.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((HOST, port))
    except OSError:
        made.close()
        raise
    return made
