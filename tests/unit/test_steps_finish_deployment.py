"""The deployment becomes the active one, when Cloud Run really serves it."""

from __future__ import annotations

import pytest

from functions.cancel import stop
from functions.roll_back import go_back
from shared.domain.deployment import Status
from shared.errors import Conflict, Superseded, TrafficNotApplied
from shared.messages import Cancel, RollBack
from tests.unit.stepping import (
    MODEL,
    SERVICE,
    V1,
    V2,
    advance,
    new_world,
    publish,
    roll_out,
    served,
    step,
)


def test_active_deployment_takes_over_from_the_one_before() -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    assert world.state.deployment("movies-1-auto").status is Status.INACTIVE
    assert world.state.deployment("movies-2-auto").status is Status.ACTIVE
    model = world.state.model(MODEL)
    assert (model.active, model.lock) == ("movies-2-auto", None)
    assert served(world) == {V2: 100}


def test_run_that_waited_is_started_and_a_repeat_does_not_disturb_it() -> None:
    world = new_world()
    first = publish(world, 1)
    second = publish(world, 2)
    advance(world, first)
    assert list(world.executions.deployments.values()) == [first, second]
    step(world, "claim", second)
    assert step(world, "finish", first)["status"] == "active"
    assert list(world.executions.deployments.values()) == [first, second]
    advance(world, second)
    assert world.state.deployment(second).status is Status.ACTIVE


def test_repeat_starts_the_run_whose_start_was_lost() -> None:
    world = new_world()
    first = publish(world, 1)
    second = publish(world, 2)
    advance(world, first)
    step(world, "finish", first)
    # Unclaimed as yet, so it is started once more; the claim lets one go on.
    assert list(world.executions.deployments.values()) == [first, second, second]


def test_traffic_that_is_not_served_yet_may_be_tried_again() -> None:
    world = new_world()
    roll_out(world, 1)
    name = publish(world, 2)
    advance(world, name, "shift")
    world.cloud_run.by_hand(SERVICE, {V1: 100})
    with pytest.raises(TrafficNotApplied):
        step(world, "finish", name)
    assert world.state.deployment(name).status is Status.DEPLOYING


def test_rollout_that_is_not_at_100_percent_cannot_finish() -> None:
    world = new_world()
    name = publish(world, 1)
    advance(world, name, "check")
    step(world, "shift", name, percent=50)
    with pytest.raises(TrafficNotApplied):
        step(world, "finish", name)


def test_overtaken_rollout_cannot_become_active() -> None:
    world = new_world()
    roll_out(world, 1)
    name = publish(world, 2)
    advance(world, name, "shift")
    stop(Cancel(deployment_id=name), "ops", world.ports())
    with pytest.raises(Superseded):
        step(world, "finish", name)
    assert world.state.model(MODEL).active == "movies-1-auto"


def test_another_execution_cannot_finish_it() -> None:
    world = new_world()
    name = publish(world, 1)
    advance(world, name, "shift")
    with pytest.raises(Conflict, match="belongs to execution"):
        step(world, "finish", name, execution="executions/other")


@pytest.mark.parametrize("how", ["a newer version", "a rollback"])
def test_late_repeat_answers_what_became_of_it(how: str) -> None:
    world = new_world()
    roll_out(world, 1)
    name = roll_out(world, 2)
    if how == "a newer version":
        roll_out(world, 3)
    else:
        go_back(RollBack(model_id=MODEL), "ops", world.ports())
    before = world.state.model(MODEL)
    expected = "inactive" if how == "a newer version" else "rolled_back"
    assert step(world, "finish", name) == {"deployment_id": name, "status": expected}
    assert world.state.model(MODEL) == before
