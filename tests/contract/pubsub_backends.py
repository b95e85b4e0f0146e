"""The two Pub/Subs that the contract suite runs against: the local cloud's and Google's emulator.

`python -m tests.contract.pubsub_backends FOLDER` serves only the local one, on a free port
that it prints, until it is killed.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from localcloud.google_emulators import PUBSUB
from localcloud.identity import Identity
from localcloud.ports import HOST
from localcloud.pubsub import PubSub

LOCAL, GOOGLE = "local", "google"


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


def available_backends() -> list[str]:
    """Return the backends to run the suite against."""
    return [LOCAL] if PUBSUB.missing() else [LOCAL, GOOGLE]


def describe_backends() -> str:
    """Return one line for the test report: what ran, and which half was left out and why."""
    if not (missing := PUBSUB.missing()):
        return (
            f"Pub/Sub contract: the local cloud and Google's emulator ({PUBSUB.jar()}); only "
            "locally, since the emulator lacks them: filters, push tokens, Protocol Buffer "
            "schemas, retry back-off, order after a message was given back, detach and seek"
        )
    return (
        f"Pub/Sub contract: the local cloud only; the half against Google's emulator was LEFT OUT "
        f"({missing} was not found; install it, or set CLOUDSDK_ROOT_DIR)"
    )


if __name__ == "__main__":
    with local_pubsub(Path(sys.argv[1])) as address:
        print(address, flush=True)
        threading.Event().wait()
