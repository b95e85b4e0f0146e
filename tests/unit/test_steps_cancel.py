"""An abort that a person asked for."""

from __future__ import annotations

from typing import Any

import pytest

from functions.cancel import stop
from shared.domain.deployment import Status
from shared.errors import Conflict, NotFound, TrafficNotApplied
from shared.messages import Cancel
from tests.fakes import World
from tests.unit.stepping import (
    MODEL,
    V1,
    V2,
    advance,
    execution_of,
    new_world,
    publish,
    roll_out,
    served,
    step,
)


def cancel(world: World, name: str) -> dict[str, Any]:
    return stop(Cancel(deployment_id=name, reason="not today"), "ops@example.com", world.ports())


@pytest.fixture
def world() -> World:
    """v1 serves half of the traffic, v2 the other half."""
    made = new_world()
    roll_out(made, 1)
    publish(made, 2)
    advance(made, "movies-2-auto", "check")
    step(made, "shift", "movies-2-auto", percent=50)
    return made


def test_running_rollout_is_cancelled_and_its_traffic_goes_back(world: World) -> None:
    answer = cancel(world, "movies-2-auto")
    assert answer == {"deployment_id": "movies-2-auto", "status": "cancelled"}
    assert served(world) == {V1: 100}
    assert world.executions.cancelled == [execution_of(world, "movies-2-auto")]
    found = world.state.deployment("movies-2-auto")
    assert found.reason == "cancelled by ops@example.com: not today"
    assert world.state.events("movies-2-auto")[-1].actor == "ops@example.com"


def test_waiting_run_is_cancelled_and_the_running_one_goes_on(world: World) -> None:
    waiting = publish(world, 3)
    cancel(world, waiting)
    assert world.state.model(MODEL).waiting is None
    step(world, "shift", "movies-2-auto", percent=100)
    step(world, "finish", "movies-2-auto")
    assert served(world) == {V2: 100}


def test_repeat_completes_what_died_half_way(world: World) -> None:
    world.cloud_run.serves_after = 10_000
    with pytest.raises(TrafficNotApplied):
        cancel(world, "movies-2-auto")
    world.cloud_run.serves_after = 0
    assert cancel(world, "movies-2-auto")["status"] == "cancelled"
    assert served(world) == {V1: 100}
    assert world.executions.cancelled == [execution_of(world, "movies-2-auto")]


def test_what_is_no_rollout_cannot_be_cancelled(world: World) -> None:
    with pytest.raises(Conflict, match="only a rollout"):
        cancel(world, "movies-1-auto")


def test_rollout_that_finished_first_is_reported_as_it_is(world: World) -> None:
    step(world, "shift", "movies-2-auto", percent=100)
    finished: list[bool] = []

    def finish_meanwhile() -> None:
        if not finished:
            finished.append(True)
            step(world, "finish", "movies-2-auto")

    world.state.before_commit = finish_meanwhile
    with pytest.raises(Conflict, match="became active before"):
        cancel(world, "movies-2-auto")
    assert world.state.deployment("movies-2-auto").status is Status.ACTIVE
    assert served(world) == {V2: 100}


def test_unknown_deployment_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        cancel(world, "movies-9-auto")
