"""One run of `terraform test` for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.terraform.checking import (
    HOW_TO_INSTALL,
    Outcome,
    Plan,
    Workspace,
    installed,
    working_copy,
)


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    """A copy of terraform/, initialised offline."""
    if not installed():
        pytest.skip(HOW_TO_INSTALL)
    with working_copy() as copy:
        yield copy


@pytest.fixture(scope="session")
def tested(workspace: Workspace) -> Outcome:
    """What the run blocks of terraform/tests/installation.tftest.hcl said and planned."""
    return workspace.test("-filter=tests/installation.tftest.hcl")


@pytest.fixture(scope="session")
def production(tested: Outcome) -> Plan:
    """A whole installation, as applied."""
    assert "production" in tested.plans, tested.output
    return tested.plans["production"]
