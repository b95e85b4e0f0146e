"""Operating system processes that stand for container instances."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from localcloud.ports import HOST
from localcloud.run.store import ProcessRecord, Store

GRACE_S = 10.0
LOG_LIMIT_BYTES = 16 * 2**20
TAIL_LINES = 12
TAIL_BYTES = 16_384
# Below the range that Linux and macOS take outgoing ports from: nobody grabs a port between
# the choice and the moment the instance listens on it.
_PORTS = range(10_000, 32_000)
# What a command needs of the machine it runs on; a container inherits nothing else.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Image:
    """A local stand-in for a container image: its entry point, folder and own environment.

    `cwd` None means the folder that the local cloud itself was started in.
    """

    command: Sequence[str]
    cwd: Path | None = None
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Launch:
    """Everything a process is started with, but its port; a job's task `listens` on none."""

    command: tuple[str, ...]
    cwd: Path | None
    environment: Mapping[str, str]
    log: Path
    listens: bool = True


class Guard:
    """The helper process that ends the instances if this process dies without `stop`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_HERE / "guard.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # A guard that somebody killed must not stop the service; the next start sweeps instead.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def close(self) -> None:
        """End the guard; it kills what it still watches."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Process:
    """One started process, listening (soon) on `port` of the loopback interface; 0: on none."""

    def __init__(
        self, child: asyncio.subprocess.Process, port: int, log: Path, log_from: int
    ) -> None:
        self._child = child
        self._log = log
        self._log_from = log_from
        self.port = port
        self.in_flight = 0
        self.exited = asyncio.ensure_future(child.wait())

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        return self._child.returncode

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and to all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def memory_bytes(self) -> int:
        """Return the resident memory of the process and its descendants."""
        return sum(_resident(pid) for pid in [self.pid, *_FAMILIES.descendants(self.pid)])

    def last_lines(self) -> str:
        """Return the last lines that this process wrote."""
        with self._log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_from, end - TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


class _Families:
    """Who started whom, as of at most a second ago.

    One look goes through all processes of the machine, so all instances share it: one each took
    a tenth of a CPU for thirty instances.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: dict[int, list[int]] = {}
        self._looked_at = -math.inf

    def descendants(self, pid: int) -> list[int]:
        """Return the processes that a process, or one of its descendants, has started."""
        with self._lock:
            if time.monotonic() - self._looked_at > 1:
                self._look()
            found = [pid]
            for one in found:
                found += self._children.get(one, [])
            return found[1:]

    def _look(self) -> None:
        self._children = {}
        for process in psutil.process_iter(["ppid"]):
            self._children.setdefault(process.info["ppid"], []).append(process.pid)
        self._looked_at = time.monotonic()


_FAMILIES = _Families()


class Processes:
    """Starts and ends processes; records each, so that the next start can sweep leftovers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard: Guard | None = None

    def open(self) -> None:
        """Kill what an earlier run left behind, then stand guard."""
        for left in self._store.processes():
            kill_leftover(left)
            self._store.delete_process(left.pid)
        self._guard = Guard()

    def close(self) -> None:
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    async def start(self, owner: str, launch: Launch) -> Process:
        """Start a process of a revision or an execution, on a free port if it is to listen.

        OSError when its folder or Python is missing.
        """
        assert self._guard is not None, "start() the local Cloud Run first"
        if launch.cwd is not None and not launch.cwd.is_dir():
            raise FileNotFoundError(f"the working folder {launch.cwd} does not exist")
        port = free_port() if launch.listens else 0
        _rotate(launch.log)
        with launch.log.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(_HERE / "launch.py"),
                str(os.getpid()),
                *launch.command,
                cwd=launch.cwd,
                env={**launch.environment, **({"PORT": str(port)} if port else {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: ended as a whole, and out of reach of a terminal's Ctrl-C.
                start_new_session=True,
            )
            log_from = log.tell()
        self._guard.watch(child.pid)
        process = Process(child, port, launch.log, log_from)
        with contextlib.suppress(psutil.Error):
            started = psutil.Process(child.pid).create_time()
            record = ProcessRecord(child.pid, started, owner)
            await asyncio.to_thread(self._store.put_process, record)
        return process

    async def end(self, process: Process, grace_s: float = GRACE_S) -> None:
        """SIGTERM, then SIGKILL after the grace period; returns when it is gone."""
        if process.exit_code is None:
            process.signal_group(signal.SIGTERM)
            await asyncio.wait({process.exited}, timeout=grace_s)
        # Also after a clean exit: what it started and left running goes with it.
        process.signal_group(signal.SIGKILL)
        await process.exited
        if self._guard is not None:
            self._guard.forget(process.pid)
        await asyncio.to_thread(self._store.delete_process, process.pid)


def base_environment() -> dict[str, str]:
    """Return the few variables of this machine that an instance may see."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    for port in random.sample(_PORTS, 200):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 10000 and 32000")


def kill_leftover(left: ProcessRecord) -> None:
    """Kill a process of an earlier run and its group, unless its pid belongs to another now."""
    try:
        leader = psutil.Process(left.pid)
        if leader.status() != psutil.STATUS_ZOMBIE:
            if abs(leader.create_time() - left.started) < 2:
                os.killpg(left.pid, signal.SIGKILL)
            return
    except (psutil.Error, ProcessLookupError, PermissionError):
        pass
    for member in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            in_group = os.getpgid(member.pid) == left.pid
            seen = member.environ() if in_group else {}
            if left.owner in (seen.get("K_REVISION"), seen.get("CLOUD_RUN_EXECUTION")):
                member.kill()


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
