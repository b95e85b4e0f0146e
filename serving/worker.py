"""The process that answers requests: builds the application and loads the model beside it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from serving.cpus import cpus_given
from serving.errors import LoadError
from serving.loading import Timings
from serving.logs import log
from serving.model_slot import EMPTY, STARTING, ModelSlot, NoModel
from serving.settings import Settings


@dataclass(frozen=True)
class Launch:
    """What the main process hands to the worker.

    `started_at` is on the monotonic clock, which processes share; `draining.value` becomes true
    when the main process was told to stop; `folder` is the main process's to delete.
    """

    settings: Settings
    started_at: float
    folder: Path
    draining: Any


def build(launch: Launch) -> Callable[..., Any]:
    """Return the WSGI application, in the worker process; the model follows by itself."""
    # Granian sets its own handler once it serves. Until then the one inherited from the main
    # process would swallow the signal.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A group of its own: a signal to the main process's group (Ctrl-C) must not stop the worker
    # before the main process has drained it.
    os.setpgid(0, 0)
    _spawn("follow-parent", lambda: _end_with_parent(launch.folder))

    from serving.app import create_app
    from serving.firestore_keys import FirestoreKeys
    from serving.firestore_usage import FirestoreUsage
    from serving.keys import ApiKeys
    from serving.usage import Usage

    settings = launch.settings
    slot = ModelSlot(EMPTY if settings.artifact is None else STARTING)
    keys = ApiKeys(settings.model_id or "", FirestoreKeys(settings.project))
    usage = Usage(
        FirestoreUsage(
            settings.project, settings.model_id or "", settings.model_version, secrets.token_hex(8)
        ),
        settings.usage_flush_s,
    )
    app = create_app(settings, slot, keys, usage, draining=lambda: bool(launch.draining.value))
    _spawn("report-listening", lambda: _report_listening(launch))
    if settings.artifact is not None:
        _spawn("connect-keys", keys.connect)
        _spawn("write-usage", usage.run)
        # Runs when the worker has answered its last request: a child process has no `atexit`.
        Finalize(None, usage.close, exitpriority=0)
        _spawn("load-model", lambda: _load(launch, slot))
    return app


def _load(launch: Launch, slot: ModelSlot) -> None:
    """Fill the slot, or end the process with code 1: a revision that cannot serve must fail.

    Loading again would find the same files, so it is left to whoever deploys.
    """
    from serving.bucket import Bucket
    from serving.loading import load_model

    settings, timings = launch.settings, Timings()
    artifact = settings.artifact
    assert artifact is not None
    try:
        slot.current = load_model(
            settings,
            lambda: Bucket(artifact.bucket, artifact.prefix),
            launch.folder,
            cpus_given(),
            timings,
        )
    except BaseException as error:
        expected = isinstance(error, LoadError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        slot.current = NoModel("unhealthy", reason)
        log(
            "ERROR",
            "model failed to load",
            exc_info=not expected,
            code=error.code if isinstance(error, LoadError) else "internal_error",
            reason=reason,
            **_about(settings, timings),
        )
        logging.shutdown()
        os._exit(1)
    log(
        "INFO",
        "healthy",
        healthy_ms=_since(launch.started_at),
        **_about(settings, timings),
        products=slot.current.products,
    )
    # On Cloud Run files are memory; the loaded model needs none of them.
    shutil.rmtree(launch.folder, ignore_errors=True)


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


def _end_with_parent(folder: Path) -> None:
    """End at once when the main process was killed: nobody would ever stop this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _about(settings: Settings, timings: Timings | None = None) -> dict[str, Any]:
    parts = timings.parts if timings else {}
    return {"model_id": settings.model_id, "model_version": settings.model_version, **parts}


def _since(started_at: float) -> int:
    return round((time.monotonic() - started_at) * 1000)


def _spawn(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()
