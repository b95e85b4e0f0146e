"""One local cloud for the whole session, started as a person starts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import credentials, declarations
from tests.e2e.world import Cloud, World
from tests.permissions import record


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, artifacts_being_written: Path
) -> Iterator[World]:
    """The session's local cloud; in the end its logs and its record of calls are read."""
    assert artifacts_being_written
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
