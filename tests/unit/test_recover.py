"""Documents that were restored to an earlier time, or lost, are told again from Cloud Run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from functions.abort_deployment import undo
from functions.on_training_completed import receive
from functions.reconcile import repair
from functions.recover import Recovery, recover
from functions.roll_back import go_back
from shared.domain.deployment import CAN_BE_RETURNED_TO, Deployment, Status
from shared.domain.marks import lived_of, metrics_of, token_of
from shared.domain.model import Model, previous
from shared.errors import Conflict, NotFound, PipelineError, StateIsOlder, TrafficNotApplied
from shared.messages import AbortDeployment, RollBack
from tests.fakes import World
from tests.unit.crashing import dying
from tests.unit.stepping import (
    MODEL,
    NOW,
    SERVICE,
    V0,
    V1,
    V2,
    V3,
    advance,
    execution_of,
    message,
    new_world,
    publish,
    roll_out,
    served,
    step,
)

WHO = "ops@example.com"
V4 = f"{SERVICE}-v4-1"


def do(world: World, dry_run: bool = False) -> Recovery:
    return recover(MODEL, WHO, world.ports(), dry_run)


def restored(world: World, into_another: bool = True) -> World:
    """Deploy v1 and v2, export, go on to v4 by way of a rollback, and bring the export back."""
    roll_out(world, 1)
    roll_out(world, 2)
    exported = world.state.export()
    roll_out(world, 3)
    go_back(RollBack(model_id=MODEL), WHO, world.ports())
    roll_out(world, 4)
    world.state.restore(exported, into_another)
    return world


def statuses(world: World) -> dict[str, str]:
    return {one.id: one.status.value for one in world.state.deployments(MODEL)}


def documents(world: World) -> dict[Any, Any]:
    return world.state.export()


# Nothing moves by documents that are older than the service


def test_message_waits_for_the_recovery_and_is_not_decided_before() -> None:
    world = restored(new_world())
    with pytest.raises(StateIsOlder, match="turnout recover movies"):
        publish(world, 5)
    assert (world.state.run("movies-5") or {}).get("decisions") is None
    do(world)
    receive(message(5), "message-5", world.ports())
    advance(world, "movies-5-auto")
    assert served(world) == {f"{SERVICE}-v5-1": 100}


@pytest.mark.parametrize("drift", ["report", "repair"])
def test_reconcile_leaves_traffic_where_newer_documents_had_put_it(drift: str) -> None:
    world = restored(new_world(policy={"drift": drift, "canary": {"judge": "off"}}))
    before = documents(world)
    with pytest.raises(StateIsOlder):
        repair(MODEL, world.ports())
    assert served(world) == {V4: 100}
    assert documents(world) == before


def test_rollback_is_refused_before_any_status_moves() -> None:
    world = restored(new_world())
    before = documents(world)
    with pytest.raises(StateIsOlder):
        go_back(RollBack(model_id=MODEL), WHO, world.ports())
    assert documents(world) == before


def test_rollout_that_newer_documents_had_ended_can_move_nothing() -> None:
    world = new_world()
    roll_out(world, 1)
    name = publish(world, 2)
    advance(world, name, "check")
    exported = world.state.export()
    step(world, "shift", name, percent=50)
    command = AbortDeployment(deployment_id=name, execution=execution_of(world, name), error="why")
    undo(command, world.ports())
    roll_out(world, 3)
    world.state.restore(exported)
    for act in (
        lambda: step(world, "shift", name, percent=50),
        lambda: undo(command, world.ports()),
        lambda: repair(MODEL, world.ports()),
    ):
        with pytest.raises(PipelineError):
            act()
        assert served(world) == {V3: 100}
    do(world)
    assert repair(MODEL, world.ports()) == []
    assert statuses(world)[name] == "failed"


@pytest.mark.parametrize("until", ["claim", "copy", "create", "check", "shift"])
def test_rollout_that_went_live_under_its_only_token_is_not_aborted(until: str) -> None:
    world = new_world()
    roll_out(world, 1)
    name = publish(world, 2)
    advance(world, name, until)
    exported = world.state.export()
    for left in list(STEPS_AFTER[until]):
        step(world, left, name, **({"percent": 100} if left == "shift" else {}))
    world.executions.end(execution_of(world, name), "SUCCEEDED")
    world.state.restore(exported)
    with pytest.raises(StateIsOlder, match="its execution succeeded"):
        repair(MODEL, world.ports())
    assert served(world) == {V2: 100}
    do(world)
    assert statuses(world) == {name: "active", "movies-1-auto": "inactive"}
    assert world.state.deployment(name).artifact_digest
    assert served(world) == {V2: 100}
    assert repair(MODEL, world.ports()) == []


STEPS_AFTER: Mapping[str, tuple[str, ...]] = {
    "claim": ("copy", "prepare", "create", "check", "shift", "finish"),
    "copy": ("prepare", "create", "check", "shift", "finish"),
    "create": ("check", "shift", "finish"),
    "check": ("shift", "finish"),
    "shift": ("finish",),
}


def test_execution_that_comes_late_claims_nothing() -> None:
    world = new_world()
    roll_out(world, 1)
    name = publish(world, 2)
    exported = world.state.export()
    advance(world, name)
    roll_out(world, 3)
    world.state.restore(exported)
    with pytest.raises(StateIsOlder):
        step(world, "claim", name)
    assert documents(world) == exported


# What a recovery makes of them


@pytest.mark.parametrize("into_another", [True, False], ids=["restored", "imported over"])
def test_documents_follow_what_is_served(into_another: bool) -> None:
    world = restored(new_world(), into_another)
    wrote: list[Mapping[str, int]] = []
    world.cloud_run.wrote = lambda _, split: wrote.append(dict(split))
    found = do(world)
    assert statuses(world) == {
        "movies-1-auto": "inactive",
        "movies-2-auto": "inactive",
        "movies-3-auto": "rolled_back",
        "movies-4-auto": "active",
    }
    model = world.state.model(MODEL)
    assert (model.active, model.desired, model.lock) == ("movies-4-auto", {V4: 100}, None)
    assert (model.next_version, found.traffic) == (5, f"{V4} 100 %")
    assert wrote == [{V4: 100}]
    assert world.cloud_run.service(SERVICE).token == model.token
    world.clock.sleep(60)
    roll_out(world, 5)
    assert world.state.deployment("movies-5-auto").version == 5
    go_back(RollBack(model_id=MODEL), WHO, world.ports())
    go_back(RollBack(model_id=MODEL), WHO, world.ports())
    assert served(world) == {V2: 100}


def test_each_correction_is_recorded_by_who_and_why() -> None:
    world = restored(new_world())
    do(world)
    [event] = world.state.events("movies-4-auto")[-1:]
    assert (event.actor, event.action) == (WHO, "recovered")
    assert (event.before, event.after) == ("", "active")
    assert event.traffic == {V4: 100}
    [event] = [one for one in world.state.events("movies-2-auto") if one.action == "corrected"]
    assert (event.before, event.after) == ("active", "inactive")


def test_recovery_is_recorded_also_where_only_the_token_was_behind() -> None:
    world = new_world()
    roll_out(world, 1)
    exported = world.state.export()
    go_back(RollBack(model_id=MODEL, version=1), WHO, world.ports())
    world.state.restore(exported)
    do(world)
    assert world.state.events("movies-1-auto")[-1].action == "recovered"
    assert statuses(world) == {"movies-1-auto": "active"}


def test_message_of_a_lost_deployment_finds_it_again() -> None:
    world = restored(new_world())
    do(world)
    receive(message(4, {"when": "always"}), "again", world.ports())
    assert world.state.model(MODEL).lock is None
    assert served(world) == {V4: 100}


def test_dry_run_says_the_same_and_writes_nothing() -> None:
    world = restored(new_world())
    before = documents(world)
    would = do(world, dry_run=True)
    assert documents(world) == before
    assert would.done
    assert do(world).done == would.done


def test_run_that_waited_is_ended_with_what_to_do() -> None:
    world = new_world()
    roll_out(world, 1)
    first = publish(world, 2)
    waiting = publish(world, 3)
    exported = world.state.export()
    advance(world, first)
    advance(world, waiting)
    roll_out(world, 4)
    world.state.restore(exported)
    do(world)
    assert statuses(world) == {
        "movies-1-auto": "inactive",
        first: "inactive",
        waiting: "inactive",
        "movies-4-auto": "active",
    }


def test_failed_canary_that_documents_no_longer_know_is_never_returned_to() -> None:
    world = new_world()
    roll_out(world, 1)
    exported = world.state.export()
    name = publish(world, 2)
    advance(world, name, "check")
    step(world, "shift", name, percent=50)
    command = AbortDeployment(deployment_id=name, execution=execution_of(world, name), error="why")
    undo(command, world.ports())
    roll_out(world, 3)
    world.state.restore(exported)
    do(world)
    assert statuses(world)[name] == "failed"
    go_back(RollBack(model_id=MODEL), WHO, world.ports())
    assert served(world) == {V1: 100}
    with pytest.raises(Conflict):
        go_back(RollBack(model_id=MODEL, version=2), WHO, world.ports())


def test_traffic_that_is_shared_stays_shared_for_a_person_to_decide() -> None:
    world = new_world()
    roll_out(world, 1)
    exported = world.state.export()
    name = publish(world, 2)
    advance(world, name, "check")
    step(world, "shift", name, percent=30)
    world.state.restore(exported)
    found = do(world)
    assert served(world) == {V1: 70, V2: 30}
    assert "roll back to the one that should have all" in found.done[-1]
    assert statuses(world) == {"movies-1-auto": "active", name: "inactive"}
    [said] = repair(MODEL, world.ports())
    assert "v1 is the live version by the documents: roll back to the one" in said
    with pytest.raises(PipelineError):
        step(world, "shift", name, percent=100)
    go_back(RollBack(model_id=MODEL, version=2), WHO, world.ports())
    assert served(world) == {V2: 100}


def test_revision_made_by_hand_that_serves_is_not_adopted() -> None:
    world = restored(new_world())
    by_hand = f"{SERVICE}-00042-abc"
    world.cloud_run.services[SERVICE].revisions[by_hand] = world.cloud_run.services[
        SERVICE
    ].revisions[V4]
    world.cloud_run.by_hand(SERVICE, {by_hand: 100})
    with pytest.raises(Conflict, match="00042-abc"):
        do(world)
    world.cloud_run.by_hand(SERVICE, {V4: 100})
    do(world)
    assert statuses(world)["movies-4-auto"] == "active"


def test_cleared_revisions_and_artifacts_are_marked() -> None:
    world = restored(new_world())
    service = world.cloud_run.services[SERVICE]
    service.tags = {tag: name for tag, name in service.tags.items() if name != V1}
    del service.revisions[V1]
    for stored in world.objects.list("serving", f"models/{MODEL}/v1/"):
        world.objects.remove("serving", stored.name)
    do(world)
    first = world.state.deployment("movies-1-auto")
    assert (first.revision_gone, first.artifacts_gone) == (True, True)
    assert not world.state.deployment("movies-2-auto").revision_gone


def test_version_of_which_only_artifacts_are_left_is_not_given_again() -> None:
    world = new_world()
    roll_out(world, 1)
    exported = world.state.export()
    name = publish(world, 2)
    advance(world, name, "copy")
    undo(
        AbortDeployment(deployment_id=name, execution=execution_of(world, name), error="why"),
        world.ports(),
    )
    world.state.restore(exported)
    do(world)
    assert world.state.deployment(roll_out(world, 3)).version == 3


def test_model_that_is_well_is_left_as_it_is() -> None:
    world = new_world()
    assert do(world).done == []
    roll_out(world, 1)
    publish(world, 2)
    advance(world, "movies-2-auto", "check")
    before, etag = documents(world), world.cloud_run.services[SERVICE].etag
    assert do(world).done == []
    assert documents(world) == before
    assert world.cloud_run.services[SERVICE].etag == etag


def test_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound, match="apply Terraform"):
        recover("books", WHO, new_world().ports())


# Everything lost


def facts_of(one: Deployment) -> Deployment:
    """Return a deployment without what only its documents knew."""
    return replace(
        one,
        created_at=NOW,
        deployed_at=None,
        deactivated_at=None,
        execution="",
        token=None,
        reason="",
        steps={},
        snapshot={},
        trace="",
        skew={},
        stage_started_at=None,
        prepare_execution="",
        prepared_customers=None,
        better_than=None,
    )


def test_all_is_told_from_revisions_and_artifacts() -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    roll_out(world, 3)
    before = {one.id: one for one in world.state.deployments(MODEL)}
    token = world.state.model(MODEL).token
    world.state.restore({})
    do(world)
    model = world.state.model(MODEL)
    assert (model.active, model.next_version, model.token) == ("movies-3-auto", 4, token + 1)
    for one in world.state.deployments(MODEL):
        assert facts_of(one) == facts_of(before[one.id])
    assert repair(MODEL, world.ports()) == []
    go_back(RollBack(model_id=MODEL), WHO, world.ports())
    assert served(world) == {V2: 100}
    roll_out(world, 4)
    assert served(world) == {V4: 100}


def without(world: World, *ids: str) -> None:
    """Lose some deployments, and nothing else."""
    kept = {path: found for path, found in documents(world).items() if path[1] not in ids}
    world.state.restore(kept)


@pytest.mark.parametrize("lost", [("movies-1-auto",), ("movies-2-auto",), (V1,)])
def test_deployments_that_are_lost_alone_are_made_anew(lost: tuple[str, ...]) -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    before = statuses(world)
    without(world, *lost)
    found = do(world)
    assert bool(found.done) is (lost != (V1,))
    assert statuses(world) == before == {"movies-1-auto": "inactive", "movies-2-auto": "active"}
    assert served(world) == {V2: 100}
    assert do(world).done == repair(MODEL, world.ports()) == []


def test_deployment_lost_during_a_rollout_waits_for_its_end() -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    name = publish(world, 3)
    advance(world, name, "check")
    without(world, "movies-1-auto")
    with pytest.raises(Conflict, match="movies-1-auto have no documents"):
        do(world)
    step(world, "shift", name, percent=100)
    step(world, "finish", name)
    do(world)
    assert statuses(world) == {
        "movies-1-auto": "inactive",
        "movies-2-auto": "inactive",
        name: "active",
    }


def test_recovery_of_what_somebody_changed_since_it_looked_is_refused() -> None:
    world = restored(new_world())
    others = iter([lambda: do(world)])

    class Slow:
        """While the bucket is looked at, somebody else recovers the model."""

        def __getattr__(self, name: str) -> Any:
            if name == "list":
                next(others, lambda: None)()
            return getattr(world.objects, name)

    with pytest.raises(Conflict, match="recover again"):
        recover(MODEL, WHO, world.ports(objects=Slow()))
    assert repair(MODEL, world.ports()) == []
    assert served(world) == {V4: 100}


def test_version_that_brought_another_back_is_told_as_that() -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    del world.cloud_run.services[SERVICE].revisions[V1]
    world.cloud_run.services[SERVICE].tags.pop("ver-1")
    made = go_back(RollBack(model_id=MODEL, version=1), WHO, world.ports())["deployment_id"]
    advance(world, made)
    world.state.restore({})
    do(world)
    back = world.state.deployment(made)
    assert (back.redeploys, back.status, back.version) == (1, Status.ACTIVE, 3)
    assert world.state.deployment("movies-2-auto").status is Status.ROLLED_BACK


def test_revisions_of_an_earlier_release_carry_no_marks_and_are_told_all_the_same() -> None:
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    service = world.cloud_run.services[SERVICE]
    service.annotations.pop("turnout/versions-that-lived")
    world.state.restore({})
    do(world)
    assert statuses(world) == {"movies-1-auto": "failed", "movies-2-auto": "active"}
    assert metrics_of({}) == metrics_of({"turnout/metrics": "["}) == {}
    assert token_of({"turnout/fencing-token": "by hand"}) == 0


# A service lost


def lost(world: World) -> World:
    """v2 is active, and its service was deleted; Terraform made it anew."""
    roll_out(world, 1)
    roll_out(world, 2)
    world.cloud_run.declare(SERVICE)
    return world


def test_active_version_of_a_lost_service_is_deployed_from_its_kept_artifacts() -> None:
    world = lost(new_world())
    assert do(world, dry_run=True).done == ["v2 is deployed again from its kept artifacts"]
    first = do(world)
    again = do(world)
    assert "deploys its kept artifacts again" in first.done[0]
    assert again.found == first.found
    [name] = [one.id for one in world.state.deploying(MODEL)]
    advance(world, name)
    assert served(world) == {V3: 100}
    assert statuses(world)["movies-2-auto"] == "inactive"
    assert do(world).done == []
    assert repair(MODEL, world.ports()) == []
    made = go_back(RollBack(model_id=MODEL, version=1), WHO, world.ports())["deployment_id"]
    advance(world, made)
    assert served(world) == {V4: 100}


def test_rollout_that_was_under_way_as_the_service_went_keeps_nothing_waiting() -> None:
    world = new_world()
    roll_out(world, 1)
    name = publish(world, 2)
    advance(world, name, "check")
    world.cloud_run.declare(SERVICE)
    do(world)
    assert statuses(world)[name] == "cancelled"
    [back] = [one.id for one in world.state.deploying(MODEL)]
    advance(world, back)
    assert served(world) == {V3: 100}
    assert world.state.deployment(back).redeploys == 1


def test_abort_that_was_half_way_as_the_service_went_wants_what_is_gone_no_more() -> None:
    world = new_world()
    roll_out(world, 1)
    name = publish(world, 2)
    advance(world, name, "check")
    step(world, "shift", name, percent=50)
    world.cloud_run.serves_after = 10_000
    command = AbortDeployment(deployment_id=name, execution=execution_of(world, name), error="why")
    with pytest.raises(TrafficNotApplied):
        undo(command, world.ports())
    world.cloud_run.serves_after = 0
    world.cloud_run.declare(SERVICE)
    do(world)
    [back] = [one.id for one in world.state.deploying(MODEL)]
    advance(world, back)
    assert served(world) == {V3: 100}
    assert repair(MODEL, world.ports()) == []


def test_service_that_is_not_there_at_all_is_asked_for() -> None:
    world = lost(new_world())
    del world.cloud_run.services[SERVICE]
    with pytest.raises(NotFound):
        do(world)


# Whatever happened, and whatever dies


@pytest.mark.parametrize("into_another", [True, False], ids=["restored", "imported over"])
def test_recovery_that_dies_anywhere_is_completed_by_another(into_another: bool) -> None:
    made = dying(
        lambda: restored(new_world(), into_another), lambda ports: recover(MODEL, WHO, ports)
    )
    for world in made:
        do(world)
        assert served(world) == {V4: 100}
        assert world.state.model(MODEL).lock is None
        assert statuses(world)["movies-4-auto"] == "active"
        assert repair(MODEL, world.ports()) == []


def test_recovery_of_a_lost_service_that_dies_anywhere_is_completed_by_another() -> None:
    for world in dying(lambda: lost(new_world()), lambda ports: recover(MODEL, WHO, ports)):
        do(world)
        [name] = [one.id for one in world.state.deploying(MODEL)]
        world.clock.sleep(600)
        repair(MODEL, world.ports())
        advance(world, name)
        assert served(world) == {V3: 100}


Move = Callable[[World, int], None]


def fails(world: World, run: int) -> None:
    """A rollout that is given up with a share of the traffic."""
    name = publish(world, run)
    if world.state.deployment(name).waiting:
        return
    advance(world, name, "check")
    step(world, "shift", name, percent=20)
    execution = execution_of(world, name)
    undo(AbortDeployment(deployment_id=name, execution=execution, error="why"), world.ports())
    world.executions.end(execution, "FAILED")


def back(world: World, _: int) -> None:
    """A rollback, where there is anything to go back to."""
    try:
        go_back(RollBack(model_id=MODEL), WHO, world.ports())
    except Conflict:
        return


def queued(world: World, run: int) -> None:
    """A run that waits for another, and has its turn."""
    publish(world, run)
    publish(world, run + 100)
    advance(world, f"movies-{run}-auto")
    advance(world, f"movies-{run + 100}-auto")


def lives(world: World, run: int) -> None:
    """A run that goes live."""
    roll_out(world, run)


def open_ended(world: World, run: int) -> None:
    """The last one: a rollout that is at some step as the documents are lost."""
    name = publish(world, run)
    advance(world, name, "check")
    step(world, "shift", name, percent=40)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happened_since_the_export_the_promises_hold_afterwards(seed: int) -> None:
    rng = random.Random(seed)
    world = new_world(policy=ALWAYS)
    exports: list[dict[Any, Any]] = [{}]
    moves: list[Move] = rng.choices([lives, fails, back, queued], k=rng.randint(1, 7))
    if rng.random() < 0.3:
        moves.append(open_ended)
    for run, act in enumerate(moves, 1):
        act(world, run)
        exports.append(world.state.export())
    before = served(world).copy()
    versions = {one.version for one in exports[-1].values() if isinstance(one, Deployment)}
    token = exports[-1].get(("models", MODEL), Model(MODEL)).token
    world.state.restore(rng.choice(exports), into_another=rng.random() < 0.5)
    wrote: list[Mapping[str, int]] = []
    world.cloud_run.wrote = lambda _, split: wrote.append(dict(split))
    older = world.state.model(MODEL).token < world.cloud_run.service(SERVICE).token
    do(world)

    check(world, before, older)
    assert all(split == before for split in wrote)
    # Nothing is left to do; that a split is shared is noted once, and said every time.
    assert [deed for deed in do(world).done if not deed.startswith("drift, left as it is")] == []
    documents_after = documents(world)
    do(world)
    assert documents(world) == documents_after
    if world.state.model(MODEL).lock is None:
        # What several versions share is said until a person decides; nothing else is found.
        decided = len(before) == 1 or world.state.model(MODEL).active is None
        assert len(repair(MODEL, world.ports())) == (not decided)
        assert not older or world.state.model(MODEL).token > token
        name = publish(world, 500)
        made = world.state.deployment(name)
        numbered = {number for number in versions if world.cloud_run.revision(SERVICE, of(number))}
        assert made.version > max(numbered, default=0)
        advance(world, name)
        assert served(world) == {made.revision_of_attempt(1): 100}


ALWAYS: Mapping[str, Any] = {"when": "always", "canary": {"judge": "off"}}


def of(version: int) -> str:
    return f"{SERVICE}-v{version}-1"


def check(world: World, before: Mapping[str, int], older: bool) -> None:
    """Fail unless documents and service agree, and nothing was moved."""
    model: Model = world.state.model(MODEL)
    found = world.state.deployments(MODEL)
    assert served(world) == before
    active = [one for one in found if one.status is Status.ACTIVE]
    assert [one.id for one in active] == ([model.active] if model.active else [])
    if not older:
        return
    assert not any(one.status is Status.DEPLOYING for one in found)
    assert (model.lock, model.waiting, dict(model.desired)) == (None, None, dict(before))
    assert world.cloud_run.service(SERVICE).token == model.token
    largest = max(before, key=lambda name: (before[name], name == V0))
    if largest == V0:
        assert model.active is None
    else:
        assert active[0].cloud_run_revision == largest
    lived = lived_of(world.cloud_run.services[SERVICE].annotations)
    target = previous(active[0] if active else None, found)
    assert target is None or target.version in lived
    for one in found:
        served_once = of(one.version) in before or one.version in lived
        assert served_once or one.status not in CAN_BE_RETURNED_TO
