"""What Cloud Run is sent to run a job, and what of its executions is believed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import PermissionDenied
from google.cloud import run_v2
from google.longrunning import operations_pb2

from shared.errors import NotFound, Refused
from shared.gcp.jobs import RunJobs
from shared.ports import JobState, JobView
from tests.fakes import SETTINGS
from tests.unit.stepping import declaration, deployment

JOB = f"{SETTINGS.parent}/jobs/prepare-movies"
EXECUTION = f"{JOB}/executions/prepare-movies-x7k2p"
States = run_v2.Condition.State


class Jobs:
    """The Jobs and Executions of Cloud Run, answering as they are told."""

    def __init__(self) -> None:
        self.runs: list[Any] = []
        self.found = run_v2.Execution(name=EXECUTION, task_count=4, succeeded_count=1)
        self.refusal: grpc.StatusCode | None = None

    def run(self, request: Any, context: grpc.ServicerContext) -> operations_pb2.Operation:
        if self.refusal:
            context.abort(self.refusal, "no")
        self.runs.append(request)
        operation = operations_pb2.Operation(name=f"{SETTINGS.parent}/operations/1")
        operation.metadata.Pack(run_v2.Execution.pb(self.found))
        return operation

    def get(self, _: Any, context: grpc.ServicerContext) -> Any:
        if self.refusal:
            context.abort(self.refusal, "no")
        return run_v2.Execution.pb(self.found)

    def cancel(self, _: Any, context: grpc.ServicerContext) -> operations_pb2.Operation:
        if self.refusal:
            context.abort(self.refusal, "no")
        return operations_pb2.Operation(name=f"{SETTINGS.parent}/operations/2")

    def handlers(self) -> list[grpc.GenericRpcHandler[Any, Any]]:
        operation = operations_pb2.Operation.SerializeToString
        execution = run_v2.Execution.pb().SerializeToString
        methods: dict[str, dict[str, Any]] = {
            "Jobs": {"RunJob": (self.run, run_v2.RunJobRequest.pb(), operation)},
            "Executions": {
                "GetExecution": (self.get, run_v2.GetExecutionRequest.pb(), execution),
                "CancelExecution": (self.cancel, run_v2.CancelExecutionRequest.pb(), operation),
            },
        }
        return [
            grpc.method_handlers_generic_handler(
                f"google.cloud.run.v2.{service}",
                {
                    name: grpc.unary_unary_rpc_method_handler(method, request.FromString, encode)
                    for name, (method, request, encode) in of_service.items()
                },
            )
            for service, of_service in methods.items()
        ]


@pytest.fixture
def cloud() -> Jobs:
    return Jobs()


@pytest.fixture
def jobs(cloud: Jobs) -> Iterator[RunJobs]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers(tuple(cloud.handlers()))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield RunJobs(
            client(run_v2.JobsClient, channel),
            client(run_v2.ExecutionsClient, channel),
            lambda _: SETTINGS.parent,
        )
    server.stop(None).wait()


def client(kind: Any, channel: grpc.Channel) -> Any:
    return kind(transport=kind.get_transport_class("grpc")(channel=channel))


def sent(cloud: Jobs) -> tuple[dict[str, str], int]:
    """Return environment and task count that the one run was given."""
    [request] = cloud.runs
    assert request.name == JOB
    [container] = request.overrides.container_overrides
    return {one.name: one.value for one in container.env}, request.overrides.task_count


def test_run_is_told_the_version_and_what_to_prepare(cloud: Jobs, jobs: RunJobs) -> None:
    made = deployment(
        serving_model_path="gs://serving/models/movies/v1/", artifact_digest="sha256:1"
    )
    assert jobs.start(made) == EXECUTION
    assert sent(cloud) == (
        {
            "MODEL_ID": "movies",
            "MODEL_PATH": "gs://serving/models/movies/v1/",
            "MODEL_VERSION": "v1",
            "MODEL_DIGEST": "sha256:1",
            "TRAINING_RUN": "1",
            "PREPARED_TOP_K": "10",
            "PREPARED_CUSTOMERS": "",
            "RETRIEVAL": "exact",
            "MINIMUM_RECALL": "0.95",
        },
        1,
    )


def test_run_follows_the_models_own_configuration(cloud: Jobs, jobs: RunJobs) -> None:
    config = declaration(
        env={"TF_CPP_MIN_LOG_LEVEL": "2"},
        prepare={"top_k": 0, "customers": 1000, "tasks": 4},
        retrieval={"kind": "approximate", "minimum_recall": 0.9},
    ).config
    jobs.start(deployment(config=config))
    environment, tasks = sent(cloud)
    assert tasks == 4
    assert (
        environment.items()
        >= {
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "PREPARED_TOP_K": "0",
            "PREPARED_CUSTOMERS": "1000",
            "RETRIEVAL": "approximate",
            "MINIMUM_RECALL": "0.9",
        }.items()
    )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.INVALID_ARGUMENT, Refused),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
    ],
)
def test_run_that_is_not_let_through_is_told_apart(
    cloud: Jobs, jobs: RunJobs, code: grpc.StatusCode, error: type[Exception]
) -> None:
    cloud.refusal = code
    with pytest.raises(error):
        jobs.start(deployment())


@pytest.mark.parametrize(
    ("completed", "state"),
    [
        pytest.param(None, JobState.RUNNING, id="nothing said yet"),
        pytest.param({"state": States.CONDITION_PENDING}, JobState.RUNNING, id="pending"),
        pytest.param({"state": States.CONDITION_RECONCILING}, JobState.RUNNING, id="running"),
        pytest.param({"state": States.CONDITION_SUCCEEDED}, JobState.SUCCEEDED, id="succeeded"),
        pytest.param(
            {"state": States.CONDITION_FAILED, "execution_reason": "NON_ZERO_EXIT_CODE"},
            JobState.FAILED,
            id="failed",
        ),
        pytest.param({"state": States.CONDITION_FAILED}, JobState.FAILED, id="failed otherwise"),
        pytest.param(
            {"state": States.CONDITION_FAILED, "execution_reason": "CANCELLED"},
            JobState.CANCELLED,
            id="cancelled",
        ),
        pytest.param(
            {"state": States.CONDITION_RECONCILING, "execution_reason": "CANCELLING"},
            JobState.RUNNING,
            id="being cancelled",
        ),
    ],
)
def test_execution_is_what_its_completed_condition_says(
    cloud: Jobs, jobs: RunJobs, completed: dict[str, Any] | None, state: JobState
) -> None:
    cloud.found.log_uri = "https://logs.test"
    # What started well has not ended well.
    conditions = [run_v2.Condition(type_="Started", state=States.CONDITION_SUCCEEDED)]
    if completed:
        conditions.append(run_v2.Condition({"type_": "Completed", "message": "why", **completed}))
    cloud.found.conditions = conditions
    found = jobs.execution(EXECUTION)
    assert found
    words = "why" if completed else "Cloud Run has not said anything about it yet"
    assert found == JobView(state, words, 1, 4, "https://logs.test")


def test_execution_that_is_gone_is_none_and_needs_no_cancel(cloud: Jobs, jobs: RunJobs) -> None:
    cloud.refusal = grpc.StatusCode.NOT_FOUND
    assert jobs.execution(EXECUTION) is None
    jobs.cancel(EXECUTION)


def test_execution_that_has_ended_stays_as_it_is(cloud: Jobs, jobs: RunJobs) -> None:
    jobs.cancel(EXECUTION)
    cloud.refusal = grpc.StatusCode.FAILED_PRECONDITION
    jobs.cancel(EXECUTION)
