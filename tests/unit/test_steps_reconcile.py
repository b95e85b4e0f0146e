"""What died half-way is found, and completed or undone; what is alive is left alone."""

from __future__ import annotations

import json

import pytest
from google.api_core.exceptions import ServiceUnavailable
from pydantic import ValidationError

from functions.abort_deployment import undo
from functions.reconcile import UNCLAIMED_AFTER_S, repair, repair_all
from functions.roll_back import go_back
from shared.domain.deployment import Status
from shared.errors import NotFound, TrafficNotApplied, Unavailable
from shared.messages import AbortDeployment, ModelDeclaration, Reconcile, RollBack
from tests.fakes import World
from tests.unit.stepping import (
    MODEL,
    SERVICE,
    V1,
    V2,
    advance,
    declaration,
    execution_of,
    new_world,
    publish,
    roll_out,
    served,
    step,
)

NAME = "movies-2-auto"


@pytest.fixture
def world() -> World:
    """v1 serves half of the traffic, v2 the other half."""
    made = new_world()
    roll_out(made, 1)
    publish(made, 2)
    advance(made, NAME, "check")
    step(made, "shift", NAME, percent=50)
    return made


def reconcile(world: World) -> list[str]:
    return repair(MODEL, world.ports())


def test_model_at_rest_and_rollout_that_runs_are_left_alone(world: World) -> None:
    assert reconcile(world) == []
    assert served(world) == {V1: 50, V2: 50}
    assert reconcile(new_world()) == []


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "SUCCEEDED", "GONE"])
def test_rollout_whose_execution_ended_is_aborted_with_the_reason(world: World, state: str) -> None:
    execution = execution_of(world, NAME)
    if state == "GONE":
        del world.executions.states[execution]
    else:
        world.executions.end(execution, state, "out of memory")
    [finding] = reconcile(world)
    assert finding.startswith(f"aborted {NAME}")
    failed = world.state.deployment(NAME)
    assert failed.status is Status.FAILED
    assert state in failed.reason
    assert served(world) == {V1: 100}
    assert world.state.events(NAME)[-1].actor == "reconcile"
    assert reconcile(world) == []


@pytest.mark.parametrize("state", ["ACTIVE", "QUEUED", "UNAVAILABLE"])
def test_execution_that_may_still_go_on_is_waited_for(world: World, state: str) -> None:
    world.executions.end(execution_of(world, NAME), state)
    assert reconcile(world) == []


def test_lock_that_nobody_claimed_gets_another_execution_after_a_while() -> None:
    world = new_world()
    name = publish(world, 1)
    world.clock.sleep(UNCLAIMED_AFTER_S - 1)
    assert reconcile(world) == []
    world.clock.sleep(1)
    assert "no execution had claimed it" in reconcile(world)[0]
    assert list(world.executions.deployments.values()) == [name, name]
    step(world, "claim", name, execution="executions/2")
    assert reconcile(world) == []


def test_abort_that_stopped_before_the_traffic_was_back_is_completed(world: World) -> None:
    world.cloud_run.serves_after = 10_000
    command = AbortDeployment(deployment_id=NAME, execution=execution_of(world, NAME), error="why")
    with pytest.raises(TrafficNotApplied):
        undo(command, world.ports())
    world.cloud_run.serves_after = 0
    assert reconcile(world) == [f"completed the abort of {NAME}"]
    assert served(world) == {V1: 100}
    assert world.state.model(MODEL).lock is None


def test_rollback_that_stopped_before_the_traffic_moved_is_completed() -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    waiting = publish(world, 3)
    world.cloud_run.serves_after = 10_000
    with pytest.raises(TrafficNotApplied):
        go_back(RollBack(model_id=MODEL, version=1), "ops", world.ports())
    world.cloud_run.serves_after = 0
    assert reconcile(world) == ["completed the rollback of movies-1-auto"]
    assert served(world) == {V1: 100}
    assert world.state.deployment(waiting).status is Status.CANCELLED


def test_drift_while_nothing_runs_is_reported_and_left() -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    world.cloud_run.by_hand(SERVICE, {V1: 100})
    [finding] = reconcile(world)
    assert finding == f"drift, left as it is: {V1} 100 % is served, {V2} 100 % is desired"
    assert served(world) == {V1: 100}


def test_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound):
        repair("books", new_world().ports())


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Unavailable("not now"), id="of the pipeline"),
        pytest.param(ServiceUnavailable("no route"), id="of Google"),
        pytest.param(ValidationError.from_exception_data("ModelDeclaration", []), id="malformed"),
    ],
)
def test_model_that_cannot_be_repaired_keeps_no_other_waiting_and_fails_the_call(
    world: World, fault: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    class Faulty:
        """One model cannot be read."""

        def __getattr__(self, name: str) -> object:
            return getattr(world.state, name)

        def declaration(self, model_id: str) -> ModelDeclaration | None:
            if model_id == "books":
                raise fault
            return world.state.declaration(model_id)

    for model_id in ("books", "zines"):
        world.state.declare(declaration(model_id=model_id))
        world.cloud_run.declare(f"model-serving-{model_id}")
    world.executions.end(execution_of(world, NAME), "FAILED")
    with pytest.raises(Unavailable, match=r"^books could not be repaired: [^;]+$"):
        repair_all(Reconcile(), world.ports(state=Faulty()))
    assert served(world) == {V1: 100}
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {line["message"]: line["model_id"] for line in logged if "model_id" in line}
    assert found["repair failed"] == "books"
    assert found["reconcile found"] == MODEL


def test_one_model_alone_can_be_asked_for(world: World) -> None:
    world.state.declare(declaration(model_id="books"))
    assert repair_all(Reconcile(model_id=MODEL), world.ports()) == {"findings": {}}


def test_unknown_model_that_is_asked_for_alone_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="books"):
        repair_all(Reconcile(model_id="books"), world.ports())
