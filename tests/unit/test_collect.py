"""Old tags, revisions and artifacts go; what may be needed stays; what dies half-way goes on."""

from __future__ import annotations

from typing import Any

import pytest

from functions.cancel import stop
from functions.collect import COLLECTED_EVERY, VERSIONS_AT_ONCE, collect
from functions.reconcile import repair, repair_all
from functions.roll_back import go_back
from shared.domain.deployment import Status
from shared.domain.retention import EVIDENCE_KEPT
from shared.errors import Conflict
from shared.messages import Cancel, Reconcile, RollBack
from tests.fakes import World
from tests.unit.crashing import dying
from tests.unit.stepping import (
    MODEL,
    SERVICE,
    advance,
    new_world,
    publish,
    roll_out,
    served,
)


def history(runs: int = 5, **policy: Any) -> World:
    """As many versions, of which the last serves; two are kept, three can be deployed anew."""
    world = new_world(policy={"keep_versions": 2, "keep_artifacts": 3, **policy})
    for run in range(1, runs + 1):
        roll_out(world, run)
        world.clock.sleep(60)
    return world


def clear(world: World) -> list[str]:
    return collect(MODEL, world.ports())


def there(world: World) -> tuple[set[str], set[str], set[str]]:
    """Return the versions that have a tag, a revision, and artifacts."""
    service = world.cloud_run.services[SERVICE]
    names = {name.removeprefix(f"{SERVICE}-").removesuffix("-1") for name in service.revisions}
    files = world.objects.list("serving", f"models/{MODEL}/")
    return (
        {tag.replace("ver-", "v") for tag in service.served_tags},
        names,
        {stored.name.split("/")[2] for stored in files},
    )


def test_what_is_beyond_the_policy_goes_and_each_is_recorded() -> None:
    world = history()
    found = clear(world)
    assert there(world) == ({"v4", "v5"}, {"v0", "v4", "v5"}, {"v3", "v4", "v5"})
    assert served(world) == {f"{SERVICE}-v5-1": 100}
    assert [line.split(":")[0] for line in found] == [f"cleared away v{n}" for n in (1, 2, 3)]
    event = world.state.events("movies-1-auto")[-1]
    assert (event.actor, event.action) == ("reconcile", "cleared away")
    assert "tag ver-1, revision model-serving-movies-v1-1, 7 files" in event.reason
    assert world.state.model(MODEL).lock is None
    gone = world.state.deployment("movies-3-auto")
    assert (gone.revision_gone, gone.artifacts_gone) == (True, False)


def test_nothing_is_looked_at_again_for_some_hours() -> None:
    world = history()
    clear(world)
    roll_out(world, 6)
    assert clear(world) == []
    world.clock.sleep(COLLECTED_EVERY.total_seconds())
    assert clear(world)
    assert clear(world) == []


def test_at_most_ten_versions_go_at_once_and_the_next_call_goes_on() -> None:
    world = history(VERSIONS_AT_ONCE + 4)
    assert len(clear(world)) == VERSIONS_AT_ONCE
    assert len(clear(world)) == 2
    assert there(world)[1] == {"v0", "v13", "v14"}


@pytest.mark.parametrize("until", ["claim", "copy", "create", "check"])
def test_what_a_rollout_left_that_ended_goes_after_a_day(until: str) -> None:
    world = history(2)
    name = publish(world, 3)
    advance(world, name, until)
    stop(Cancel(deployment_id=name), "ops", world.ports())
    roll_out(world, 4)  # Its revision is not the latest any more.
    clear(world)
    before = there(world)
    world.clock.sleep(EVIDENCE_KEPT.total_seconds())
    clear(world)
    kept = {"v2", "v4"}
    assert there(world) == (kept, {"v0", *kept}, {"v1", *kept})
    assert before != there(world) or until == "claim"


def test_latest_revision_stays_with_its_files_until_there_is_a_newer_one() -> None:
    world = history(2)
    name = publish(world, 3)
    advance(world, name, "create")
    stop(Cancel(deployment_id=name), "ops", world.ports())
    world.clock.sleep(EVIDENCE_KEPT.total_seconds())
    assert clear(world) == []
    assert there(world)[1] == {"v0", "v1", "v2", "v3"}
    assert "v3" in there(world)[2]
    assert not world.state.deployment(name).revision_gone


def test_while_traffic_is_being_changed_nothing_goes() -> None:
    world = history()
    publish(world, 6)
    assert clear(world) == []
    assert there(world)[1] >= {"v1", "v2"}


def test_version_that_is_brought_back_keeps_the_files_of_the_other() -> None:
    world = history()
    clear(world)
    made = go_back(RollBack(model_id=MODEL, version=3), "ops", world.ports())["deployment_id"]
    for _ in range(2):
        world.clock.sleep(COLLECTED_EVERY.total_seconds())
        clear(world)
        assert "v3" in there(world)[2]
        if world.state.deployment(made).status is Status.DEPLOYING:
            advance(world, made)
    for run in (7, 8, 9, 10):
        roll_out(world, run)
        world.clock.sleep(COLLECTED_EVERY.total_seconds())
    clear(world)
    assert there(world)[2] == {"v8", "v9", "v10"}


def test_collected_version_says_what_to_do_when_it_is_gone_back_to() -> None:
    world = history()
    clear(world)
    with pytest.raises(Conflict, match="publish run 1 again with a new request id"):
        go_back(RollBack(model_id=MODEL, version=1), "ops", world.ports())


def test_rollback_that_comes_between_decision_and_mark_wins() -> None:
    world = history()

    class Interrupted:
        """Somebody goes back to v1 right after the objects were listed."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.objects, name)

        def list(self, *arguments: Any) -> Any:
            found = world.objects.list(*arguments)
            go_back(RollBack(model_id=MODEL, version=1), "ops", world.ports())
            return found

    assert collect(MODEL, world.ports(objects=Interrupted())) == []
    assert served(world) == {f"{SERVICE}-v1-1": 100}
    assert there(world)[1] >= {"v1", "v2", "v3"}


def test_rollback_that_comes_after_the_mark_brings_the_version_back() -> None:
    world = history(keep_artifacts=5)
    answers: list[dict[str, Any]] = []

    class Interrupted:
        """Somebody goes back to v1 right before its revision is deleted."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.cloud_run, name)

        def delete_revision(self, service: str, revision: str) -> bool:
            if not answers:
                command = RollBack(model_id=MODEL, version=1)
                answers.append(go_back(command, "ops", world.ports()))
            return world.cloud_run.delete_revision(service, revision)

    collect(MODEL, world.ports(cloud_run=Interrupted()))
    assert answers[0]["version"] == "v6"
    advance(world, answers[0]["deployment_id"])
    assert served(world) == {f"{SERVICE}-v6-1": 100}


def test_clearing_that_dies_anywhere_leaves_nothing_dangling_and_is_gone_on_with() -> None:
    for world in dying(history, lambda ports: collect(MODEL, ports)):
        tags, revisions, files = there(world)
        assert tags <= revisions, "a tag points at a revision that is gone"
        assert revisions - {"v0"} <= files, "a revision has lost its files"
        assert served(world) == {f"{SERVICE}-v5-1": 100}
        repair(MODEL, world.ports())
        clear(world)
        assert there(world) == ({"v4", "v5"}, {"v0", "v4", "v5"}, {"v3", "v4", "v5"})
        assert repair(MODEL, world.ports()) == []


def test_reconcile_clears_away_at_its_end() -> None:
    world = history()
    found = repair_all(Reconcile(), world.ports())["findings"]
    assert [line.split(":")[0] for line in found[MODEL]] == [
        f"cleared away v{n}" for n in (1, 2, 3)
    ]
    assert there(world)[1] == {"v0", "v4", "v5"}


def test_change_by_hand_is_not_undone_by_clearing_away() -> None:
    world = history()
    split: dict[str | None, int] = {f"{SERVICE}-v1-1": 10, f"{SERVICE}-v5-1": 90}
    world.cloud_run.by_hand(SERVICE, split)
    before = there(world)
    assert clear(world) == []
    assert served(world) == split
    assert there(world) == before
