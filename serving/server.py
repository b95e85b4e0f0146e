"""The HTTP server, with the settings that everything measured against it shares."""

from __future__ import annotations

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from serving.engine_client import MAX_WAITING
from serving.logs import logging_config

# Granian counts open connections here, idle ones too, not requests; Cloud Run's own limit is
# 1,000 requests an instance.
MAX_CONNECTIONS = 4_096
# Threads that refuse, look up keys or answer from the table while MAX_WAITING wait for the engine.
SPARE_THREADS = 16
# A worker that was told to stop has so long for the requests in flight.
FINISH_S = 8


def new_server(name: str, host: str, port: int, workers: int) -> Granian:
    """Return a WSGI server with so many worker processes; it does not listen yet."""
    return Granian(
        name,
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=workers,
        blocking_threads=MAX_WAITING + SPARE_THREADS,
        backlog=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
        workers_kill_timeout=FINISH_S,
        websockets=False,
        log_level=LogLevels.warning,
        log_dictconfig=logging_config(),
    )
