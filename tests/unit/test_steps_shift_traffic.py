"""The candidate's next share: written under token and etag, believed when it is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.api_core.exceptions import InternalServerError, PermissionDenied

from functions.cancel import stop
from functions.roll_back import go_back
from functions.shift_traffic import move
from functions.steps import CONFLICTS_AT_MOST, apply_traffic, tries
from shared.domain.deployment import StepName, StepState
from shared.errors import Conflict, Refused, Superseded, TrafficNotApplied, Unavailable, told
from shared.messages import Cancel, RollBack, ShiftTraffic
from shared.ports import ServiceView
from tests.fakes import FakeRevision, World
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
    made.clock.slept_s.clear()
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


class Disturbed:
    """A Cloud Run where something comes before each of the first `times` writes of traffic."""

    def __init__(self, world: World, times: int, before: Callable[[], object]) -> None:
        self._world = world
        self._before = before
        self.left = times

    def __getattr__(self, name: str) -> object:
        if name == "write_traffic" and self.left:
            self.left -= 1
            self._before()
        return getattr(self._world.cloud_run, name)


def contended(world: World, times: int) -> Disturbed:
    """Somebody else writes right before each of our writes."""
    return Disturbed(world, times, lambda: world.cloud_run.by_hand(SERVICE, {V1: 100}))


def failing(world: World, times: int, error: Exception) -> Disturbed:
    """Each write meets this error."""

    def fail() -> None:
        raise error

    return Disturbed(world, times, fail)


def shift_10(world: World, cloud_run: object) -> None:
    command = ShiftTraffic(deployment_id=NAME, execution="executions/2", percent=10)
    move(command, world.ports(cloud_run=cloud_run))


def test_conflict_starts_again_from_the_read_a_little_later_each_time(world: World) -> None:
    disturbed = contended(world, 5)
    shift_10(world, disturbed)
    assert disturbed.left == 0
    assert served(world) == {V1: 90, V2: 10}
    assert len(world.clock.slept_s) == 5
    assert world.clock.slept_s == sorted(world.clock.slept_s)


def test_conflicts_without_end_are_given_up_and_may_be_tried_again(world: World) -> None:
    with pytest.raises(Unavailable, match=r"did not take the split .* has etag .* reconcile"):
        shift_10(world, contended(world, CONFLICTS_AT_MOST))
    assert sum(world.clock.slept_s) < 30
    step(world, "shift", NAME, percent=10)
    assert served(world) == {V1: 90, V2: 10}


def test_two_writers_do_not_pause_alike(world: World) -> None:
    pauses = []
    for token in (7, 8):
        world.clock.slept_s.clear()
        with pytest.raises(Unavailable):
            list(tries(SERVICE, "the split", token, world.ports()))
        pauses.append(list(world.clock.slept_s))
    assert not set(pauses[0]) & set(pauses[1])


@pytest.mark.parametrize(
    "error", [InternalServerError("broken"), PermissionDenied("no"), Refused("a policy")], ids=str
)
def test_write_that_fails_otherwise_says_that_what_is_wanted_is_recorded(
    world: World, error: Exception
) -> None:
    with pytest.raises(type(error)) as raised:
        shift_10(world, failing(world, 1, error))
    assert "recorded, and Cloud Run may not have it yet" in told(raised.value)
    assert "reconcile, completes it" in told(raised.value)


class Lagging:
    """A Cloud Run whose first reads after a write still show the service before it."""

    def __init__(self, world: World, reads: int) -> None:
        self._world = world
        self._lag = reads
        self._stale: list[ServiceView] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._world.cloud_run, name)

    def service(self, name: str) -> ServiceView:
        return self._stale.pop() if self._stale else self._world.cloud_run.service(name)

    def write_traffic(self, seen: ServiceView, *given: Any) -> None:
        self._stale = [self._world.cloud_run.service(seen.name)] * self._lag
        self._world.cloud_run.write_traffic(seen, *given)


def test_write_that_is_not_visible_yet_is_not_taken_for_overwritten(world: World) -> None:
    shift_10(world, Lagging(world, 3))
    assert served(world) == {V1: 90, V2: 10}
    assert len(world.clock.slept_s) == 3


class Overwriting(Lagging):
    """A Cloud Run where somebody writes right after each of our writes."""

    def write_traffic(self, seen: ServiceView, *given: Any) -> None:
        super().write_traffic(seen, *given)
        self._world.cloud_run.by_hand(SERVICE, {V1: 100})


def test_write_that_is_overwritten_is_not_waited_for(world: World) -> None:
    with pytest.raises(TrafficNotApplied):
        shift_10(world, Overwriting(world, 0))
    assert world.clock.slept_s == []


def tag_by_hand(world: World, tag: str, revision: str, state: str) -> None:
    """Deploy a revision under a tag, as `gcloud run deploy --no-traffic --tag` does."""
    service = world.cloud_run.services[SERVICE]
    service.revisions[revision] = FakeRevision(None, state)
    service.tags[tag] = revision
    world.cloud_run.by_hand(SERVICE, service.split)


@pytest.mark.parametrize("again", [False, True], ids=["its first one", "a later one"])
def test_tag_of_somebody_elses_failed_revision_does_not_keep_traffic_from_moving(
    world: World, again: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"ver-1": V1, "ver-2": V2}
    if again:
        tag_by_hand(world, "debug", "by-hand-1", "ready")
        kept["debug"] = "by-hand-1"
    tag_by_hand(world, "debug", "by-hand-2", "failed")
    step(world, "shift", NAME, percent=10)
    assert served(world) == {V1: 90, V2: 10}
    assert world.cloud_run.services[SERVICE].served_tags == kept
    assert '"tags not served"' in capsys.readouterr().out
    go_back(RollBack(model_id=MODEL), "ops", world.ports())
    assert served(world) == {V1: 100}
    assert dict(world.cloud_run.service(SERVICE).tags) == kept


def test_tag_of_somebody_else_that_is_served_stays(world: World) -> None:
    tag_by_hand(world, "debug", "by-hand-1", "ready")
    step(world, "shift", NAME, percent=10)
    assert dict(world.cloud_run.service(SERVICE).tags) == {
        "debug": "by-hand-1",
        "ver-1": V1,
        "ver-2": V2,
    }


def test_tag_that_is_not_served_in_time_is_named(world: World) -> None:
    world.cloud_run.serves_after = 10_000
    token = world.state.model(MODEL).token
    with pytest.raises(
        TrafficNotApplied, match=r"100 %, without the tag ver-9, with the tag ver-1"
    ):
        apply_traffic(SERVICE, MODEL, token, world.ports(), tags={"ver-9": V1}, dropped=["ver-1"])


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
