"""What every test run says first, and what the tests of several folders share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.contract import firestore_backends, pubsub_backends
from tests.e2e.artifacts import ENDED, KINDS
from tests.e2e.world import ROOT, clean_environment, until

# No test measures time: one that takes long on a busy machine has not failed.
settings.register_profile("turnout", deadline=None)
settings.load_profile("turnout")


def pytest_report_header() -> list[str]:
    """Name both halves of the contract suites, and the half that is left out."""
    return [pubsub_backends.describe_backends(), firestore_backends.describe_backends()]


@pytest.fixture(scope="session")
def artifacts_being_written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Their folder; TensorFlow writes them while the cloud starts, once for all workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "artifacts"
    try:
        folder.mkdir()
    except FileExistsError:
        yield folder
        return
    with (folder / "writing.log").open("wb") as log:
        writing = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.artifacts", str(folder)],
            cwd=ROOT,
            env={**clean_environment(), "CUDA_VISIBLE_DEVICES": "-1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield folder
    # Other workers may wait for them still.
    writing.wait(timeout=180)


@pytest.fixture(scope="session")
def artifacts(artifacts_being_written: Path) -> dict[str, Path]:
    """The folder of each kind of artifacts."""
    folder = artifacts_being_written
    ended, log = folder / ENDED, folder / "writing.log"
    until(ended.exists, "the artifacts are written")
    assert ended.read_text() == "", f"{ended.read_text()}{log.read_text()[-4000:]}"
    return {kind: folder / kind for kind in KINDS}
