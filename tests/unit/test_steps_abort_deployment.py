"""A rollout that failed: traffic back where it was, the reason kept, the next one started."""

from __future__ import annotations

import json
from typing import Any

import pytest

from functions.abort_deployment import reason_of, undo
from shared.domain.deployment import Status
from shared.domain.model import LockKind
from shared.errors import Conflict, TrafficNotApplied
from shared.messages import AbortDeployment
from tests.fakes import World
from tests.unit.stepping import (
    MODEL,
    SERVICE,
    V0,
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

PROBLEM = {"title": "The candidate is not healthy", "detail": "customer '15' got a NaN"}


def abort(world: World, name: str, error: Any = "why", execution: str = "") -> dict[str, Any]:
    execution = execution or execution_of(world, name)
    command = AbortDeployment(deployment_id=name, execution=execution, error=error)
    return undo(command, world.ports())


@pytest.fixture
def world() -> World:
    """v1 serves half of the traffic, v2 the other half."""
    made = new_world()
    roll_out(made, 1)
    publish(made, 2)
    advance(made, "movies-2-auto", "check")
    step(made, "shift", "movies-2-auto", percent=50)
    return made


def test_traffic_goes_back_and_the_lock_is_free(world: World) -> None:
    answer = abort(world, "movies-2-auto", {"code": 422, "body": json.dumps(PROBLEM)})
    assert answer == {"deployment_id": "movies-2-auto", "status": "failed"}
    assert served(world) == {V1: 100}
    failed = world.state.deployment("movies-2-auto")
    assert (failed.status, failed.reason) == (Status.FAILED, "customer '15' got a NaN")
    assert world.state.model(MODEL).lock is None
    assert world.state.model(MODEL).active == "movies-1-auto"


def test_first_deployment_goes_back_to_the_empty_v0() -> None:
    world = new_world()
    name = publish(world, 1)
    advance(world, name, "shift")
    abort(world, name)
    assert served(world) == {V0: 100}


def test_repeat_changes_nothing(world: World) -> None:
    abort(world, "movies-2-auto", "the first reason")
    before = world.state.model(MODEL), world.state.deployment("movies-2-auto")
    assert abort(world, "movies-2-auto", "another")["status"] == "failed"
    assert (world.state.model(MODEL), world.state.deployment("movies-2-auto")) == before


def test_abort_that_died_before_the_traffic_was_back_is_completed_by_a_repeat(
    world: World,
) -> None:
    world.cloud_run.serves_after = 10_000
    with pytest.raises(TrafficNotApplied):
        abort(world, "movies-2-auto")
    lock = world.state.model(MODEL).lock
    assert lock
    assert lock.kind is LockKind.ABORT
    world.cloud_run.serves_after = 0
    abort(world, "movies-2-auto")
    assert served(world) == {V1: 100}
    assert world.state.model(MODEL).lock is None


def test_run_that_waited_is_started_once_the_traffic_is_back(world: World) -> None:
    waiting = publish(world, 3)
    abort(world, "movies-2-auto")
    assert execution_of(world, waiting)
    advance(world, waiting)
    assert world.state.deployment(waiting).status is Status.ACTIVE


def test_finished_deployment_stays_active(world: World) -> None:
    step(world, "shift", "movies-2-auto", percent=100)
    step(world, "finish", "movies-2-auto")
    assert abort(world, "movies-2-auto")["status"] == "active"
    assert served(world) == {V2: 100}


def test_another_execution_cannot_abort_it(world: World) -> None:
    with pytest.raises(Conflict, match="belongs to execution"):
        abort(world, "movies-2-auto", execution="executions/other")
    assert world.state.deployment("movies-2-auto").status is Status.DEPLOYING
    assert served(world) == {V1: 50, V2: 50}


def test_execution_that_could_not_claim_aborts_unless_another_claims_meanwhile() -> None:
    world = new_world()
    name = publish(world, 1)
    claimed: list[str] = []

    def claim_meanwhile() -> None:
        if not claimed:
            claimed.append(name)
            step(world, "claim", name, execution="executions/second")

    world.state.before_commit = claim_meanwhile
    with pytest.raises(Conflict, match="executions/second"):
        abort(world, name)
    advance(world, "movies-1-auto", "claim")
    assert world.state.deployment(name).execution == "executions/second"
    assert world.state.deployment(name).status is Status.DEPLOYING


def test_unclaimed_deployment_ends_without_touching_the_traffic() -> None:
    world = new_world()
    name = publish(world, 1)
    etag = world.cloud_run.service(SERVICE).etag
    assert abort(world, name)["status"] == "failed"
    assert world.cloud_run.service(SERVICE).etag == etag
    assert world.state.model(MODEL).lock is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param({"body": json.dumps(PROBLEM)}, "customer '15' got a NaN", id="as text"),
        pytest.param({"body": PROBLEM}, "customer '15' got a NaN", id="as a map"),
        pytest.param({"body": "<html>", "message": "502"}, "<html>", id="a proxy's page"),
        pytest.param({"message": "timed out", "tags": ["TimeoutError"]}, "timed out", id="timeout"),
        pytest.param({"code": 7}, "{'code': 7}", id="nothing known"),
        pytest.param("in words", "in words", id="text"),
        pytest.param(None, "the workflow gave no reason", id="nothing"),
    ],
)
def test_reason_is_what_a_person_reads(error: Any, reason: str) -> None:
    assert reason_of(error) == reason


def test_long_reason_keeps_its_beginning_and_its_end() -> None:
    reason = reason_of("begin " + "x" * 10_000 + " end")
    assert len(reason) < 2100
    assert reason.startswith("begin")
    assert reason.endswith("end")
