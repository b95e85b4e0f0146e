"""Back to an earlier version at once: which one, and what becomes of all the others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from google.api_core.exceptions import RetryError, ServiceUnavailable

from functions.abort_deployment import undo
from functions.reconcile import repair
from functions.roll_back import go_back
from shared.domain.deployment import Status, StepState
from shared.domain.model import keep_up
from shared.errors import (
    ArtifactsRefused,
    Conflict,
    NotFound,
    NothingToRollBackTo,
    RevisionFailed,
    RevisionNotReady,
    TrafficNotApplied,
    Unavailable,
)
from shared.gcp.firestore import LISTED_AT_MOST
from shared.messages import AbortDeployment, RollBack
from tests.fakes import Behaviour, Preparation, World
from tests.unit.crashing import dying
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


def back(
    world: World, version: int | None = None, check: bool = True, **ports: Any
) -> dict[str, Any]:
    command = RollBack(model_id=MODEL, version=version, check=check, reason="bad answers")
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
        "said": f"v2 has the traffic again: {V2} 100 %",
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
    with pytest.raises(Conflict, match=r"no version earlier than v1 .* name one of v2 with --to"):
        back(world)
    assert back(world, 2)["version"] == "v2"


def test_earlier_version_is_found_behind_any_number_of_runs_that_failed() -> None:
    world = new_world()
    for run in (1, 2):
        roll_out(world, run)
    for run in range(3, LISTED_AT_MOST + 4):
        step_abort(world, publish(world, run))
    assert back(world)["version"] == "v1"


def test_rollback_that_was_overtaken_says_what_is_served(world: World) -> None:
    class Slow:
        """Cloud Run, where somebody else goes back to v1 before the first write is made."""

        def __init__(self) -> None:
            self._overtaken = False

        def __getattr__(self, name: str) -> Any:
            return getattr(world.cloud_run, name)

        def write_traffic(self, *arguments: Any) -> None:
            if not self._overtaken:
                self._overtaken = True
                back(world, 1)
            world.cloud_run.write_traffic(*arguments)

    with pytest.raises(Conflict, match=f"newer change than going back to v2 took over: {V1} 100 %"):
        back(world, cloud_run=Slow())
    assert served(world) == {V1: 100}


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


def test_rollback_goes_to_earlier_versions_and_never_forward(world: World) -> None:
    back(world)
    assert back(world)["version"] == "v1"
    with pytest.raises(Conflict, match=r"no version earlier than v1 .* v3, v2 with --to"):
        back(world)
    world = new_world()
    for run in (1, 2, 3):
        roll_out(world, run)
    back(world, 1)
    with pytest.raises(Conflict, match="no version earlier than v1"):
        back(world)  # v2 is good, and newer than what serves.


def test_upkeep_of_the_traffic_is_no_change_to_take_back(world: World) -> None:
    world.state.change(MODEL, lambda book: keep_up(book, "movies-3-auto", world.clock.now()))
    assert back(world)["version"] == "v2"
    assert served(world) == {V2: 100}


# What it costs, and what it needs


class Counting:
    """A port that counts its calls by name."""

    def __init__(self, port: object, calls: Counter[str]) -> None:
        self._port, self._calls = port, calls

    def __getattr__(self, name: str) -> Any:
        self._calls[name] += 1
        return getattr(self._port, name)


@pytest.mark.parametrize("rolling", [False, True], ids=["at rest", "during a rollout"])
@pytest.mark.parametrize("check", [False, True], ids=["unchecked", "checked"])
def test_rollback_is_two_reads_and_one_write(world: World, check: bool, rolling: bool) -> None:
    if rolling:
        name = publish(world, 4)
        advance(world, name, "check")
        step(world, "shift", name, percent=50)
    calls: Counter[str] = Counter()
    counted: dict[str, Any] = {
        "cloud_run": Counting(world.cloud_run, calls),
        "predictions": Counting(world.predictions, calls),
    }
    back(world, check=check, **counted)
    asked = {"revision": 1, "health": 1} if check else {}
    assert calls == {"service": 2, "write_traffic": 1, **asked}
    assert served(world) == {V3 if rolling else V2: 100}


class Down:
    """A service of which every call fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, _: str) -> Any:
        def fail(*_: Any) -> Any:
            raise self._error

        return fail


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ServiceUnavailable("down"), id="unavailable"),  # type: ignore[no-untyped-call]
        pytest.param(RetryError("too long", None), id="timed out"),  # type: ignore[no-untyped-call]
        pytest.param(ConnectionError("no route"), id="no connection"),
        pytest.param(RuntimeError("anything"), id="anything"),
    ],
)
def test_services_that_are_down_do_not_hold_up_the_rollback(world: World, error: Exception) -> None:
    name = publish(world, 4)
    advance(world, name, "copy")
    world.jobs.behaviours[4] = Preparation(reads_until_done=10_000)
    step(world, "prepare", name)
    publish(world, 5)
    down = Down(error)
    answer = back(world, check=False, executions=down, jobs=down, predictions=down, objects=down)
    assert answer["version"] == "v3"
    assert status(world, 4) is Status.CANCELLED
    assert world.state.model(MODEL).lock is None
    assert served(world) == {V3: 100}


@pytest.mark.parametrize("starts", ["never", "with an error"])
def test_candidate_that_does_not_start_does_not_hold_up_the_rollback(
    world: World, starts: str
) -> None:
    name = publish(world, 4)
    advance(world, name, "prepare")
    world.cloud_run.starts_after = 10_000 if starts == "never" else 0
    world.cloud_run.fate = lambda _: "exit code 1"
    with pytest.raises((RevisionNotReady, RevisionFailed)):
        step(world, "create", name)
    assert back(world)["version"] == "v3"
    assert served(world) == {V3: 100}


# The check before it


def test_version_whose_revision_fails_is_refused_before_anything_moves(world: World) -> None:
    world.cloud_run.services[SERVICE].revisions[V2].state = "failed"
    with pytest.raises(Conflict, match=r"v2 would not start.*--no-check"):
        back(world)
    assert status(world, 3) is Status.ACTIVE


def test_cold_instance_is_waited_for(world: World) -> None:
    world.predictions.behaviours[2] = Behaviour(healthy_after=5)
    assert back(world)["version"] == "v2"


def test_instance_that_answers_while_it_loads_its_model_is_enough(world: World) -> None:
    world.predictions.behaviours[2] = Behaviour(health={"status": "loading"})
    assert back(world)["version"] == "v2"


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        pytest.param(
            Behaviour(health_status=503, health={"reason": "no memory"}), "503, no memory", id="ill"
        ),
        pytest.param(
            Behaviour(health={"artifact_digest": "sha256:0"}), "another model", id="other files"
        ),
        pytest.param(Behaviour(health={"model_version": "v9"}), "another model", id="version"),
    ],
)
def test_version_that_is_not_healthy_is_refused_unless_it_is_not_asked(
    world: World, behaviour: Behaviour, why: str
) -> None:
    world.predictions.behaviours[2] = behaviour
    token = world.state.model(MODEL).token
    with pytest.raises(Conflict, match=rf"(?s){why}.*--no-check"):
        back(world)
    assert world.state.model(MODEL).token == token
    assert served(world) == {V3: 100}
    assert back(world, check=False)["version"] == "v2"
    assert served(world) == {V2: 100}


def test_version_that_cannot_be_reached_is_refused_in_bounded_time(world: World) -> None:
    began = world.clock.now()
    with pytest.raises(
        Conflict, match=r"may still be starting.*not now.*ask again in a minute.*--no-check"
    ):
        back(world, predictions=Down(Unavailable("not now")))
    assert (world.clock.now() - began).total_seconds() < 60
    assert served(world) == {V3: 100}


def test_version_without_a_tag_is_asked_nothing(world: World) -> None:
    del world.cloud_run.services[SERVICE].tags["ver-2"]
    assert back(world, predictions=Down(Unavailable("not now")))["version"] == "v2"


# A version whose revision is gone


def lose(world: World, revision: str) -> None:
    """Let a revision go, as by hand."""
    service = world.cloud_run.services[SERVICE]
    del service.revisions[revision]
    service.tags = {tag: name for tag, name in service.tags.items() if name != revision}


def test_version_whose_revision_is_gone_is_deployed_again_from_its_kept_artifacts(
    world: World,
) -> None:
    lose(world, V2)
    for stored in world.objects.list("training", "run-2/"):
        world.objects.remove("training", stored.name)
    answer = back(world, check=False)
    name = "movies-2-back-to-v2-1"
    assert (answer["deployment_id"], answer["version"], answer["traffic"]) == (
        name,
        "v4",
        {V3: 100},
    )
    assert "v2 is gone: v4 deploys its kept artifacts again" in answer["said"]
    assert back(world)["deployment_id"] == name
    assert set(world.executions.deployments.values()) >= {name}

    started = dict(world.jobs.executions)
    advance(world, name)
    assert world.jobs.executions == started, "what was prepared is prepared again"
    assert served(world) == {f"{SERVICE}-v4-1": 100}
    made, before = world.state.deployment(name), world.state.deployment("movies-2-auto")
    assert made.status is Status.ACTIVE
    assert made.serving_model_path == before.serving_model_path
    assert made.artifact_digest == before.artifact_digest
    assert {found.state for found in made.steps.values()} == {StepState.DONE}
    assert status(world, 3) is Status.ROLLED_BACK

    roll_out(world, 5)
    assert back(world, 2)["version"] == "v4", "what stands in for v2 is there already"


def test_rollout_under_way_ends_before_a_version_is_brought_back(world: World) -> None:
    lose(world, V2)
    name = publish(world, 4)
    advance(world, name, "check")
    step(world, "shift", name, percent=50)
    waited = publish(world, 5)
    answer = back(world, 2)
    assert served(world) == answer["traffic"] == {V3: 100}
    assert [world.state.deployment(one).status for one in (name, waited)] == [Status.CANCELLED] * 2
    assert world.executions.cancelled == [execution_of(world, name)]
    advance(world, answer["deployment_id"])
    assert served(world) == {f"{SERVICE}-v6-1": 100}


def test_version_is_brought_back_again_where_the_first_try_failed(world: World) -> None:
    lose(world, V2)
    first = back(world, 2)["deployment_id"]
    step(world, "claim", first)
    step_abort(world, first)
    second = back(world, 2)["deployment_id"]
    assert (first, second) == ("movies-2-back-to-v2-1", "movies-2-back-to-v2-2")
    advance(world, second)
    assert world.state.deployment(second).status is Status.ACTIVE


@pytest.mark.parametrize(
    "name", ["manifest.json", "saved_model/saved_model.pb", "prepared/manifest.json"]
)
def test_kept_artifacts_that_changed_are_refused_and_the_live_version_stays(
    world: World, name: str
) -> None:
    lose(world, V2)
    made = back(world, 2)["deployment_id"]
    step(world, "claim", made)
    world.objects.put("serving", f"models/movies/v2/{name}", b"{}")
    with pytest.raises(ArtifactsRefused, match="publish run 2 again"):
        step(world, "copy", made)
    step_abort(world, made)
    assert served(world) == {V3: 100}


def test_version_whose_artifacts_are_gone_too_says_what_to_do(world: World) -> None:
    lose(world, V2)
    world.objects.remove("serving", "models/movies/v2/manifest.json")
    with pytest.raises(Conflict, match="publish run 2 again with a new request id"):
        back(world)
    assert world.state.model(MODEL).lock is None
    assert served(world) == {V3: 100}


def test_newer_run_does_not_replace_a_version_that_is_brought_back() -> None:
    world = new_world(policy={"superseding": "replace"})
    for run in (1, 2, 3):
        roll_out(world, run)
    lose(world, V2)
    made = back(world, 2)["deployment_id"]
    advance(world, made, "check")
    waits = world.state.deployment(publish(world, 4))
    assert waits.waiting
    assert world.state.deployment(made).status is Status.DEPLOYING


# What dies half-way


def under_way() -> World:
    """v2 serves, and v3 has half of its traffic."""
    world = new_world()
    for run in (1, 2):
        roll_out(world, run)
    name = publish(world, 3)
    advance(world, name, "check")
    step(world, "shift", name, percent=50)
    return world


def test_rollback_that_dies_anywhere_is_completed_by_reconcile_or_by_asking_again() -> None:
    command = RollBack(model_id=MODEL, version=1)
    for world in dying(under_way, lambda ports: go_back(command, "ops", ports)):
        moved = world.state.deployment("movies-1-auto").status is Status.ACTIVE
        repair(MODEL, world.ports())
        assert served(world) == ({V1: 100} if moved else {V2: 50, V3: 50})
        go_back(command, "ops", world.ports())
        assert served(world) == {V1: 100}
        assert world.state.model(MODEL).lock is None
        assert repair(MODEL, world.ports()) == []


def test_bringing_back_that_dies_anywhere_is_completed_by_asking_again() -> None:
    def lost() -> World:
        world = under_way()
        lose(world, V1)
        return world

    command = RollBack(model_id=MODEL, version=1)
    for world in dying(lost, lambda ports: go_back(command, "ops", ports)):
        name = go_back(command, "ops", world.ports())["deployment_id"]
        assert served(world) == {V2: 100}
        assert name == "movies-1-back-to-v1-1"
        advance(world, name)
        assert world.state.deployment(name).status is Status.ACTIVE
        assert served(world) == {f"{SERVICE}-v4-1": 100}
        assert repair(MODEL, world.ports()) == []


def step_abort(world: World, name: str) -> None:
    undo(
        AbortDeployment(deployment_id=name, execution=execution_of(world, name), error="why"),
        world.ports(),
    )
