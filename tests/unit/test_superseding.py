"""What a newer run does to the rollout under way: it waits for its end, or replaces it."""

from __future__ import annotations

import pytest

from functions.abort_deployment import undo
from functions.cancel import stop
from functions.on_training_completed import receive
from functions.reconcile import repair
from shared.domain.deployment import Status
from shared.errors import Conflict, Superseded, TrafficNotApplied
from shared.messages import AbortDeployment, Cancel
from tests.fakes import World
from tests.unit.crashing import dying
from tests.unit.stepping import (
    MODEL,
    V1,
    V3,
    advance,
    execution_of,
    message,
    new_world,
    publish,
    roll_out,
    served,
    step,
    train,
)

FIRST, SECOND, THIRD = (f"{MODEL}-{run}-auto" for run in (1, 2, 3))


def half_way(superseding: str = "replace", run: int = 2) -> World:
    """v1 serves, and the next version has half of its traffic."""
    world = new_world(policy={"superseding": superseding})
    roll_out(world, 1)
    name = publish(world, run)
    advance(world, name, "check")
    step(world, "shift", name, percent=50)
    return world


def test_newer_run_ends_the_rollout_under_way_and_takes_its_turn() -> None:
    world = half_way()
    publish(world, 3)
    replaced = world.state.deployment(SECOND)
    assert (replaced.status, replaced.reason) == (Status.CANCELLED, "replaced by run 3")
    assert served(world) == {V1: 100}
    with pytest.raises((Superseded, Conflict)):
        step(world, "shift", SECOND, percent=100)
    advance(world, THIRD)
    assert served(world) == {V3: 100}


def test_several_newer_runs_leave_only_the_newest() -> None:
    world = half_way()
    for run in (3, 5, 4):
        publish(world, run)
    by_run = {found.training_run: found.status for found in world.state.deployments(MODEL)}
    # Run 4 is older than the one under way by then: it waits, as ever.
    assert by_run == {
        1: Status.ACTIVE,
        2: Status.CANCELLED,
        3: Status.CANCELLED,
        5: Status.DEPLOYING,
        4: Status.DEPLOYING,
    }
    assert world.state.model(MODEL).waiting == f"{MODEL}-4-auto"


@pytest.mark.parametrize("run", [2, 1], ids=["the same run again", "an older run"])
def test_run_that_is_not_newer_never_ends_the_rollout_under_way(run: int) -> None:
    world = half_way(run=2)
    waits = publish(world, run, when="always", request_id="again")
    assert world.state.deployment(waits).waiting
    assert world.state.deployment(SECOND).status is Status.DEPLOYING


@pytest.mark.parametrize("end", ["finish", "abort", "cancel"])
def test_with_queue_the_newest_run_waits_for_the_end_whatever_it_is(end: str) -> None:
    world = half_way("queue")
    publish(world, 3)
    assert world.state.deployment(SECOND).status is Status.DEPLOYING
    assert world.state.deployment(THIRD).waiting
    if end == "finish":
        step(world, "shift", SECOND, percent=100)
        step(world, "finish", SECOND)
    elif end == "abort":
        execution = execution_of(world, SECOND)
        undo(AbortDeployment(deployment_id=SECOND, execution=execution), world.ports())
    else:
        stop(Cancel(deployment_id=SECOND), "ops", world.ports())
    advance(world, THIRD)
    assert served(world) == {V3: 100}


def test_redelivery_completes_what_was_not_served_in_time() -> None:
    world = half_way()
    world.cloud_run.serves_after = 10_000
    with pytest.raises(TrafficNotApplied):
        publish(world, 3)
    world.cloud_run.serves_after = 0
    assert receive(message(3), "message-3", world.ports()) == "started"
    assert receive(message(3), "message-3", world.ports()) == "started"
    assert served(world) == {V1: 100}
    advance(world, THIRD)
    assert served(world) == {V3: 100}


@pytest.mark.parametrize("then", ["redelivery", "reconcile"])
def test_replacement_that_dies_anywhere_is_completed(then: str) -> None:
    def arriving() -> World:
        world = half_way()
        train(world, 3)
        return world

    for world in dying(arriving, lambda ports: receive(message(3), "message-3", ports)):
        if then == "reconcile":
            repair(MODEL, world.ports())
            world.clock.sleep(130)
            repair(MODEL, world.ports())
        receive(message(3), "message-3", world.ports())
        assert world.state.deployment(SECOND).reason == "replaced by run 3"
        assert served(world) == {V1: 100}
        advance(world, THIRD)
        assert served(world) == {V3: 100}
        assert world.state.model(MODEL).lock is None
