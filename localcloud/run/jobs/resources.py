"""New jobs, executions and operations, and what a job shows of itself."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import grpc
from google.cloud import run_v2
from google.longrunning import operations_pb2

from localcloud.run.jobs import status
from localcloud.run.jobs.store import ExecutionRecord
from localcloud.run.messages import FAILED, SUCCEEDED, Execution, Job, condition, now
from localcloud.run.names import new_operation_name
from localcloud.run.store import OperationRecord


def new_job(name: str) -> Any:
    """Return a job without a specification."""
    job = Job(name=name, uid=str(uuid.uuid4()))
    job.create_time.CopyFrom(now())
    return job


def show_ready(job: Any, has_image: bool) -> None:
    """Say whether a job can be run: with an image that is known here."""
    job.observed_generation = job.generation
    ready = condition("Ready", SUCCEEDED)
    if not has_image:
        image = job.template.template.containers[0].image
        words = f"Image '{image}' not found. This local cloud knows no such image."
        ready = condition("Ready", FAILED, words, "CONTAINER_MISSING")
    shown = job.terminal_condition
    if (ready.state, ready.message) != (shown.state, shown.message):
        shown.CopyFrom(ready)


def new_execution(
    job_id: str, execution_id: str, template: Any, job: Any, logs: Path
) -> ExecutionRecord:
    """Return an execution of a completed, perhaps overridden template; its logs go to `logs`."""
    execution = Execution(
        name=f"{job.name}/executions/{execution_id}",
        uid=str(uuid.uuid4()),
        generation=1,
        labels=dict(template.labels),
        annotations=dict(template.annotations),
        launch_stage=job.launch_stage,
        job=job_id,
        task_count=template.task_count,
        parallelism=min(template.parallelism or template.task_count, template.task_count),
        template=template.template,
        reconciling=True,
        log_uri=(logs / execution_id).resolve().as_uri(),
    )
    execution.create_time.CopyFrom(now())
    return ExecutionRecord(execution_id, job_id, "running", execution)


def reference(record: ExecutionRecord) -> Any:
    """Return how a job refers to an execution just made."""
    return run_v2.ExecutionReference.pb()(
        name=record.execution.name,
        create_time=record.execution.create_time,
        completion_status=status.COMPLETION_STATUS[record.state],
    )


def operation(job_id: str, about: Any, execution_id: str = "") -> OperationRecord:
    """Return an operation of a job; one of an execution ends when that does."""
    made = operations_pb2.Operation(name=new_operation_name(about.name))
    made.metadata.Pack(about)
    return OperationRecord(f"jobs/{job_id}", 0, execution_id, made)


def done_operation(job_id: str, about: Any) -> OperationRecord:
    """Return an operation that has ended with `about`."""
    record = operation(job_id, about)
    record.operation.done = True
    record.operation.response.Pack(about)
    return record


def end_with_job(waiting: Any, job: Any) -> None:
    """End an operation with its job, or with why the job cannot be run."""
    waiting.done = True
    if job.terminal_condition.state == SUCCEEDED:
        waiting.response.Pack(job)
    else:
        waiting.error.code = grpc.StatusCode.NOT_FOUND.value[0]
        waiting.error.message = job.terminal_condition.message
