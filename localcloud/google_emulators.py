"""Google's own emulators of Pub/Sub and Firestore, where the Google Cloud SDK has them.

They are the second backend of the contract suites, and `turnout up --google-firestore` runs
on the second one. They keep nothing on disk.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from localcloud.ports import HOST

START_TIMEOUT_S = 60
_USUAL_ROOTS = (
    "/usr/lib/google-cloud-sdk",
    "/opt/google-cloud-sdk",
    "/usr/local/google-cloud-sdk",
    "/snap/google-cloud-cli/current",
)


@dataclass(frozen=True)
class Emulator:
    """One emulator: where its jar lies below the SDK's root, and how `java` starts it."""

    name: str
    jar_pattern: str
    main_class: str = ""

    def jar(self) -> Path | None:
        """Return its jar in the Google Cloud SDK, or None."""
        jars = (jar for root in _sdk_roots() for jar in sorted(root.glob(self.jar_pattern)))
        return next(jars, None)

    def missing(self) -> str:
        """Return what is lacking to start it, or nothing."""
        if self.jar() is None:
            return f"the Google Cloud SDK's {self.name}"
        return "" if shutil.which("java") else "java"

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it on a free port; gives `127.0.0.1:PORT` once it listens.

        FileNotFoundError says what is missing, RuntimeError what it printed when it ended.
        """
        if missing := self.missing():
            raise FileNotFoundError(
                f"{missing} was not found; install it, or set CLOUDSDK_ROOT_DIR"
            )
        port = _free_port()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [*self._command(), f"--host={HOST}", f"--port={port}"],
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C at a terminal reaches the parent only, which stops it in order.
                start_new_session=True,
            )
            try:
                _wait_until_listening(port, process)
                yield f"{HOST}:{port}"
            finally:
                process.terminate()
                process.wait()

    def _command(self) -> Sequence[str]:
        jar = str(self.jar())
        java = ["java", "-Duser.language=en"]
        return [*java, "-cp", jar, self.main_class] if self.main_class else [*java, "-jar", jar]


PUBSUB = Emulator("pubsub-emulator", "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar")
# The jar's manifest names no main class; this is the one that the SDK's own script starts.
FIRESTORE = Emulator(
    "cloud-firestore-emulator",
    "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar",
    "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
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
        if process.poll() is not None:
            raise RuntimeError(f"the emulator ended with {process.returncode}")
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the emulator did not listen within {START_TIMEOUT_S} s")
