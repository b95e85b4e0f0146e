"""The two Firestores that the contract suite runs against: the local cloud's, Google's emulator.

`python -m tests.contract.firestore_backends FOLDER` serves only the local one, on a free port
that it prints, until it is killed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from google.cloud import firestore

from localcloud.firestore import Firestore
from localcloud.ports import HOST

LOCAL, GOOGLE = "local", "google"
START_TIMEOUT_S = 60
_JAR = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
# The jar's manifest names no main class; this is the one that the SDK's own script starts.
_MAIN_CLASS = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
_USUAL_ROOTS = (
    "/usr/lib/google-cloud-sdk",
    "/opt/google-cloud-sdk",
    "/usr/local/google-cloud-sdk",
    "/snap/google-cloud-cli/current",
)


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
def google_firestore() -> Iterator[str]:
    """Run Google's emulator; gives `127.0.0.1:PORT` once it listens."""
    jar = emulator_jar()
    assert jar is not None, "ask google_available() first"
    port = _free_port()
    command = ["java", "-Duser.language=en", "-cp", str(jar), _MAIN_CLASS]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*command, f"--host={HOST}", f"--port={port}"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_listening(port, process)
            yield f"{HOST}:{port}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def served(backend: str, folder: Path) -> Iterator[str]:
    """Serve the named backend; gives its address."""
    with local_firestore(folder) if backend == LOCAL else google_firestore() as address:
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


def emulator_jar() -> Path | None:
    """Return the emulator's jar in the Google Cloud SDK, or None."""
    jars = (root / _JAR for root in _sdk_roots())
    return next((jar for jar in jars if jar.is_file()), None)


def google_available() -> bool:
    """Say whether Google's emulator can be started here."""
    return emulator_jar() is not None and shutil.which("java") is not None


def available_backends() -> list[str]:
    """Return the backends to run the suite against."""
    return [LOCAL, GOOGLE] if google_available() else [LOCAL]


def describe_backends() -> str:
    """Return one line for the test report: what ran, and which half was left out and why."""
    if google_available():
        return (
            f"Firestore contract: the local cloud and Google's emulator ({emulator_jar()}); only "
            "locally, since the emulator lacks them: index checks, the limit of 500 transforms, "
            "expiry of transactions, refusals by name, survival of kill -9"
        )
    missing = "java" if emulator_jar() else "the Google Cloud SDK's cloud-firestore-emulator"
    return (
        f"Firestore contract: the local cloud only; the half against Google's emulator was LEFT "
        f"OUT ({missing} was not found; install it, or set CLOUDSDK_ROOT_DIR)"
    )


def _sdk_roots() -> Iterator[Path]:
    if os.environ.get("CLOUDSDK_ROOT_DIR"):
        yield Path(os.environ["CLOUDSDK_ROOT_DIR"])
    gcloud = shutil.which("gcloud")
    if gcloud:
        yield Path(gcloud).resolve().parent.parent
    yield from map(Path, _USUAL_ROOTS)
    with suppress(RuntimeError):  # A user without a home folder.
        yield Path.home() / "google-cloud-sdk"


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


def _wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the emulator ended with {process.returncode}"
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"the emulator did not listen within {START_TIMEOUT_S} s")


if __name__ == "__main__":
    with local_firestore(Path(sys.argv[1])) as served_at:
        print(served_at, flush=True)
        threading.Event().wait()
