"""What died half-way is found, and completed or undone; what is alive is left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.api_core.exceptions import ServiceUnavailable
from pydantic import ValidationError

from functions.abort_deployment import undo
from functions.reconcile import UNCLAIMED_AFTER_S, repair, repair_all
from functions.roll_back import go_back
from shared.domain.deployment import Status
from shared.domain.model import Book, Lock, LockKind
from shared.errors import NotFound, TrafficNotApplied, Unavailable
from shared.messages import AbortDeployment, ModelDeclaration, Reconcile, RollBack
from tests.fakes import World
from tests.unit.crashing import dying
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


def actions(world: World, deployment_id: str) -> list[tuple[str, str]]:
    """Return what reconcile recorded of a deployment: action and reason."""
    events = world.state.events(deployment_id)
    return [(event.action, event.reason) for event in events if event.actor == "reconcile"]


def two_versions(**policy: Any) -> World:
    world = new_world(policy=policy)
    roll_out(world, 1)
    roll_out(world, 2)
    return world


BY_HAND = [
    pytest.param({V1: 100}, f"{V1} 100 % is served, {V2} 100 % is desired", id="another split"),
    pytest.param(
        {None: 100},
        f"{V2} 100 % is served, LATEST 100 % is written, {V2} 100 % is desired",
        id="LATEST, which is the same one today",
    ),
]


@pytest.mark.parametrize(("split", "found"), BY_HAND)
def test_drift_is_recorded_once_and_again_when_it_comes_again(
    split: dict[str | None, int], found: str
) -> None:
    world = two_versions()
    for times in (1, 2):
        world.cloud_run.by_hand(SERVICE, split)
        for _ in range(3):
            assert reconcile(world) == [f"drift, left as it is: {found}"]
            assert actions(world, NAME) == [("drift found", found)] * times
        world.cloud_run.by_hand(SERVICE, {V2: 100})
        assert reconcile(world) == []


@pytest.mark.parametrize(("split", "found"), BY_HAND)
def test_drift_is_put_back_under_a_new_token_where_the_policy_says_so(
    split: dict[str | None, int], found: str
) -> None:
    world = two_versions(drift="repair")
    token = world.state.model(MODEL).token
    world.cloud_run.by_hand(SERVICE, split)
    assert reconcile(world) == [f"drift, put back: {found}"]
    assert served(world) == {V2: 100}
    assert world.cloud_run.service(SERVICE).names_all
    assert actions(world, NAME) == [
        ("drift found", found),
        ("traffic put back", f"put back: {found}"),
    ]
    model = world.state.model(MODEL)
    assert (model.lock, model.token, model.active) == (None, token + 1, NAME)
    assert world.state.deployment(NAME).status is Status.ACTIVE
    assert reconcile(world) == []


@pytest.mark.parametrize("drift", ["repair", "report"])
def test_drift_of_a_model_whose_first_version_was_given_up_is_met_as_any(drift: str) -> None:
    world = new_world(policy={"drift": drift})
    first = publish(world, 1)
    advance(world, first, "create")
    undo(
        AbortDeployment(deployment_id=first, execution=execution_of(world, first), error="why"),
        world.ports(),
    )
    world.cloud_run.by_hand(SERVICE, {None: 100})
    done = {"repair": "put back", "report": "left as it is"}[drift]
    [finding] = reconcile(world)
    assert finding.startswith(f"drift, {done}: {V1} 100 % is served, LATEST 100 % is written")
    recorded = ["drift found"] + ["traffic put back"] * (drift == "repair")
    assert [action for action, _ in actions(world, first)] == recorded
    assert world.cloud_run.service(SERVICE).names_all is (drift == "repair")
    assert world.state.model(MODEL).lock is None


def test_spec_that_is_not_served_is_drift_too() -> None:
    world = two_versions()
    world.cloud_run.by_hand(SERVICE, {V1: 100})
    world.cloud_run.serves_after = 10_000
    world.cloud_run.by_hand(SERVICE, {V2: 100})
    assert reconcile(world) == [
        f"drift, left as it is: {V1} 100 % is served, {V2} 100 % is desired and written"
    ]


def test_drift_during_a_rollout_is_left_to_the_rollout() -> None:
    world = two_versions(drift="repair")
    publish(world, 3)
    world.cloud_run.by_hand(SERVICE, {V1: 100})
    assert reconcile(world) == []
    assert served(world) == {V1: 100}


@pytest.mark.parametrize("drift", ["repair", "report"])
def test_drift_that_an_ended_rollout_gave_back_is_still_said(drift: str) -> None:
    world = two_versions(drift=drift)
    world.cloud_run.by_hand(SERVICE, {V1: 100})
    name = publish(world, 3)
    advance(world, name, "check")
    undo(AbortDeployment(deployment_id=name, execution=execution_of(world, name)), world.ports())
    assert served(world) == {V1: 100}
    [said] = reconcile(world)
    assert said.startswith(f"drift, left as it is: {V1} 100 % is served and desired, and v2 is")
    assert reconcile(world) == [said]
    assert actions(world, NAME).count(("drift found", said.partition(": ")[2])) == 1
    go_back(RollBack(model_id=MODEL, version=1), "ops", world.ports())
    assert reconcile(world) == []


def test_rollout_that_begins_while_drift_is_looked_at_is_left_alone() -> None:
    world = two_versions(drift="repair")
    world.cloud_run.by_hand(SERVICE, {V1: 100})

    class Slow:
        """While the service is read, a rollout begins."""

        def __getattr__(self, name: str) -> object:
            return getattr(world.cloud_run, name)

        def service(self, name: str) -> object:
            if world.state.model(MODEL).lock is None:
                publish(world, 3)
            return world.cloud_run.service(name)

    assert repair(MODEL, world.ports(cloud_run=Slow())) == []
    assert served(world) == {V1: 100}
    assert world.state.model(MODEL).lock is not None


@pytest.mark.parametrize("split", [{V1: 100}, {None: 100}])
def test_repair_of_drift_that_dies_anywhere_is_completed(split: dict[str | None, int]) -> None:
    def drifted() -> World:
        world = two_versions(drift="repair")
        world.cloud_run.by_hand(SERVICE, split)
        return world

    for world in dying(drifted, lambda ports: repair(MODEL, ports)):
        reconcile(world)
        assert served(world) == {V2: 100}
        assert reconcile(world) == []


# Documents that disagree


def half(world: World) -> None:
    """v3 rolls out and has half of the traffic; v4 waits."""
    publish(world, 3)
    advance(world, "movies-3-auto", "check")
    step(world, "shift", "movies-3-auto", percent=50)
    publish(world, 4)


def write(world: World, **fields: Any) -> None:
    """Damage the model's document."""

    def move(book: Book) -> None:
        book.model = replace(book.model, **fields)

    world.state.change(MODEL, move)


def put(world: World, deployment_id: str, **fields: Any) -> None:
    """Damage a deployment's document."""
    world.state.change(
        MODEL, lambda book: book.put(replace(book.deployment(deployment_id), **fields))
    )


@pytest.mark.parametrize("owner", ["gone", "failed", "active"])
def test_lock_without_its_rollout_is_taken_and_the_active_version_served(owner: str) -> None:
    world = two_versions()
    half(world)
    if owner == "gone":
        lock = world.state.model(MODEL).lock
        assert lock
        write(world, lock=replace(lock, deployment_id="movies-9-auto"))
        put(world, "movies-3-auto", status=Status.CANCELLED)
    else:
        put(world, "movies-3-auto", status=Status.FAILED)
        if owner == "active":
            put(world, "movies-3-auto", status=Status.INACTIVE, deployed_at=world.clock.now())
    found = reconcile(world)
    assert found[0].startswith("took the lock from movies-")
    assert served(world) == {V2: 100}
    assert any("took the lock" in reason for _, reason in actions(world, "movies-3-auto")) or (
        any("took the lock" in reason for _, reason in actions(world, NAME))
    )
    # The run that waited has its turn.
    advance(world, "movies-4-auto")
    assert served(world) == {f"{SERVICE}-v4-1": 100}
    assert reconcile(world) == []


def test_rollout_without_the_lock_fails_with_the_reason() -> None:
    world = two_versions()
    publish(world, 3)
    write(world, lock=None)
    assert reconcile(world)[0].startswith("ended movies-3-auto: it rolled out without holding")
    failed = world.state.deployment("movies-3-auto")
    assert failed.status is Status.FAILED
    assert actions(world, "movies-3-auto")
    assert reconcile(world) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"waiting": "movies-1-auto"}, id="to one that has ended"),
        pytest.param({"waiting": "movies-9-auto"}, id="to one that is gone"),
        pytest.param({"waiting": None}, id="lost"),
    ],
)
def test_waiting_pointer_is_mended_and_the_run_that_waits_has_its_turn(
    damage: dict[str, Any],
) -> None:
    world = two_versions()
    half(world)
    write(world, **damage)
    assert reconcile(world)[0].startswith("movies-4-auto waits, where ")
    assert world.state.model(MODEL).waiting == "movies-4-auto"
    assert actions(world, "movies-4-auto")
    step(world, "shift", "movies-3-auto", percent=100)
    step(world, "finish", "movies-3-auto")
    advance(world, "movies-4-auto")
    assert reconcile(world) == []


def test_pointer_to_nothing_is_cleared() -> None:
    world = two_versions()
    write(world, waiting="movies-1-auto")
    assert reconcile(world) == ["nothing waits, where movies-1-auto did"]
    assert world.state.model(MODEL).waiting is None
    assert reconcile(world) == []


def test_run_that_waits_for_a_free_lock_has_its_turn() -> None:
    world = two_versions()
    half(world)
    put(world, "movies-3-auto", status=Status.CANCELLED)
    write(world, lock=None, desired={V2: 100})
    assert "gave movies-4-auto its turn: the lock was free" in reconcile(world)
    world.clock.sleep(UNCLAIMED_AFTER_S)
    assert "no execution had claimed it" in reconcile(world)[0]
    advance(world, "movies-4-auto")
    assert served(world) == {f"{SERVICE}-v4-1": 100}


def test_of_several_that_wait_without_a_pointer_the_newest_stays() -> None:
    world = two_versions()
    half(world)
    five = replace(
        world.state.deployment("movies-4-auto"), id="movies-5-auto", version=9, training_run=5
    )
    world.state.change(MODEL, lambda book: book.put(five))
    reconcile(world)
    assert world.state.model(MODEL).waiting == "movies-5-auto"
    assert world.state.deployment("movies-4-auto").status is Status.CANCELLED


@pytest.mark.parametrize("kind", [LockKind.ABORT, LockKind.ROLLBACK, LockKind.UPKEEP])
def test_lock_of_a_deployment_that_is_gone_is_completed_all_the_same(kind: LockKind) -> None:
    world = two_versions()
    token = world.state.model(MODEL).token + 1
    write(world, token=token, lock=Lock(kind, "movies-9-auto", token, world.clock.now()))
    assert reconcile(world) == [f"completed the {kind} of movies-9-auto"]
    assert world.state.model(MODEL).lock is None
    assert reconcile(world) == []


def test_every_repair_is_recorded_by_who_and_why(world: World) -> None:
    fresh = new_world()
    name = publish(fresh, 1)
    fresh.clock.sleep(UNCLAIMED_AFTER_S)
    reconcile(fresh)
    assert actions(fresh, name) == [
        ("repaired", f"started {name} again: no execution had claimed it")
    ]
    world.cloud_run.serves_after = 10_000
    command = AbortDeployment(deployment_id=NAME, execution=execution_of(world, NAME), error="why")
    with pytest.raises(TrafficNotApplied):
        undo(command, world.ports())
    world.cloud_run.serves_after = 0
    reconcile(world)
    assert actions(world, NAME) == [("repaired", f"completed the abort of {NAME}")]


def test_declaration_that_cannot_be_read_keeps_no_abort_half_way(world: World) -> None:
    class Malformed:
        def __getattr__(self, name: str) -> object:
            return getattr(world.state, name)

        def declaration(self, _: str) -> ModelDeclaration | None:
            raise ValidationError.from_exception_data("ModelDeclaration", [])

    world.executions.end(execution_of(world, NAME), "FAILED")
    assert repair(MODEL, world.ports(state=Malformed()))[0].startswith(f"aborted {NAME}")
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
