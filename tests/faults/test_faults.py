"""A few cases of `make faults`: each function once, each kind of fault at least once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.cases import CHOSEN, Case
from tests.faults.run import Clouds, play


@pytest.fixture(scope="module")
def clouds() -> Iterator[Clouds]:
    """The clouds of this module; after a broken promise the next case gets a fresh one."""
    with Clouds() as found:
        yield found


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: f"{case.story}: {case.name}")
def test_struck_by_a_fault_ends_completed_or_as_before(clouds: Clouds, case: Case) -> None:
    result = play(clouds, case)
    assert not result.violations, result.line
