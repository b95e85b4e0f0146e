"""Starts the process that hosts the functions, and keeps it running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

import requests

from localcloud.functions.child import Settings
from localcloud.identity import Identity
from localcloud.ports import Ports

_THREADS = 16
_START_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
#: A child that lived this long was well: the next restart does not wait longer than the first.
_WELL_S = 30.0
# A key file of the person who started the local cloud would win over the metadata server.
_NOT_INHERITED = ("GOOGLE_APPLICATION_CREDENTIALS", "GUNICORN_CMD_ARGS", "GUNICORN_FD")


class FunctionsNotStarted(RuntimeError):
    """The functions did not load; the message ends with the log."""


class FunctionsHost:
    """One child process with every entry point of a source folder, at `base_url`/NAME.

    `targets` says which entry points there are and of which kind ("http", "cloudevent");
    all of them want an ID token for their own URL but those in `public`. The port is
    taken at once, so that `base_url` can be told to others before `start`; the socket
    stays open while the child restarts: callers wait, they are not refused.
    What the functions print goes to `folder/functions.log`; who called them is counted there.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        targets: Mapping[str, str],
        identity: Identity,
        ports: Ports,
        environment: Mapping[str, str],
        public: Collection[str] = (),
        grace_s: int = 30,
    ) -> None:
        if unknown := set(public) - set(targets):
            raise ValueError(f"public functions that do not exist: {sorted(unknown)}")
        if wrong := set(targets.values()) - {"http", "cloudevent"}:
            raise ValueError(f"unknown kinds of functions: {sorted(wrong)}")
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "functions.log"
        self._socket = ports.bind("functions")
        host, port = self._socket.getsockname()
        self.base_url = f"http://{host}:{port}"
        self._environment = environment
        self._settings = Settings(
            parent=os.getpid(),
            socket=self._socket.fileno(),
            source=str(source.resolve()),
            folder=str(folder.resolve()),
            targets=dict(targets),
            public=sorted(public),
            base_url=self.base_url,
            public_key=identity.public_key.decode(),
            threads=_THREADS,
            grace_s=grace_s,
        )
        self._stopping = threading.Event()
        self._died = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        # The kernel ends the child with the thread that started it: this one, which
        # therefore lives until the child has ended.
        self._supervisor = threading.Thread(target=self._supervise, name="functions", daemon=True)

    def url(self, function: str) -> str:
        """Return the URL of a function, which is also the audience of its callers' tokens."""
        return f"{self.base_url}/{function}"

    def start(self) -> None:
        """Return when the functions answer; FunctionsNotStarted when they cannot be loaded."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        self._socket.listen(128)
        self._supervisor.start()
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._died.is_set() or time.monotonic() > deadline:
                self.stop()
                raise FunctionsNotStarted(
                    f"the functions of {self._settings.source} did not start:\n"
                    + self.log.read_bytes()[begin:].decode(errors="replace")[-4000:]
                )

    def stop(self) -> None:
        """End the child after the requests in flight; those longer than `grace_s` are cut."""
        self._stopping.set()
        child = self._child
        if child is not None:
            child.terminate()
            try:
                child.wait(self._settings.grace_s + 5)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
        if self._supervisor.is_alive():
            self._supervisor.join()
        self._socket.close()

    def _supervise(self) -> None:
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            begun = time.monotonic()
            child = self._child = self._spawn()
            if self._stopping.is_set():
                child.terminate()  # stop() may have looked before there was this one
            status = child.wait()
            if self._stopping.is_set():
                return
            self._died.set()
            pause = _FIRST_PAUSE_S if time.monotonic() - begun > _WELL_S else pause
            self._note("functions host ended", severity="ERROR", status=status, restart_s=pause)
            self._stopping.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _spawn(self) -> subprocess.Popen[bytes]:
        inherited = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        own = {"TURNOUT_FUNCTIONS_URL": self.base_url, "PYTHONUNBUFFERED": "1"}
        self._note("functions host starting", severity="NOTICE")
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._settings.command(),
                env={**inherited, **self._environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._settings.socket],
                # Ctrl-C at a terminal reaches the parent only, which stops the child in order.
                start_new_session=True,
            )

    def _answers(self) -> bool:
        try:
            requests.get(self.base_url, timeout=0.5)
        except requests.RequestException:
            return False
        return True

    def _note(self, message: str, **fields: object) -> None:
        entry = {"time": datetime.now(UTC).isoformat(), "message": message, **fields}
        with self.log.open("a") as log:
            log.write(json.dumps(entry) + "\n")
