"""The candidate's next share: written under token and etag, believed when it is served."""

from __future__ import annotations

import pytest

from functions.cancel import stop
from functions.roll_back import go_back
from functions.shift_traffic import move
from functions.steps import CONFLICTS_AT_MOST
from shared.domain.deployment import StepName, StepState
from shared.errors import Conflict, Superseded, TrafficNotApplied
from shared.messages import Cancel, RollBack, ShiftTraffic
from tests.fakes import World
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

NAME = "movies-2-auto"


@pytest.fixture
def world() -> World:
    """v1 serves, v2 is healthy at 0 percent."""
    made = new_world()
    roll_out(made, 1)
    publish(made, 2)
    advance(made, NAME, "check")
    return made


def test_share_is_written_served_and_recorded(world: World) -> None:
    answer = step(world, "shift", NAME, percent=10)
    assert answer == {"deployment_id": NAME, "traffic": {V1: 90, V2: 10}}
    assert served(world) == {V1: 90, V2: 10}
    record = world.state.deployment(NAME).steps[StepName.SWITCH_TRAFFIC.value]
    assert (record.state, record.detail) == (StepState.RUNNING, f"{V1} 90 % + {V2} 10 %")
    token = world.state.model(MODEL).token
    annotations = world.cloud_run.service(SERVICE).annotations
    assert annotations["turnout/fencing-token"] == str(token)


def test_last_share_ends_the_step(world: World) -> None:
    step(world, "shift", NAME, percent=50)
    step(world, "shift", NAME, percent=100)
    assert served(world) == {V2: 100}
    record = world.state.deployment(NAME).steps[StepName.SWITCH_TRAFFIC.value]
    assert record.state is StepState.DONE


def test_repeat_writes_the_same_again(world: World) -> None:
    step(world, "shift", NAME, percent=10)
    etag = world.cloud_run.service(SERVICE).etag
    step(world, "shift", NAME, percent=10)
    assert served(world) == {V1: 90, V2: 10}
    assert world.cloud_run.service(SERVICE).etag != etag


def test_late_repeat_of_an_earlier_share_takes_nothing_back(world: World) -> None:
    for percent in (10, 50, 10):
        step(world, "shift", NAME, percent=percent)
    assert served(world) == {V1: 50, V2: 50}


def test_split_that_takes_its_time_is_waited_for(world: World) -> None:
    world.cloud_run.serves_after = 10
    step(world, "shift", NAME, percent=10)
    assert served(world) == {V1: 90, V2: 10}
    assert world.clock.slept_s


def test_split_that_is_not_served_in_time_may_be_tried_again(world: World) -> None:
    world.cloud_run.serves_after = 10_000
    with pytest.raises(TrafficNotApplied, match="reconcile completes it"):
        step(world, "shift", NAME, percent=10)
    record = world.state.deployment(NAME).steps[StepName.SWITCH_TRAFFIC.value]
    assert record.state is StepState.RUNNING
    world.cloud_run.serves_after = 0
    step(world, "shift", NAME, percent=10)
    assert served(world) == {V1: 90, V2: 10}


class Contended:
    """A Cloud Run in which somebody else writes right before each of our writes."""

    def __init__(self, world: World, times: int) -> None:
        self._world = world
        self.left = times

    def __getattr__(self, name: str) -> object:
        if name == "write_traffic" and self.left:
            self.left -= 1
            self._world.cloud_run.by_hand(SERVICE, {V1: 100})
        return getattr(self._world.cloud_run, name)


def test_conflict_starts_again_from_the_read(world: World) -> None:
    contended = Contended(world, 5)
    command = ShiftTraffic(deployment_id=NAME, execution="executions/2", percent=10)
    move(command, world.ports(cloud_run=contended))
    assert contended.left == 0
    assert served(world) == {V1: 90, V2: 10}


def test_conflicts_without_end_are_given_up_and_may_be_tried_again(world: World) -> None:
    contended = Contended(world, CONFLICTS_AT_MOST)
    command = ShiftTraffic(deployment_id=NAME, execution="executions/2", percent=10)
    with pytest.raises(TrafficNotApplied):
        move(command, world.ports(cloud_run=contended))


def test_candidate_that_was_not_checked_gets_nothing() -> None:
    world = new_world()
    roll_out(world, 1)
    publish(world, 2)
    advance(world, NAME, "create")
    with pytest.raises(Conflict, match="health check"):
        step(world, "shift", NAME, percent=10)
    assert served(world) == {V1: 100}


def test_cancelled_rollout_moves_nothing(world: World) -> None:
    stop(Cancel(deployment_id=NAME), "ops", world.ports())
    with pytest.raises(Superseded, match="leaves the traffic alone"):
        step(world, "shift", NAME, percent=10)
    assert served(world) == {V1: 100}


def test_rollout_that_a_rollback_overtook_between_two_stages_moves_nothing(world: World) -> None:
    step(world, "shift", NAME, percent=50)
    go_back(RollBack(model_id=MODEL), "ops", world.ports())
    with pytest.raises(Superseded):
        step(world, "shift", NAME, percent=100)
    assert served(world) == {V1: 100}


def test_another_execution_moves_nothing(world: World) -> None:
    with pytest.raises(Conflict, match="belongs to execution"):
        step(world, "shift", NAME, percent=10, execution="executions/other")
    assert served(world) == {V1: 100}
