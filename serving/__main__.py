"""`python -m serving`: listens on $HOST:$PORT until it is told to stop.

One main process, which keeps the time of stopping, and one worker, which answers. Exit codes: 0
after SIGTERM or SIGINT, 1 when the model cannot be served or the worker ended by itself.
"""

from __future__ import annotations

import ctypes
import logging.config
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from serving.cpus import cpus_given
from serving.errors import InvalidConfiguration
from serving.logs import log, logging_config
from serving.settings import Settings, read_settings
from serving.worker import Launch, build

# Cloud Run kills a container 10 s after SIGTERM. First requests are still taken and answered with
# "Connection: close", then no more are taken and those in flight have the rest; one second stays.
DRAIN_S = 1.0
FINISH_S = 8
# Granian counts open connections here, idle ones too, not requests; Cloud Run's own limit is
# 1,000 requests an instance.
MAX_CONNECTIONS = 4_096


def main() -> None:
    """Serve with the settings of the environment."""
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
    draining = RawValue(ctypes.c_bool, False)
    server = Granian(
        "serving",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=1,
        # Python threads: TensorFlow computes outside the interpreter's lock, key look-ups wait.
        blocking_threads=2 * cpus_given() + 1,
        backlog=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
        workers_kill_timeout=FINISH_S,
        websockets=False,
        log_level=LogLevels.warning,
        log_dictconfig=logging_config(),
    )
    server.on_startup(lambda: _drain_on_signal(draining, server.signal_handler_interrupt))
    launch = Launch(settings, started_at, folder, draining)
    server.serve(target_loader=partial(build, launch), wrap_loader=False)
    log("INFO", "stopped")


def _drain_on_signal(draining: Any, stop: Callable[..., None]) -> None:
    """Put the drain before the server's own stop; a second signal changes nothing."""

    def begin(signum: int, frame: object) -> None:
        if not draining.value:
            draining.value = True
            threading.Timer(DRAIN_S, stop, (signum, frame)).start()

    signal.signal(signal.SIGTERM, begin)
    signal.signal(signal.SIGINT, begin)


if __name__ == "__main__":
    main()
