"""The model is loaded before any revision: prepared and pinned, or refused with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.api_core.exceptions import ServiceUnavailable

from functions.abort_deployment import undo
from functions.cancel import stop
from functions.copy_artifacts import digest_of
from functions.prepare_model import ENDED_WITHIN_S, POLLED_FOR_S, prepare
from functions.prepared import MANIFEST
from functions.reconcile import repair
from functions.roll_back import go_back
from shared.domain.deployment import Deployment, Status, Step, StepName, StepState
from shared.errors import Conflict, ModelRefused, NotFound, PreparationFailed, Superseded
from shared.messages import AbortDeployment, Cancel, PrepareModel, RollBack
from shared.ports import JobState
from tests.fakes import FakeJobExecution, Preparation, World
from tests.unit.stepping import (
    MODEL,
    SERVICE,
    V0,
    V1,
    advance,
    execution_of,
    new_world,
    publish,
    roll_out,
    served,
    step,
)

NAME, PREFIX = "movies-1-auto", "models/movies/v1/"
NEVER = 1_000_000


def world_of(run: int = 1, preparation: Preparation | None = None, **fields: Any) -> World:
    """A world whose first run is copied and about to be prepared."""
    made = new_world(**fields)
    made.jobs.behaviours[run] = preparation or Preparation()
    publish(made, run)
    advance(made, f"movies-{run}-auto", "copy")
    return made


def deployment(world: World) -> Deployment:
    return world.state.deployment(NAME)


def record(world: World) -> Step:
    return deployment(world).steps[StepName.PREPARE_MODEL.value]


def manifest(world: World) -> dict[str, Any]:
    content = world.objects.read("serving", PREFIX + MANIFEST)
    assert content
    found: dict[str, Any] = json.loads(content)
    return found


def only(world: World) -> FakeJobExecution:
    [execution] = world.jobs.executions.values()
    return execution


def test_answers_of_all_tasks_are_pinned_in_the_manifest_and_counted() -> None:
    world = world_of(prepare={"tasks": 3})
    answer = step(world, "prepare", NAME)
    assert answer == {
        "deployment_id": NAME,
        "answer": "go on",
        "wait_s": 0,
        "why": "671 customers' answers prepared (top 10), 3 tasks, 1.0 s",
    }
    written = manifest(world)
    stored = {found.name: found for found in world.objects.list("serving", PREFIX)}
    assert [file["path"] for file in written["files"]] == [
        f"prepared/answers-{task:05d}-of-00003.table" for task in range(3)
    ]
    for file in written["files"]:
        found = stored[PREFIX + file["path"]]
        assert (file["size"], file["crc32c"]) == (found.size, found.crc32c)
        assert file["generation"] == found.generation
    made = deployment(world)
    assert written == {
        "schema_version": 1,
        "model_digest": made.artifact_digest,
        "top_k": 10,
        "customers": 671,
        "products": 50,
        "tasks": 3,
        "recall": None,
        "files": written["files"],
        "digest": digest_of(written["files"]),
    }
    assert (made.prepared_digest, made.prepared_customers) == (written["digest"], 671)
    assert made.prepare_execution in world.jobs.executions
    assert record(world).state is StepState.DONE
    assert record(world).detail == answer["why"]


def test_no_revision_exists_before_the_model_is_prepared_and_the_revision_names_what_was() -> None:
    world = world_of()
    assert list(world.cloud_run.services[SERVICE].revisions) == [V0]
    step(world, "prepare", NAME)
    assert list(world.cloud_run.services[SERVICE].revisions) == [V0]
    step(world, "create", NAME)
    made_for = world.cloud_run.services[SERVICE].revisions[V1].made_for
    assert made_for
    assert made_for.prepared_digest == manifest(world)["digest"]


@pytest.mark.parametrize(
    ("preparation", "fields", "detail"),
    [
        pytest.param(
            Preparation(recall=0.98),
            {"retrieval": {"kind": "approximate"}},
            "671 customers' answers prepared (top 10), index with recall 0.980, 1 task, 0.0 s",
            id="with an index",
        ),
        pytest.param(
            Preparation(),
            {"prepare": {"customers": 100, "top_k": 50}},
            "100 customers' answers prepared (top 50), 1 task, 0.0 s",
            id="the first customers only",
        ),
        pytest.param(
            Preparation(),
            {"prepare": {"top_k": 0}},
            "the model was checked; no answers are to be prepared (top_k is 0), 1 task, 0.0 s",
            id="no answers wanted",
        ),
        pytest.param(
            Preparation(customers=0),
            {},
            "nothing to prepare: the artifact's customers.txt is empty, 1 task, 0.0 s",
            id="no customers in the list",
        ),
    ],
)
def test_progress_says_in_words_what_was_prepared(
    preparation: Preparation, fields: dict[str, Any], detail: str
) -> None:
    world = world_of(preparation=preparation, **fields)
    assert step(world, "prepare", NAME)["why"] == detail


def test_artifact_without_a_list_of_customers_is_said_to_have_none() -> None:
    world = world_of(preparation=Preparation(customers=0))
    world.objects.remove("serving", f"{PREFIX}customers.txt")
    why = step(world, "prepare", NAME)["why"]
    assert why == "nothing to prepare: the artifact has no customers.txt, 1 task, 0.0 s"
    assert manifest(world)["files"] == []
    assert deployment(world).prepared_digest == digest_of([])
    assert deployment(world).prepared_customers == 0


def test_job_that_takes_its_time_is_waited_for_by_one_execution() -> None:
    world = world_of(preparation=Preparation(reads_until_done=140), prepare={"tasks": 2})
    answers = []
    for _ in range(3):
        answers.append(step(world, "prepare", NAME))
        world.clock.sleep(answers[-1]["wait_s"])
    assert [answer["answer"] for answer in answers] == ["wait", "wait", "go on"]
    assert answers[0]["wait_s"] > 0
    assert answers[0]["why"] == "0 of 2 tasks done"
    assert len(world.jobs.executions) == 1
    assert record(world).detail.startswith("671 customers' answers prepared")


def test_one_call_waits_for_about_half_a_minute() -> None:
    world = world_of(preparation=Preparation(reads_until_done=NEVER))
    step(world, "prepare", NAME)
    assert sum(world.clock.slept_s) == POLLED_FOR_S
    assert record(world).state is StepState.RUNNING


def test_job_that_never_ends_is_given_up_in_the_end() -> None:
    world = world_of(preparation=Preparation(reads_until_done=NEVER))
    step(world, "prepare", NAME)
    world.clock.sleep(ENDED_WITHIN_S)
    with pytest.raises(PreparationFailed, match="not over after 3 hours"):
        step(world, "prepare", NAME)


def test_repeat_answers_the_same_and_starts_nothing() -> None:
    world = world_of()
    first = step(world, "prepare", NAME)
    world.clock.sleep(60)
    assert step(world, "prepare", NAME) == first
    assert len(world.jobs.executions) == 1


def test_call_that_died_before_the_execution_was_stored_is_repeated_by_another_execution() -> None:
    world = world_of()
    lost = world.jobs.start(deployment(world))
    assert world.jobs.execution(lost)
    written = world.objects.list("serving", f"{PREFIX}prepared/")
    step(world, "prepare", NAME)
    assert len(world.jobs.executions) == 2
    assert deployment(world).prepare_execution != lost
    after = world.objects.list("serving", f"{PREFIX}prepared/")
    assert [found for found in after if not found.name.endswith(MANIFEST)] == written


def test_call_that_died_after_the_manifest_was_written_finds_it() -> None:
    world = world_of()
    step(world, "prepare", NAME)
    before = manifest(world)

    def forget(found: Deployment) -> Deployment:
        done = replace(found.steps[StepName.PREPARE_MODEL.value], state=StepState.RUNNING)
        return replace(found, prepared_digest="").with_step(StepName.PREPARE_MODEL, done)

    world.state.change(MODEL, lambda book: book.put(forget(book.deployment(NAME))))
    assert step(world, "prepare", NAME)["answer"] == "go on"
    assert manifest(world) == before
    assert deployment(world).prepared_digest == before["digest"]


def test_call_that_comes_second_uses_the_first_ones_execution_and_stops_its_own() -> None:
    world = world_of(preparation=Preparation(reads_until_done=NEVER))

    class Slow:
        """Another call starts the job, and stores it, while this one starts it too."""

        def __init__(self) -> None:
            self.mine = ""

        def __getattr__(self, name: str) -> object:
            return getattr(world.jobs, name)

        def start(self, found: Deployment) -> str:
            step(world, "prepare", NAME)
            self.mine = world.jobs.start(found)
            return self.mine

    slow = Slow()
    command = PrepareModel(deployment_id=NAME, execution=execution_of(world, NAME))
    prepare(command, world.ports(jobs=slow))
    kept = deployment(world).prepare_execution
    assert kept != slow.mine
    states = {name: execution.state for name, execution in world.jobs.executions.items()}
    assert states == {kept: JobState.RUNNING, slow.mine: JobState.CANCELLED}


def test_refusal_is_told_in_the_models_own_words_while_other_tasks_still_run() -> None:
    reason = "query_model gives 32 dimensions, the index takes 64; export both from one run"
    world = world_of(preparation=Preparation(refused=reason), prepare={"tasks": 4})
    with pytest.raises(ModelRefused, match=f"^{reason}$"):
        step(world, "prepare", NAME)
    assert only(world).state is JobState.RUNNING
    assert record(world).state is StepState.FAILED
    assert record(world).error == reason
    assert world.objects.read("serving", PREFIX + MANIFEST) is None
    assert list(world.cloud_run.services[SERVICE].revisions) == [V0]


def test_refused_model_is_aborted_with_its_reason_and_its_job_stopped() -> None:
    world = world_of(preparation=Preparation(refused="no query_model"), prepare={"tasks": 4})
    with pytest.raises(ModelRefused) as refusal:
        step(world, "prepare", NAME)
    error = {"code": 422, "body": json.dumps(refusal.value.problem())}
    command = AbortDeployment(deployment_id=NAME, execution=execution_of(world, NAME), error=error)
    undo(command, world.ports())
    assert deployment(world).status is Status.FAILED
    assert deployment(world).reason == "no query_model"
    assert only(world).state is JobState.CANCELLED
    assert served(world) == {V0: 100}


def test_job_that_fails_without_a_refusal_is_told_in_cloud_runs_words_with_its_logs() -> None:
    world = world_of(preparation=Preparation(fails="task 0: memory limit of 2Gi exceeded"))
    with pytest.raises(PreparationFailed, match=r"memory limit .*; its logs: https://logs\.test/"):
        step(world, "prepare", NAME)
    assert record(world).state is StepState.FAILED


def test_job_that_somebody_cancelled_or_deleted_has_failed() -> None:
    world = world_of(preparation=Preparation(reads_until_done=NEVER))
    step(world, "prepare", NAME)
    name = deployment(world).prepare_execution
    world.jobs.cancel(name)
    with pytest.raises(PreparationFailed, match="the execution was cancelled"):
        step(world, "prepare", NAME)
    del world.jobs.executions[name]
    with pytest.raises(PreparationFailed, match="its record is gone"):
        step(world, "prepare", NAME)


def test_model_without_a_job_is_told_to_be_applied() -> None:
    world = world_of()
    world.jobs.declared.clear()
    with pytest.raises(NotFound, match="prepare-movies"):
        step(world, "prepare", NAME)


def test_version_whose_artifacts_are_not_copied_starts_no_job() -> None:
    world = new_world()
    publish(world)
    step(world, "claim", NAME)
    with pytest.raises(Conflict, match="no artifacts"):
        step(world, "prepare", NAME)
    assert world.jobs.executions == {}


# what a task wrote, and what cannot be


def put_verdict(world: World, task: int, tasks: int, content: dict[str, Any] | bytes) -> None:
    name = f"{PREFIX}prepared/task-{task:05d}-of-{tasks:05d}.json"
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    world.objects.put("serving", name, data)


def verdict(world: World, **fields: Any) -> dict[str, Any]:
    good = {
        "schema_version": 1,
        "digest": deployment(world).artifact_digest,
        "task": 0,
        "tasks": 1,
        "refused": "",
        "code": "",
        "files": [],
        "products": 50,
        "customers": 0,
        "top_k": 10,
        "recall": None,
    }
    return {**good, **fields}


GONE = {"path": "prepared/answers-0", "size": 1, "crc32c": "AAAAAA==", "generation": 1}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        pytest.param({"schema_version": 2}, "is no verdict: schema_version", id="another schema"),
        pytest.param({"digest": "sha256:0"}, "of another preparation", id="another model"),
        pytest.param({"task": 1}, "of another preparation", id="another task"),
        pytest.param({"tasks": 2}, "of another preparation", id="another count"),
        pytest.param({"files": [GONE]}, "answers-0 is not there", id="a file missing"),
    ],
)
def test_verdict_that_cannot_be_right_fails_the_preparation(
    fields: dict[str, Any], why: str
) -> None:
    world = world_of()
    put_verdict(world, 0, 1, verdict(world, **fields))
    with pytest.raises(PreparationFailed, match=why):
        step(world, "prepare", NAME)


def test_verdict_that_is_no_json_fails_the_preparation() -> None:
    world = world_of()
    put_verdict(world, 0, 1, b"{")
    with pytest.raises(PreparationFailed, match="is no verdict"):
        step(world, "prepare", NAME)


def test_refusal_that_knows_nothing_of_the_model_is_still_a_refusal() -> None:
    world = world_of()
    nothing = {"products": None, "customers": None, "top_k": None, "refused": "it is no SavedModel"}
    put_verdict(world, 0, 1, verdict(world, **nothing))
    with pytest.raises(ModelRefused, match="it is no SavedModel"):
        step(world, "prepare", NAME)


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"products": 51}, "products is"), ({"top_k": 9}, "top_k is")],
    ids=["products", "top_k"],
)
def test_tasks_that_contradict_each_other_fail_the_preparation(
    fields: dict[str, Any], why: str
) -> None:
    world = world_of(prepare={"tasks": 2})
    put_verdict(world, 1, 2, verdict(world, task=1, tasks=2, **fields))
    with pytest.raises(PreparationFailed, match=why):
        step(world, "prepare", NAME)


def test_success_without_every_tasks_verdict_fails_the_preparation() -> None:
    world = world_of(preparation=Preparation(reads_until_done=NEVER), prepare={"tasks": 2})
    step(world, "prepare", NAME)
    only(world).state = JobState.SUCCEEDED
    with pytest.raises(PreparationFailed, match=r"no verdict is there of the tasks \[0, 1\]"):
        step(world, "prepare", NAME)


def test_manifest_with_other_content_is_never_replaced() -> None:
    world = world_of()
    world.objects.put("serving", PREFIX + MANIFEST, b"{}")
    with pytest.raises(PreparationFailed, match="other content"):
        step(world, "prepare", NAME)
    assert world.objects.read("serving", PREFIX + MANIFEST) == b"{}"


# whoever ends the rollout stops its job


@pytest.fixture
def preparing() -> World:
    """v1 is live; the preparation of v2 runs."""
    world = new_world()
    roll_out(world, 1)
    world.jobs.behaviours[2] = Preparation(reads_until_done=NEVER)
    publish(world, 2)
    advance(world, "movies-2-auto", "prepare")
    return world


def newest(world: World) -> FakeJobExecution:
    return list(world.jobs.executions.values())[-1]


def aborted(world: World) -> None:
    execution = execution_of(world, "movies-2-auto")
    undo(AbortDeployment(deployment_id="movies-2-auto", execution=execution), world.ports())


def cancelled(world: World) -> None:
    stop(Cancel(deployment_id="movies-2-auto"), "ops", world.ports())


def rolled_back(world: World) -> None:
    go_back(RollBack(model_id=MODEL, version=1), "ops", world.ports())


def reconciled(world: World) -> None:
    world.executions.end(execution_of(world, "movies-2-auto"), "FAILED")
    repair(MODEL, world.ports())


WAYS_BACK = [aborted, cancelled, rolled_back, reconciled]


@pytest.mark.parametrize("way_back", WAYS_BACK)
def test_rollout_that_ends_stops_its_job_and_a_repeat_does_no_harm(
    preparing: World, way_back: Any
) -> None:
    assert newest(preparing).state is JobState.RUNNING
    way_back(preparing)
    assert newest(preparing).state is JobState.CANCELLED
    way_back(preparing)
    assert newest(preparing).state is JobState.CANCELLED
    assert served(preparing) == {V1: 100}


@pytest.mark.parametrize("way_back", WAYS_BACK)
def test_fault_of_the_jobs_does_not_keep_the_traffic_from_going_back(
    preparing: World, way_back: Any
) -> None:
    def away(_: str) -> None:
        raise ServiceUnavailable("jobs are away")

    preparing.jobs.cancelling = away
    way_back(preparing)
    assert preparing.state.deployment("movies-2-auto").status is not Status.DEPLOYING
    assert preparing.state.model(MODEL).lock is None
    assert served(preparing) == {V1: 100}


def test_job_that_was_prepared_long_ago_is_not_asked_to_stop(preparing: World) -> None:
    asked: list[str] = []
    preparing.jobs.cancelling = asked.append
    newest(preparing).behaviour.reads_until_done = 0
    advance(preparing, "movies-2-auto", "check")
    cancelled(preparing)
    assert asked == []


def test_overtaken_call_stops_the_job_that_it_started() -> None:
    world = world_of(preparation=Preparation(reads_until_done=NEVER))

    class Overtaken:
        """Somebody cancels the rollout between the start of the job and its record."""

        def __getattr__(self, name: str) -> object:
            return getattr(world.jobs, name)

        def start(self, found: Deployment) -> str:
            started = world.jobs.start(found)
            stop(Cancel(deployment_id=NAME), "ops", world.ports())
            return started

    command = PrepareModel(deployment_id=NAME, execution=execution_of(world, NAME))
    with pytest.raises(Superseded):
        prepare(command, world.ports(jobs=Overtaken()))
    assert only(world).state is JobState.CANCELLED


def test_overtaken_rollout_starts_no_job() -> None:
    world = world_of()
    stop(Cancel(deployment_id=NAME), "ops", world.ports())
    with pytest.raises(Superseded):
        step(world, "prepare", NAME)
    assert world.jobs.executions == {}
