"""One local cloud for the whole session, started as a person starts it, and real artifacts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import credentials, declarations
from tests.e2e.artifacts import ENDED, KINDS
from tests.e2e.world import ROOT, Cloud, World, clean_environment, until
from tests.permissions import record


@pytest.fixture(scope="session")
def _artifacts_being_written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
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
def world(
    tmp_path_factory: pytest.TempPathFactory,
    _artifacts_being_written: Path,
) -> Iterator[World]:
    """The session's local cloud; in the end its logs and its record of calls are read."""
    folder = tmp_path_factory.mktemp("cloud")
    cloud = Cloud(folder, declarations.write(folder, declarations.MODELS))
    try:
        world = cloud.start()
        yield world
        known, key_hashes = credentials.secrets_of(cloud.data), world.key_hashes()
        world.close()
    finally:
        cloud.stop()
    # Of all tests that this worker ran: whatever went wrong in them was logged, too.
    credentials.check(folder, known, key_hashes)
    record.check(cloud.data)


@pytest.fixture(scope="session")
def artifacts(_artifacts_being_written: Path) -> dict[str, Path]:
    """The folder of each kind of artifacts."""
    folder = _artifacts_being_written
    ended, log = folder / ENDED, folder / "writing.log"
    until(ended.exists, "the artifacts are written")
    assert ended.read_text() == "", f"{ended.read_text()}{log.read_text()[-4000:]}"
    return {kind: folder / kind for kind in KINDS}
