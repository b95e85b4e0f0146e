"""The two Firestores that the contract suite runs against: the local cloud's, Google's emulator.

`python -m tests.contract.firestore_backends FOLDER` serves only the local one, on a free port
that it prints, until it is killed.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.cloud import firestore

from localcloud.firestore import Firestore
from localcloud.google_emulators import FIRESTORE
from localcloud.ports import HOST

LOCAL, GOOGLE = "local", "google"


@contextmanager
def local_firestore(
    folder: Path,
    indexes: Path | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    port: int = 0,
) -> Iterator[str]:
    """Serve the local Firestore with its data in `folder`; gives `127.0.0.1:PORT`."""
    service = Firestore(folder, indexes, monotonic)
    server = grpc.server(
        ThreadPoolExecutor(max_workers=64),
        options=[("grpc.max_receive_message_length", 16 << 20)],
    )
    server.add_generic_rpc_handlers(service.grpc_handlers())
    bound = server.add_insecure_port(f"{HOST}:{port}")
    service.start()
    server.start()
    try:
        yield f"{HOST}:{bound}"
    finally:
        stopped = server.stop(grace=5)
        service.stop()
        stopped.wait()


@contextmanager
def local_process(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve the local Firestore in a process of its own, to be killed; gives address, process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.firestore_backends", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def served(backend: str, folder: Path) -> Iterator[str]:
    """Serve the named backend; gives its address."""
    with local_firestore(folder) if backend == LOCAL else FIRESTORE.running() as address:
        yield address


@contextmanager
def connected(
    address: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[firestore.Client]:
    """Give Google's client, connected the way its users connect it to an emulator."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
    client = firestore.Client(project=project)
    try:
        yield client
    finally:
        client.close()


def available_backends() -> list[str]:
    """Return the backends to run the suite against."""
    return [LOCAL] if FIRESTORE.missing() else [LOCAL, GOOGLE]


def describe_backends() -> str:
    """Return one line for the test report: what ran, and which half was left out and why."""
    if not (missing := FIRESTORE.missing()):
        return (
            f"Firestore contract: the local cloud and Google's emulator ({FIRESTORE.jar()}); only "
            "locally, since the emulator lacks them: index checks, the limit of 500 transforms, "
            "expiry of transactions, refusals by name, survival of kill -9"
        )
    return (
        f"Firestore contract: the local cloud only; the half against Google's emulator was LEFT "
        f"OUT ({missing} was not found; install it, or set CLOUDSDK_ROOT_DIR)"
    )


if __name__ == "__main__":
    with local_firestore(Path(sys.argv[1])) as served_at:
        print(served_at, flush=True)
        threading.Event().wait()
