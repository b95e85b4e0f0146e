"""The calculator of costs: its quantities are the code's own, and its sums add up."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.costs import (
    HELP,
    RECONCILE_READS,
    Installation,
    bill,
    of_a_million_predictions,
    of_one_deployment,
)
from functions.reconcile import repair_all
from shared.messages import Reconcile
from tests.unit.stepping import new_world, roll_out

ONE_A_CALL = ("model", "declaration", "deployment", "deploying")
"""Each of these reads one document of a model at rest, or is billed as one."""


def test_reconcile_of_a_model_at_rest_reads_what_the_calculator_says() -> None:
    world, asked = new_world(), Counter[str]()
    roll_out(world, 1)
    repair_all(Reconcile(), world.ports())  # Clears away: at rest once it has.

    class Counting:
        def __getattr__(self, name: str) -> Any:
            asked[name] += 1
            return getattr(world.state, name)

    assert repair_all(Reconcile(), world.ports(state=Counting())) == {"findings": {}}
    listed = asked["model_ids"]
    assert sum(asked[name] for name in ONE_A_CALL) + listed == RECONCILE_READS, asked


@pytest.mark.parametrize(
    ("more", "dearer"),
    [
        ({"models": 3}, "serving instances"),
        ({"deployments_a_day": 5.0}, "second instances of rollouts"),
        ({"requests_s": 5_000.0}, "serving instances"),
        ({"requests_s": 20.0}, "logs"),
        ({"tier": "1"}, ""),
    ],
)
def test_more_of_anything_costs_more(more: dict[str, Any], dearer: str) -> None:
    before, after = bill(Installation()), bill(replace(Installation(), **more))
    if dearer:
        assert after[dearer] > before[dearer]
    assert (sum(after.values()) > sum(before.values())) is bool(dearer)


def test_model_without_a_minimum_costs_an_instance_as_soon_as_somebody_asks_now_and_then() -> None:
    unasked = Installation(min_instances=0, requests_s=0)
    asked = replace(unasked, requests_s=0.01)
    assert bill(unasked)["serving instances"] == 0
    assert bill(asked)["serving instances"] == bill(Installation())["serving instances"]


def test_two_deployments_cost_twice_what_one_does_beside_everything_else() -> None:
    asked = Installation()
    month = bill(replace(asked, deployments_a_day=2.0))
    quiet = bill(replace(asked, deployments_a_day=0.0))
    one = sum(of_one_deployment(asked).values())
    assert sum(month.values()) - sum(quiet.values()) == pytest.approx(one * 2 * 730 / 24)


def test_what_is_left_out_costs_nothing() -> None:
    quiet = of_a_million_predictions(replace(Installation(), egress=False, request_logs=False))
    assert {name for name, cost in quiet.items() if cost} == {"serving instances"}


def test_page_shows_what_the_calculator_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "costs.md").read_text()
    for found, digits in (
        (bill(Installation()), 2),
        (of_one_deployment(Installation()), 4),
        (of_a_million_predictions(Installation()), 4),
    ):
        for name, cost in found.items():
            assert f"| {name} | {cost:,.{digits}f} |" in page


def test_every_quantity_can_be_given_and_says_what_it_is() -> None:
    assert {one.name for one in fields(Installation)} == {*HELP, "egress", "request_logs"}
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.costs", "--models", "2", "--no-request-logs"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    month = sum(bill(Installation(models=2, request_logs=False)).values())
    assert f"{month:,.2f}" in said
