"""Back to an earlier version at once: which one, and what becomes of all the others."""

from __future__ import annotations

from typing import Any

import pytest
from google.api_core.exceptions import ServiceUnavailable

from functions.abort_deployment import undo
from functions.roll_back import go_back
from shared.domain.deployment import Status
from shared.errors import Conflict, NotFound, NothingToRollBackTo, TrafficNotApplied
from shared.messages import AbortDeployment, RollBack
from tests.fakes import World
from tests.unit.stepping import (
    MODEL,
    SERVICE,
    V1,
    V2,
    V3,
    advance,
    execution_of,
    new_world,
    publish,
    roll_out,
    served,
    step,
)


def back(world: World, version: int | None = None, **ports: Any) -> dict[str, Any]:
    command = RollBack(model_id=MODEL, version=version, reason="bad answers")
    return go_back(command, "ops@example.com", world.ports(**ports))


def status(world: World, run: int) -> Status:
    return world.state.deployment(f"movies-{run}-auto").status


@pytest.fixture
def world() -> World:
    """v1 to v3 were rolled out; v3 serves."""
    made = new_world()
    for run in (1, 2, 3):
        roll_out(made, run)
        made.clock.sleep(60)
    return made


def test_without_a_version_it_is_the_one_before(world: World) -> None:
    assert back(world) == {
        "deployment_id": "movies-2-auto",
        "version": "v2",
        "traffic": {V2: 100},
    }
    assert served(world) == {V2: 100}
    assert [status(world, run) for run in (1, 2, 3)] == [
        Status.INACTIVE,
        Status.ACTIVE,
        Status.ROLLED_BACK,
    ]
    assert world.state.model(MODEL).lock is None
    event = world.state.events("movies-2-auto")[-1]
    assert (event.action, event.actor, event.reason) == (
        "rollback",
        "ops@example.com",
        "bad answers",
    )


def test_named_version_is_returned_to(world: World) -> None:
    back(world, 1)
    assert served(world) == {V1: 100}
    back(world, 3)
    assert served(world) == {V3: 100}
    assert status(world, 1) is Status.ROLLED_BACK


def test_during_a_rollout_the_live_version_is_restored_and_the_rollout_stops(
    world: World,
) -> None:
    name = publish(world, 4)
    advance(world, name, "check")
    step(world, "shift", name, percent=50)
    waiting = publish(world, 5)
    back(world)
    assert served(world) == {V3: 100}
    assert status(world, 3) is Status.ACTIVE
    for run in (4, 5):
        assert status(world, run) is Status.CANCELLED
    assert world.executions.cancelled == [execution_of(world, name)]
    assert waiting not in world.executions.deployments.values()


def test_during_an_abort_the_live_version_is_restored_and_not_the_one_before_it(
    world: World,
) -> None:
    name = publish(world, 4)
    advance(world, name, "check")
    step(world, "shift", name, percent=50)
    world.cloud_run.serves_after = 10_000
    with pytest.raises(TrafficNotApplied):
        step_abort(world, name)
    world.cloud_run.serves_after = 0
    assert back(world)["version"] == "v3"
    assert served(world) == {V3: 100}


def test_rollback_that_was_not_served_in_time_is_completed_by_asking_again(world: World) -> None:
    world.cloud_run.serves_after = 10_000
    with pytest.raises(TrafficNotApplied):
        back(world)
    world.cloud_run.serves_after = 0
    assert back(world)["version"] == "v2"
    assert served(world) == {V2: 100}
    assert status(world, 1) is Status.INACTIVE


def test_version_that_was_rolled_back_from_is_returned_to_only_by_name() -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    back(world)
    with pytest.raises(Conflict, match=r"\(v2\)"):
        back(world)
    assert back(world, 2)["version"] == "v2"


def test_first_version_has_nothing_before_it() -> None:
    world = new_world()
    roll_out(world, 1)
    with pytest.raises(NothingToRollBackTo):
        back(world)
    assert served(world) == {V1: 100}


def test_unknown_version_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="no version 9"):
        back(world, 9)


def test_version_that_never_served_is_refused(world: World) -> None:
    name = publish(world, 4)
    advance(world, name, "create")
    step_abort(world, name)
    with pytest.raises(Conflict, match="v4 is failed"):
        back(world, 4)
    assert served(world) == {V3: 100}


def test_version_whose_revision_is_gone_is_deployed_anew_instead(world: World) -> None:
    del world.cloud_run.services[SERVICE].revisions[V2]
    with pytest.raises(Conflict, match="publish run 2 again"):
        back(world)
    assert world.state.model(MODEL).lock is None
    assert served(world) == {V3: 100}


def test_version_whose_revision_fails_is_refused_before_anything_moves(world: World) -> None:
    world.cloud_run.services[SERVICE].revisions[V2].state = "failed"
    with pytest.raises(Conflict, match="v2 would not start"):
        back(world)
    assert status(world, 3) is Status.ACTIVE


def test_workflow_that_cannot_be_cancelled_does_not_hold_up_the_rollback(world: World) -> None:
    class Down:
        def cancel(self, _: str) -> None:
            raise ServiceUnavailable("down")  # type: ignore[no-untyped-call]

    name = publish(world, 4)
    advance(world, name, "check")
    assert back(world, executions=Down())["version"] == "v3"
    assert status(world, 4) is Status.CANCELLED


def step_abort(world: World, name: str) -> None:
    undo(
        AbortDeployment(deployment_id=name, execution=execution_of(world, name), error="why"),
        world.ports(),
    )
