"""`python -m serving`: listens on $HOST:$PORT until it is told to stop.

One main process, which keeps the time of stopping; a worker a CPU, which answers; and the engine,
which holds the model. Exit codes: 0 after SIGTERM or SIGINT, 1 when the model cannot be served or
a process ended by itself.

`python -m serving prepare` prepares answers instead, as a task of a Cloud Run job: see prepare.py.
"""

from __future__ import annotations

import ctypes
import gc
import logging.config
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

from serving.cpus import cpus_given
from serving.errors import InvalidConfiguration
from serving.logs import log, logging_config
from serving.settings import Settings, read_settings

# Cloud Run kills a container 10 s after SIGTERM. First requests are still taken and answered with
# "Connection: close", then no more are taken and those in flight have eight seconds (FINISH_S of
# the server); one second stays.
DRAIN_S = 1.0


def main() -> None:
    """Serve, or prepare answers, with the settings of the environment."""
    # The catalogue is searched by threads of our own, each with a matrix product of its own. Read
    # when NumPy is imported, here and in the processes that this one starts.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if sys.argv[1:] == ["prepare"]:
        from serving.prepare import prepare

        sys.exit(prepare())
    if sys.argv[1:]:
        sys.exit(f"unknown arguments {sys.argv[1:]}; the only one there is: prepare")
    started_at = time.monotonic()
    logging.config.dictConfig(logging_config())
    try:
        settings = read_settings(os.environ)
        _check_port_is_free(settings)
    except InvalidConfiguration as error:
        log("ERROR", "container failed to start", code=error.code, reason=str(error))
        sys.exit(1)
    with tempfile.TemporaryDirectory(prefix="model-", ignore_cleanup_errors=True) as folder:
        _serve(settings, started_at, Path(folder))


def _check_port_is_free(settings: Settings) -> None:
    """Raise InvalidConfiguration when another process listens on the port.

    Granian would share it with another Granian, and each would get some of the requests.
    """
    try:
        socket.create_server((settings.host, settings.port)).close()
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise InvalidConfiguration(f"HOST and PORT: cannot listen on {where}: {error}") from error


def _serve(settings: Settings, started_at: float, folder: Path) -> None:
    engine = _start_engine(folder) if settings.artifact else None
    # The engine's interpreter starts meanwhile. What every worker needs is imported once, here,
    # and its memory shared: they are forked where the system forks. Imports leave nothing to
    # collect, and looking for it takes a tenth of their time.
    gc.disable()
    from serving.server import new_server
    from serving.worker import Launch, build, import_all

    import_all()
    gc.freeze()
    gc.enable()
    draining = RawValue(ctypes.c_bool, False)
    engine_ended = threading.Event()
    workers = cpus_given() if engine else 1
    server = new_server("serving", settings.host, settings.port, workers)

    def begin() -> None:
        _drain_on_signal(draining, server.signal_handler_interrupt)
        if engine:
            threading.Thread(target=end_with_engine, args=(engine,), daemon=True).start()

    def end_with_engine(engine: subprocess.Popen[bytes]) -> None:
        engine.wait()
        if not draining.value:
            log("ERROR", "the model's process ended", exit_code=engine.returncode)
            engine_ended.set()
            server.signal_handler_interrupt()

    server.on_startup(begin)
    launch = Launch(settings, started_at, _address(folder), draining)
    server.serve(target_loader=partial(build, launch), wrap_loader=False)
    if engine_ended.is_set():
        sys.exit(1)
    log("INFO", "stopped")


def _start_engine(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that loads the model; it ends when this one does, however it ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(_address(folder)))
        listener.listen(64)
        return subprocess.Popen(
            [sys.executable, "-m", "serving.engine", str(listener.fileno()), str(folder)],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            # A signal to this process's group (Ctrl-C) must not stop it before the drain.
            process_group=0,
        )


def _address(folder: Path) -> Path:
    """Return where the engine listens."""
    return folder / "engine"


def _drain_on_signal(draining: Any, stop: Callable[..., None]) -> None:
    """Put the drain before the server's own stop; a second signal changes nothing."""
    main = os.getpid()

    def begin(signum: int, frame: object) -> None:
        if os.getpid() != main:
            os._exit(0)  # A worker stopped before it had a handler of its own.
        if not draining.value:
            draining.value = True
            threading.Timer(DRAIN_S, stop, (signum, frame)).start()

    signal.signal(signal.SIGTERM, begin)
    signal.signal(signal.SIGINT, begin)


if __name__ == "__main__":
    main()
