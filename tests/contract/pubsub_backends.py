"""The two Pub/Subs that the contract suite runs against: the local cloud's and Google's emulator.

`python -m tests.contract.pubsub_backends FOLDER` serves only the local one, on a free port
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc

from localcloud.identity import Identity
from localcloud.ports import HOST
from localcloud.pubsub import PubSub

LOCAL, GOOGLE = "local", "google"
START_TIMEOUT_S = 60
_JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
_USUAL_ROOTS = (
    "/usr/lib/google-cloud-sdk",
    "/opt/google-cloud-sdk",
    "/usr/local/google-cloud-sdk",
    "/snap/google-cloud-cli/current",
)


@contextmanager
def local_pubsub(folder: Path) -> Iterator[str]:
    """Serve the local Pub/Sub with its data in `folder`; gives `127.0.0.1:PORT`."""
    pubsub = PubSub(folder / "pubsub", Identity(folder / "identity"))
    server = grpc.server(
        ThreadPoolExecutor(max_workers=32),
        options=[("grpc.max_receive_message_length", 16 << 20)],
    )
    server.add_generic_rpc_handlers(pubsub.grpc_handlers())
    port = server.add_insecure_port(f"{HOST}:0")
    pubsub.start()
    server.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        stopped = server.stop(grace=5)
        pubsub.stop()
        stopped.wait()


@contextmanager
def local_process(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve the local Pub/Sub in a process of its own, to be killed; gives address and process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.pubsub_backends", str(folder)],
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
def google_pubsub() -> Iterator[str]:
    """Run Google's emulator; gives `127.0.0.1:PORT` once it listens."""
    jar = emulator_jar()
    assert jar is not None, "ask google_available() first"
    port = _free_port()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["java", "-jar", str(jar), f"--host={HOST}", f"--port={port}"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_listening(port, process)
            yield f"{HOST}:{port}"
        finally:
            process.terminate()
            process.wait()


def emulator_jar() -> Path | None:
    """Return the emulator's jar in the Google Cloud SDK, or None."""
    jars = (jar for root in _sdk_roots() for jar in sorted(root.glob(_JAR)))
    return next(jars, None)


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
            f"Pub/Sub contract: the local cloud and Google's emulator ({emulator_jar()}); only "
            "locally, since the emulator lacks them: filters, push tokens, Protocol Buffer "
            "schemas, retry back-off, order after a message was given back, detach and seek"
        )
    missing = "java" if emulator_jar() else "the Google Cloud SDK's pubsub-emulator"
    return (
        f"Pub/Sub contract: the local cloud only; the half against Google's emulator was LEFT OUT "
        f"({missing} was not found; install it, or set CLOUDSDK_ROOT_DIR)"
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
    with local_pubsub(Path(sys.argv[1])) as address:
        print(address, flush=True)
        threading.Event().wait()
