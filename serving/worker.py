"""The process that answers requests: builds the application and listens to the engine."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from serving.logs import log
from serving.model_slot import ModelSlot
from serving.moments import Moments
from serving.settings import Settings
from serving.wire import EngineEnded, ModelReady, PreparedReady


@dataclass(frozen=True)
class Launch:
    """What the main process hands to the workers.

    `started_at` is on the monotonic clock, which processes share; `engine` is where the engine
    listens; `draining.value` becomes true when the main process was told to stop.
    """

    settings: Settings
    started_at: float
    engine: Path
    draining: Any


def import_all() -> None:
    """Import what a worker needs, without connecting to anything."""
    from google.cloud import firestore  # noqa: F401

    from serving import firestore_usage, first_request  # noqa: F401


def build(launch: Launch) -> Callable[..., Any]:
    """Return the WSGI application, in a worker process; what answers follows by itself."""
    # Granian sets its own handler once it serves. Until then the one inherited from the main
    # process would swallow the signal.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A group of its own: a signal to the main process's group (Ctrl-C) must not stop the worker
    # before the main process has drained it.
    os.setpgid(0, 0)
    _spawn("follow-parent", _end_with_parent)

    from serving.app import create_app
    from serving.engine_client import EngineClient
    from serving.firestore_keys import FirestoreKeys
    from serving.firestore_usage import FirestoreUsage
    from serving.first_request import application
    from serving.keys import ApiKeys
    from serving.model_slot import EMPTY, STARTING
    from serving.service import Service
    from serving.usage import Usage

    settings, moments = launch.settings, Moments(launch.started_at)
    keys = ApiKeys(settings.model_id or "", FirestoreKeys(settings.project))
    usage = Usage(
        FirestoreUsage(
            settings.project, settings.model_id or "", settings.model_version, secrets.token_hex(8)
        ),
        settings.usage_flush_s,
    )
    if settings.artifact is None:
        slot = ModelSlot(EMPTY)
    else:
        slot = ModelSlot(STARTING)
        try:
            slot.follow(
                EngineClient(launch.engine, lambda event: _take(event, slot, launch, moments))
            )
        except OSError:
            slot.set_ended()  # It has ended already, and said why; the main process ends too.
        _spawn("connect-keys", keys.connect)
        _spawn("write-usage", usage.run)
        # Runs when the worker has answered its last request: a child process has no `atexit`.
        Finalize(None, usage.close, exitpriority=0)
    _spawn("report-listening", lambda: _report_listening(launch))
    service = Service(settings.model_version, slot, keys, usage)

    def draining() -> bool:
        return bool(launch.draining.value)

    parts = (service, create_app(settings, slot, service, draining), draining)
    return application(parts, settings, moments, launch.engine.parent)


def _take(event: object, slot: ModelSlot, launch: Launch, moments: Moments) -> None:
    """Let the slot hold what the engine has made ready."""
    from serving.table import Table, Tables

    artifact = launch.settings.artifact
    assert artifact is not None
    if isinstance(event, PreparedReady):
        tables = Tables(map(Table, map(Path, event.tables)), artifact.digest)
        slot.set_prepared(tables, event.products)
        moments.note_ready()
        _log_ready("prepared answers served", launch, customers=tables.customers)
    elif isinstance(event, ModelReady):
        slot.set_model(event)
        moments.note_ready()
        _log_ready("healthy", launch, products=event.products)
    elif isinstance(event, EngineEnded):
        slot.set_ended()


def _report_listening(launch: Launch) -> None:
    """Log how long it took until the port answered, by asking it."""
    host = launch.settings.host
    address = ("127.0.0.1" if host == "0.0.0.0" else host, launch.settings.port)
    while True:
        try:
            socket.create_connection(address, timeout=1).close()
        except OSError:
            time.sleep(0.005)
            continue
        log("INFO", "listening", listening_ms=_since(launch.started_at), **_about(launch.settings))
        return


def _log_ready(message: str, launch: Launch, **fields: Any) -> None:
    log("INFO", message, ready_ms=_since(launch.started_at), **_about(launch.settings), **fields)


def _end_with_parent() -> None:
    """End at once when the main process was killed: nobody would ever stop this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _about(settings: Settings) -> dict[str, Any]:
    return {"model_id": settings.model_id, "model_version": settings.model_version}


def _since(started_at: float) -> int:
    return round((time.monotonic() - started_at) * 1000)


def _spawn(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()
