"""Jobs, executions and tasks of the local Cloud Run, through Google's clients."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import run_v2
from google.iam.v1 import iam_policy_pb2
from google.longrunning import operations_pb2

from tests.contract.run_world import PARENT, State, World, done, is_running, until, world

ROOT = Path(__file__).parents[2]
JOB = f"{PARENT}/jobs/prepare"
Reason = run_v2.Condition.ExecutionReason
Completion = run_v2.ExecutionReference.CompletionStatus
LET_GO = "let-go"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("jobs"), task_slots=2) as made:
        yield made


@pytest.fixture
def cloud(shared: World) -> Iterator[World]:
    """A world in which no job exists and nothing is let go."""
    (shared.folder / LET_GO).unlink(missing_ok=True)
    yield shared
    for job in shared.jobs.list_jobs(parent=PARENT):
        done(shared.jobs.delete_job(name=job.name))


def job(*, env: dict[str, str] | None = None, **options: Any) -> Any:
    """Return a job; options beginning with `task_` or named so are put where they belong."""
    variables = [run_v2.EnvVar(name=k, value=v) for k, v in (env or {}).items()]
    container = {"image": "images/task", "env": variables, **options.pop("container", {})}
    task = {
        name: options.pop(name)
        for name in ("max_retries", "timeout", "volumes", "execution_environment")
        if name in options
    }
    template = {
        name: options.pop(name) for name in ("task_count", "parallelism") if name in options
    }
    return run_v2.Job(
        template=run_v2.ExecutionTemplate(
            template=run_v2.TaskTemplate(containers=[container], **task), **template
        ),
        **options,
    )


def create(cloud: World, job_id: str = "prepare", **options: Any) -> Any:
    return done(cloud.jobs.create_job(parent=PARENT, job_id=job_id, job=job(**options)))


def run(cloud: World, name: str = JOB, **overrides: Any) -> Any:
    """Start an execution; return the client's operation."""
    request = run_v2.RunJobRequest(name=name)
    if overrides:
        request.overrides = run_v2.RunJobRequest.Overrides(**overrides)
    return cloud.jobs.run_job(request)


def seen(cloud: World, execution: str) -> list[dict[str, Any]]:
    """Return what the attempts of an execution's tasks left, by index and attempt."""
    files = (cloud.folder / "seen").glob(f"{execution.split('/')[-1]}-*.json")
    left = [json.loads(file.read_text()) for file in files]
    return sorted(left, key=lambda it: (int(it["TASK_INDEX"]), int(it["TASK_ATTEMPT"])))


def attempts(cloud: World, execution: str) -> list[tuple[int, int]]:
    return [(int(s["TASK_INDEX"]), int(s["TASK_ATTEMPT"])) for s in seen(cloud, execution)]


def completed(resource: Any) -> Any:
    return next(c for c in resource.conditions if c.type_ == "Completed")


def log(cloud: World, execution: str, task: int = 0) -> str:
    folder = cloud.folder / "run" / "logs" / execution.split("/")[-1]
    return (folder / f"task{task}.log").read_text()


def test_created_job_shows_cloud_runs_defaults(cloud: World) -> None:
    made = create(cloud, labels={"model": "movies"})

    assert made.name == JOB
    assert made.terminal_condition.state == State.CONDITION_SUCCEEDED
    assert made.generation == made.observed_generation == 1
    assert (made.template.task_count, made.template.parallelism) == (1, 0)
    task = made.template.template
    assert (task.max_retries, task.timeout.seconds) == (3, 600)
    assert task.execution_environment == run_v2.ExecutionEnvironment.EXECUTION_ENVIRONMENT_GEN2
    assert dict(task.containers[0].resources.limits) == {"cpu": "1000m", "memory": "512Mi"}
    assert cloud.jobs.get_job(name=JOB) == made
    assert list(cloud.jobs.list_jobs(parent=PARENT)) == [made]


def test_successful_execution_is_the_operations_response_and_shown_by_its_job(
    cloud: World,
) -> None:
    create(cloud)

    operation = run(cloud)
    began = operation.metadata
    execution = done(operation)

    assert began.name == execution.name
    assert execution.name.startswith(f"{JOB}/executions/prepare-")
    assert execution.job == "prepare"
    assert (execution.task_count, execution.parallelism) == (1, 1)
    assert (execution.succeeded_count, execution.failed_count, execution.running_count) == (1, 0, 0)
    assert not execution.reconciling
    assert completed(execution).state == State.CONDITION_SUCCEEDED
    assert "Execution completed successfully in" in completed(execution).message
    assert {c.type_ for c in execution.conditions} == {
        "Completed",
        "Started",
        "ContainerReady",
        "ResourcesAvailable",
    }
    assert cloud.executions.get_execution(name=execution.name) == execution
    latest = cloud.jobs.get_job(name=JOB).latest_created_execution
    assert latest.name == execution.name
    assert latest.completion_status == Completion.EXECUTION_SUCCEEDED
    assert cloud.jobs.get_job(name=JOB).execution_count == 1
    [task] = cloud.tasks.list_tasks(parent=execution.name)
    assert task.name == f"{execution.name}/tasks/{execution.name.split('/')[-1]}-task0"
    assert (task.index, task.retried, task.last_attempt_result.status.code) == (0, 0, 0)
    assert cloud.tasks.get_task(name=task.name) == task
    assert task.log_uri.startswith(execution.log_uri)
    assert Path(task.log_uri.removeprefix("file://")).read_text() == "attempt 0\n"


def test_task_gets_its_container_contract_and_no_port(
    cloud: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    create(cloud, env={"OWN": "yes"}, container={"args": ["prepare", "--x"]})

    execution = done(run(cloud))

    [attempt] = seen(cloud, execution.name)
    env = attempt["env"]
    assert env["CLOUD_RUN_JOB"] == "prepare"
    assert env["CLOUD_RUN_EXECUTION"] == execution.name.split("/")[-1]
    assert (env["OWN"], env["OF"], env["GOOGLE_CLOUD_PROJECT"]) == ("yes", "image", "turnout-test")
    assert not {"PORT", "K_SERVICE", "K_REVISION", "SECRET_OF_THE_HOST"} & env.keys()
    assert attempt["argv"] == ["prepare", "--x"]


def test_command_replaces_the_entry_point_and_its_output_is_in_the_tasks_log(cloud: World) -> None:
    create(cloud, container={"command": ["/bin/echo", "one"], "args": ["two"]})

    execution = done(run(cloud))

    assert log(cloud, execution.name) == "one two\n"


def test_each_index_runs_once_and_no_more_at_once_than_the_parallelism(cloud: World) -> None:
    create(cloud, task_count=5, parallelism=1, env={"WORK_S": "0.05"})

    execution = done(run(cloud))

    assert execution.succeeded_count == 5
    assert attempts(cloud, execution.name) == [(index, 0) for index in range(5)]
    left = seen(cloud, execution.name)
    assert {s["TASK_COUNT"] for s in left} == {"5"}
    spans = sorted((s["began"], s["ended"]) for s in left)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


def test_tasks_run_at_once_as_far_as_the_machine_allows(cloud: World) -> None:
    create(cloud, task_count=4, env={"WAIT_FOR": LET_GO})

    operation = run(cloud)
    name = operation.metadata.name
    until(lambda: len(seen(cloud, name)) == 2, "two tasks to run")
    early = cloud.executions.get_execution(name=name)
    (cloud.folder / LET_GO).touch()
    execution = done(operation)

    assert early.running_count == 2
    assert early.reconciling
    assert completed(early).state == State.CONDITION_RECONCILING
    assert early.parallelism == 4
    assert execution.succeeded_count == 4


def test_failed_execution_ends_its_operation_with_cloud_runs_words(cloud: World) -> None:
    create(cloud, max_retries=2, env={"FAIL_ATTEMPTS": "9"})

    operation = run(cloud)
    execution_id = operation.metadata.name.split("/")[-1]
    words = (
        f"Task {execution_id}-task0 failed with exit code: 3 and message: "
        "The container exited with an error."
    )
    with pytest.raises(exceptions.Aborted, match=words):
        done(operation)

    execution = cloud.executions.get_execution(name=operation.metadata.name)
    assert attempts(cloud, execution.name) == [(0, 0), (0, 1), (0, 2)]
    assert (execution.failed_count, execution.retried_count) == (1, 1)
    assert completed(execution).state == State.CONDITION_FAILED
    assert completed(execution).execution_reason == Reason.NON_ZERO_EXIT_CODE
    assert completed(execution).message == words
    [task] = cloud.tasks.list_tasks(parent=execution.name)
    assert (task.retried, task.last_attempt_result.exit_code) == (2, 3)
    assert task.last_attempt_result.status.message == "The container exited with an error."
    assert log(cloud, execution.name) == "attempt 0\nattempt 1\nattempt 2\n"
    latest = cloud.jobs.get_job(name=JOB).latest_created_execution
    assert latest.completion_status == Completion.EXECUTION_FAILED


def test_task_that_fails_and_then_does_not_is_a_success_that_was_retried(cloud: World) -> None:
    create(cloud, env={"FAIL_ATTEMPTS": "2"})

    execution = done(run(cloud))

    assert attempts(cloud, execution.name) == [(0, 0), (0, 1), (0, 2)]
    assert (execution.succeeded_count, execution.retried_count) == (1, 1)


def test_one_failed_task_fails_the_execution_after_the_others_have_run(cloud: World) -> None:
    create(cloud, task_count=3, max_retries=0, env={"FAIL_ATTEMPTS": "1", "FAIL": "1"})

    operation = run(cloud)
    with pytest.raises(exceptions.Aborted, match="task1 failed with exit code: 3"):
        done(operation)

    execution = cloud.executions.get_execution(name=operation.metadata.name)
    assert (execution.succeeded_count, execution.failed_count) == (2, 1)
    assert attempts(cloud, execution.name) == [(0, 0), (1, 0), (2, 0)]


def test_program_that_does_not_exist_fails_with_code_127_and_its_name_in_the_log(
    cloud: World,
) -> None:
    create(cloud, max_retries=0, container={"command": ["/no/such/program"]})

    operation = run(cloud)
    with pytest.raises(exceptions.Aborted, match="exit code: 127"):
        done(operation)

    assert "/no/such/program" in log(cloud, operation.metadata.name)


def test_signal_that_ends_a_task_is_its_result(cloud: World) -> None:
    create(cloud, max_retries=0, container={"command": ["/bin/sh", "-c", "kill -9 $$"]})

    operation = run(cloud)
    with pytest.raises(exceptions.Aborted, match="signal 9"):
        done(operation)

    [task] = cloud.tasks.list_tasks(parent=operation.metadata.name)
    assert (task.last_attempt_result.exit_code, task.last_attempt_result.term_signal) == (0, 9)


def test_task_above_its_memory_limit_is_killed_and_says_so(cloud: World) -> None:
    create(
        cloud,
        max_retries=0,
        env={"EAT_BYTES": str(120 * 2**20), "WAIT_FOR": LET_GO},
        container={"resources": {"limits": {"memory": "64Mi"}}},
    )

    with pytest.raises(exceptions.Aborted, match="Memory limit of 64 MiB exceeded with"):
        done(run(cloud))


def test_overrides_hold_for_one_execution_only(cloud: World) -> None:
    before = create(
        cloud,
        env={"KEPT": "1", "CHANGED": "1"},
        container={"name": "main", "args": ["of-the-job"]},
    )

    execution = done(
        run(
            cloud,
            task_count=2,
            timeout={"seconds": 77},
            container_overrides=[
                {
                    "name": "main",
                    "args": ["other"],
                    "env": [{"name": "CHANGED", "value": "2"}, {"name": "NEW", "value": "3"}],
                }
            ],
        )
    )
    cleared = done(run(cloud, container_overrides=[{"clear_args": True}]))

    left = seen(cloud, execution.name)
    assert [(s["TASK_INDEX"], s["TASK_COUNT"], s["argv"]) for s in left] == [
        ("0", "2", ["other"]),
        ("1", "2", ["other"]),
    ]
    assert [left[0]["env"][name] for name in ("KEPT", "CHANGED", "NEW")] == ["1", "2", "3"]
    assert (execution.task_count, execution.template.timeout.seconds) == (2, 77)
    [plain] = seen(cloud, cleared.name)
    assert (plain["argv"], plain["env"]["CHANGED"]) == ([], "1")
    after = cloud.jobs.get_job(name=JOB)
    assert (after.template, after.etag) == (before.template, before.etag)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param({"task_count": -1}, "task_count", id="tasks"),
        pytest.param({"timeout": {"seconds": 0}}, "timeout", id="timeout"),
        pytest.param({"container_overrides": [{"name": "side"}]}, "'side'", id="container"),
        pytest.param(
            {"container_overrides": [{"clear_args": True, "args": ["x"]}]}, "not both", id="args"
        ),
        pytest.param(
            {"container_overrides": [{"env": [{"name": "CLOUD_RUN_TASK_INDEX", "value": "1"}]}]},
            "reserved env names",
            id="reserved",
        ),
    ],
)
def test_override_that_cannot_be_is_refused_and_starts_nothing(
    cloud: World, overrides: dict[str, Any], message: str
) -> None:
    create(cloud)

    with pytest.raises(exceptions.InvalidArgument, match=message):
        run(cloud, **overrides)

    assert list(cloud.executions.list_executions(parent=JOB)) == []


def test_cancelled_execution_ends_its_processes_and_starts_no_others(cloud: World) -> None:
    create(cloud, task_count=3, env={"WAIT_FOR": LET_GO})
    operation = run(cloud)
    name = operation.metadata.name
    until(lambda: len(seen(cloud, name)) == 2, "two tasks to run")

    cancelled = done(cloud.executions.cancel_execution(name=name))

    assert cancelled.name == name
    assert (cancelled.cancelled_count, cancelled.running_count) == (3, 0)
    assert completed(cancelled).state == State.CONDITION_FAILED
    assert completed(cancelled).execution_reason == Reason.CANCELLED
    # The operation of the run ends with the execution too, which says that it was cancelled.
    assert done(operation) == cancelled
    assert attempts(cloud, name) == [(0, 0), (1, 0)]
    assert not any(is_running(s["pid"]) for s in seen(cloud, name))
    assert log(cloud, name) == "attempt 0\nterminated\n"
    latest = cloud.jobs.get_job(name=JOB).latest_created_execution
    assert latest.completion_status == Completion.EXECUTION_CANCELLED
    with pytest.raises(exceptions.FailedPrecondition, match="not running"):
        cloud.executions.cancel_execution(name=name)


def test_execution_waiting_for_a_place_can_be_cancelled_at_once(cloud: World) -> None:
    create(cloud, task_count=2, env={"WAIT_FOR": LET_GO})
    first = run(cloud)
    until(lambda: len(seen(cloud, first.metadata.name)) == 2, "the first execution to run")
    second = run(cloud)

    cancelled = done(cloud.executions.cancel_execution(name=second.metadata.name))

    assert cancelled.cancelled_count == 2
    assert seen(cloud, second.metadata.name) == []
    (cloud.folder / LET_GO).touch()
    assert done(first).succeeded_count == 2


@pytest.mark.parametrize("deaf", [{}, {"DEAF": "1"}], ids=["ends-on-sigterm", "needs-sigkill"])
def test_attempt_that_takes_too_long_is_terminated_and_counts_as_failed(
    cloud: World, deaf: dict[str, str]
) -> None:
    create(
        cloud,
        max_retries=0 if deaf else 1,
        timeout={"seconds": 1},
        env={"WAIT_FOR": LET_GO, **deaf},
    )

    operation = run(cloud)
    with pytest.raises(exceptions.DeadlineExceeded, match="The configured timeout was reached"):
        done(operation)

    name = operation.metadata.name
    [task] = cloud.tasks.list_tasks(parent=name)
    assert task.last_attempt_result.status.code == 4
    assert log(cloud, name).count("terminated") == len(attempts(cloud, name)) == task.retried + 1
    assert task.retried == (0 if deaf else 1)
    assert not any(is_running(s["pid"]) for s in seen(cloud, name))


def test_job_of_an_unknown_image_is_kept_and_cannot_be_run(cloud: World) -> None:
    with pytest.raises(exceptions.NotFound, match="Image 'images/none' not found"):
        create(cloud, container={"image": "images/none"})

    kept = cloud.jobs.get_job(name=JOB)
    assert kept.terminal_condition.state == State.CONDITION_FAILED
    with pytest.raises(exceptions.FailedPrecondition, match="images/none"):
        run(cloud)
    fixed = job(etag=kept.etag)
    fixed.name = JOB
    done(cloud.jobs.update_job(job=fixed))
    assert done(run(cloud)).succeeded_count == 1


def test_update_replaces_the_job_and_only_a_change_makes_a_generation(cloud: World) -> None:
    create(cloud, labels={"old": "1"}, task_count=3)

    changed = job(container={"args": ["new"]})
    changed.name = JOB
    after = done(cloud.jobs.update_job(job=changed))
    again = done(cloud.jobs.update_job(job=after))

    assert (dict(after.labels), after.template.task_count, after.generation) == ({}, 1, 2)
    assert again.generation == 2
    assert again.etag != after.etag
    missing = job()
    missing.name = f"{PARENT}/jobs/missing"
    with pytest.raises(exceptions.NotFound):
        cloud.jobs.update_job(job=missing)
    request = run_v2.UpdateJobRequest(job=missing, allow_missing=True)
    assert done(cloud.jobs.update_job(request)).name == missing.name


def test_stale_etag_is_a_conflict_and_changes_nothing(cloud: World) -> None:
    first = create(cloud)
    second = job(labels={"by": "second"}, etag=first.etag)
    second.name = JOB
    now = done(cloud.jobs.update_job(job=second))

    late = job(labels={"by": "late"}, etag=first.etag)
    late.name = JOB
    for call in (
        lambda: cloud.jobs.update_job(job=late),
        lambda: cloud.jobs.delete_job(run_v2.DeleteJobRequest(name=JOB, etag=first.etag)),
        lambda: cloud.jobs.run_job(run_v2.RunJobRequest(name=JOB, etag=first.etag)),
    ):
        with pytest.raises(exceptions.Aborted, match="Conflict for resource"):
            call()

    assert cloud.jobs.get_job(name=JOB) == now
    assert list(cloud.executions.list_executions(parent=JOB)) == []


def test_validate_only_checks_and_changes_nothing(cloud: World) -> None:
    create(cloud)
    before = cloud.jobs.get_job(name=JOB)

    other = job(task_count=9)
    other.name = JOB
    request = run_v2.UpdateJobRequest(job=other, validate_only=True)
    would_be = done(cloud.jobs.update_job(request))
    done(cloud.jobs.run_job(run_v2.RunJobRequest(name=JOB, validate_only=True)))
    done(cloud.jobs.delete_job(run_v2.DeleteJobRequest(name=JOB, validate_only=True)))

    assert would_be.template.task_count == 9
    assert cloud.jobs.get_job(name=JOB) == before
    assert list(cloud.executions.list_executions(parent=JOB)) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"job_id": "Prepare"}, "InvalidArgument", "job_id", id="letters"),
        pytest.param({"job_id": "p" * 50}, "InvalidArgument", "at most 49", id="long-name"),
        pytest.param({"task_count": 10_001}, "InvalidArgument", "1 to 10000", id="tasks"),
        pytest.param({"parallelism": -1}, "InvalidArgument", "parallelism", id="parallelism"),
        pytest.param({"max_retries": 11}, "InvalidArgument", "0 to 10", id="retries"),
        pytest.param({"timeout": {"seconds": 604_801}}, "InvalidArgument", "604800", id="timeout"),
        pytest.param({"container": {"image": ""}}, "InvalidArgument", "image", id="no-image"),
        pytest.param(
            {"env": {"CLOUD_RUN_TASK_COUNT": "1"}}, "InvalidArgument", "reserved", id="reserved"
        ),
        pytest.param(
            {"annotations": {"run.googleapis.com/x": "1"}},
            "InvalidArgument",
            "run.googleapis.com/",
            id="annotation",
        ),
        pytest.param({"execution_environment": 1}, "InvalidArgument", "second gen", id="gen1"),
        pytest.param({"volumes": [{"name": "v"}]}, "MethodNotImplemented", "volumes", id="volumes"),
        pytest.param(
            {"container": {"ports": [{"container_port": 80}]}},
            "MethodNotImplemented",
            "container.ports",
            id="ports",
        ),
        pytest.param(
            {"container": {"startup_probe": {"tcp_socket": {"port": 80}}}},
            "MethodNotImplemented",
            "startup_probe",
            id="probe",
        ),
        pytest.param(
            {"container": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
            "MethodNotImplemented",
            "nvidia.com/gpu",
            id="gpu",
        ),
        pytest.param(
            {"start_execution_token": "x"}, "MethodNotImplemented", "start_execution_token", id="to"
        ),
        pytest.param(
            {"binary_authorization": {"use_default": True}},
            "MethodNotImplemented",
            "binary_authorization",
            id="binary-authorization",
        ),
    ],
)
def test_job_that_cannot_be_run_is_refused_by_name(
    cloud: World, options: dict[str, Any], error: str, message: str
) -> None:
    with pytest.raises(getattr(exceptions, error), match=message):
        create(cloud, **options)
    assert list(cloud.jobs.list_jobs(parent=PARENT)) == []


def test_what_does_not_exist_is_not_found(cloud: World) -> None:
    for call in (
        lambda: cloud.jobs.get_job(name=JOB),
        lambda: run(cloud),
        lambda: cloud.jobs.delete_job(name=JOB),
        lambda: list(cloud.executions.list_executions(parent=JOB)),
        lambda: cloud.executions.get_execution(name=f"{JOB}/executions/prepare-abcde"),
        lambda: cloud.executions.cancel_execution(name=f"{JOB}/executions/prepare-abcde"),
        lambda: list(cloud.tasks.list_tasks(parent=f"{JOB}/executions/prepare-abcde")),
        lambda: cloud.tasks.get_task(name=f"{JOB}/executions/prepare-abcde/tasks/x"),
    ):
        with pytest.raises(exceptions.NotFound):
            call()


def test_second_job_of_a_name_is_refused(cloud: World) -> None:
    create(cloud)
    with pytest.raises(exceptions.AlreadyExists):
        create(cloud, task_count=2)
    assert cloud.jobs.get_job(name=JOB).template.task_count == 1


def test_methods_that_are_not_offered_are_refused_by_name(cloud: World) -> None:
    create(cloud)
    with pytest.raises(exceptions.MethodNotImplemented, match=r"v2\.Jobs/GetIamPolicy"):
        cloud.jobs.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=JOB))
    with pytest.raises(exceptions.MethodNotImplemented, match="show_deleted"):
        list(cloud.jobs.list_jobs(run_v2.ListJobsRequest(parent=PARENT, show_deleted=True)))


def test_executions_and_tasks_are_listed_across_jobs_and_in_pages(cloud: World) -> None:
    names = []
    for job_id in ("one", "two"):
        create(cloud, job_id, task_count=2)
        names.append(done(run(cloud, f"{PARENT}/jobs/{job_id}")).name)

    everywhere = cloud.executions.list_executions(parent=f"{PARENT}/jobs/-")
    assert [execution.name for execution in everywhere] == names[::-1]
    request = run_v2.ListTasksRequest(parent=f"{PARENT}/jobs/-/executions/-", page_size=3)
    pages = list(cloud.tasks.list_tasks(request).pages)
    assert [[task.index for task in page.tasks] for page in pages] == [[0, 1, 0], [1]]
    of_one = cloud.tasks.list_tasks(parent=f"{PARENT}/jobs/one/executions/-")
    assert {task.job for task in of_one} == {"one"}


def test_deleted_job_is_gone_with_its_executions_and_its_processes_end(cloud: World) -> None:
    create(cloud, env={"WAIT_FOR": LET_GO})
    operation = run(cloud)
    name = operation.metadata.name
    [attempt] = until(lambda: seen(cloud, name), "the task to run")

    with ThreadPoolExecutor() as pool:
        request = operations_pb2.WaitOperationRequest(name=operation.operation.name)
        waiters = [pool.submit(cloud.jobs.wait_operation, request) for _ in range(4)]
        deleted = done(cloud.jobs.delete_job(name=JOB))
        for waiter in waiters:
            waiter.result(timeout=20)

    assert deleted.name == JOB
    assert deleted.delete_time
    for call in (
        lambda: cloud.jobs.get_job(name=JOB),
        lambda: cloud.executions.get_execution(name=name),
    ):
        with pytest.raises(exceptions.NotFound):
            call()
    assert completed(done(operation)).execution_reason == Reason.CANCELLED
    until(lambda: not is_running(attempt["pid"]), "the task's process to end")
    assert create(cloud).execution_count == 0


def test_deleted_execution_is_gone_and_its_job_stays(cloud: World) -> None:
    create(cloud)
    execution = done(run(cloud))

    deleted = done(cloud.executions.delete_execution(name=execution.name))

    assert deleted.name == execution.name
    assert list(cloud.executions.list_executions(parent=JOB)) == []
    latest = cloud.jobs.get_job(name=JOB).latest_created_execution
    assert latest.name == execution.name
    assert latest.delete_time


def test_jobs_and_executions_are_there_after_a_restart_and_what_ran_is_tried_again(
    tmp_path: Path,
) -> None:
    with world(tmp_path, task_slots=2) as cloud:
        create(cloud, "done")
        create(cloud, "running", max_retries=0, env={"WAIT_FOR": LET_GO})
        finished = done(run(cloud, f"{PARENT}/jobs/done"))
        operation = run(cloud, f"{PARENT}/jobs/running")
        name = operation.metadata.name
        until(lambda: seen(cloud, name), "the task to run")
        before = list(cloud.jobs.list_jobs(parent=PARENT))

    with world(tmp_path, task_slots=2) as cloud:
        assert list(cloud.jobs.list_jobs(parent=PARENT)) == before
        assert cloud.executions.get_execution(name=finished.name) == finished
        until(lambda: attempts(cloud, name) == [(0, 0), (0, 1)], "the second attempt")
        (tmp_path / LET_GO).touch()
        request = {"name": operation.operation.name}
        until(lambda: cloud.jobs.get_operation(request).done, "the operation")
        execution = cloud.executions.get_execution(name=name)
        # The interruption used up none of the task's retries, of which it has none.
        assert (execution.succeeded_count, execution.retried_count) == (1, 1)


HOLDER = f"""
import sys, time
from pathlib import Path
from tests.contract.run_world import PARENT, World, run_v2
from tests.contract.test_run_jobs import JOB, create, run

cloud = World(Path(sys.argv[1]), task_slots=2)
create(cloud, task_count=3, max_retries=0, env={{"WAIT_FOR": "{LET_GO}"}})
operation = run(cloud)
create(cloud, "other", env={{"WAIT_FOR": "{LET_GO}"}})
cancelled = run(cloud, PARENT + "/jobs/other")
cloud.executions.cancel_execution(name=cancelled.metadata.name)
print(operation.metadata.name, operation.operation.name, cancelled.metadata.name, flush=True)
time.sleep(600)
"""


def test_killed_local_cloud_leaves_no_process_and_its_tasks_are_tried_again(
    tmp_path: Path,
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with contextlib.closing(holder.stdout):
        name, operation, cancelled = holder.stdout.readline().split()
    files = tmp_path / "seen"
    until(lambda: len(list(files.glob(f"{name.split('/')[-1]}-*.json"))) == 2, "two tasks")
    pids = [json.loads(file.read_text())["pid"] for file in files.glob("*.json")]

    holder.send_signal(signal.SIGKILL)
    holder.wait()

    for pid in pids:
        until(lambda pid=pid: not is_running(pid), f"process {pid} to end")
    with world(tmp_path, task_slots=2) as cloud:
        again = [(0, 0), (0, 1), (1, 0), (1, 1)]
        until(lambda: attempts(cloud, name) == again, "both tasks to be tried again")
        (tmp_path / LET_GO).touch()
        until(lambda: cloud.jobs.get_operation({"name": operation}).done, "the operation")
        execution = cloud.executions.get_execution(name=name)
        assert (execution.succeeded_count, execution.retried_count) == (3, 2)
        assert attempts(cloud, name) == [*again, (2, 0)]
        other = cloud.executions.get_execution(name=cancelled)
        assert completed(other).execution_reason == Reason.CANCELLED
        assert seen(cloud, cancelled) == []


def test_process_that_a_killed_task_had_started_is_killed_at_the_next_start(
    tmp_path: Path,
) -> None:
    with world(tmp_path) as cloud:
        create(cloud)
    leader = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 600 >/dev/null & echo $!"],
        start_new_session=True,
        env={"CLOUD_RUN_EXECUTION": "prepare-abcde", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
    )
    left = int(leader.communicate()[0])
    assert is_running(left)
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "run.db")) as database, database:
        database.execute("INSERT INTO processes VALUES (?, 0, 'prepare-abcde')", (leader.pid,))

    with world(tmp_path):
        until(lambda: not is_running(left), "the process to be killed")
