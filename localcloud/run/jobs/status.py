"""What executions and tasks show of themselves: counts, conditions, messages."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from google.cloud import run_v2
from google.rpc import code_pb2

from localcloud.run.jobs.outcome import CANCELLED, duration, failure
from localcloud.run.jobs.store import ExecutionRecord, Tally, TaskRecord
from localcloud.run.messages import FAILED, RECONCILING, SUCCEEDED, Task, condition, moment

_STATUS: Any = run_v2.ExecutionReference.CompletionStatus
COMPLETION_STATUS = {
    "running": int(_STATUS.EXECUTION_RUNNING),
    "cancelling": int(_STATUS.EXECUTION_RUNNING),
    "succeeded": int(_STATUS.EXECUTION_SUCCEEDED),
    "failed": int(_STATUS.EXECUTION_FAILED),
    "cancelled": int(_STATUS.EXECUTION_CANCELLED),
}


def show(
    record: ExecutionRecord, tally: Tally, first_failed: TaskRecord | None, at_ns: int
) -> None:
    """Write an execution's state, counts and conditions as its tasks stand.

    It has failed only after every task came to its end: the others are tried to theirs.
    """
    execution = record.execution
    execution.running_count = tally.running
    execution.succeeded_count = tally.succeeded
    execution.failed_count = tally.failed
    execution.cancelled_count = tally.cancelled
    execution.retried_count = tally.retried
    if not (tally.pending or tally.running):
        record.state = "cancelled" if tally.cancelled else "failed" if tally.failed else "succeeded"
        execution.completion_time.CopyFrom(moment(at_ns))
        execution.observed_generation = execution.generation
    execution.reconciling = not is_finished(record)
    execution.update_time.CopyFrom(moment(at_ns))
    execution.etag = f'"{secrets.token_urlsafe(12)}"'
    created, started = execution.create_time, execution.start_time
    del execution.conditions[:]
    execution.conditions.extend(
        [
            _completed(record, first_failed),
            condition("ContainerReady", SUCCEEDED, "Imported container image.", since=created),
            condition(
                "ResourcesAvailable", SUCCEEDED, "Provisioned imported containers.", since=created
            ),
        ]
    )
    if execution.HasField("start_time"):
        took = duration(started.ToNanoseconds() - created.ToNanoseconds())
        words = f"Started deployed execution in {took}."
        execution.conditions.append(condition("Started", SUCCEEDED, words, since=started))
    else:
        execution.conditions.append(condition("Started", RECONCILING, since=created))


def is_finished(record: ExecutionRecord) -> bool:
    return record.state not in ("running", "cancelling")


def _completed(record: ExecutionRecord, first_failed: TaskRecord | None) -> Any:
    execution = record.execution
    began = execution.start_time if execution.HasField("start_time") else execution.create_time
    if record.state == "cancelling":
        return condition("Completed", RECONCILING, "", "CANCELLING")
    if record.state == "running":
        words = "Waiting for execution to complete."
        return condition("Completed", RECONCILING, words, since=began)
    ended = execution.completion_time
    if record.state == "cancelled":
        return condition("Completed", FAILED, CANCELLED.message, "CANCELLED", ended)
    if first_failed is not None and first_failed.outcome is not None:
        outcome = first_failed.outcome
        exited = "NON_ZERO_EXIT_CODE" if outcome.code == code_pb2.ABORTED else ""
        words = failure(first_failed.id, outcome)
        return condition("Completed", FAILED, words, exited, ended)
    took = duration(ended.ToNanoseconds() - began.ToNanoseconds())
    words = f"Execution completed successfully in {took}."
    return condition("Completed", SUCCEEDED, words, since=ended)


def task_of(record: TaskRecord, execution: Any) -> Any:
    """Return the Task resource of a task of `execution`."""
    template = execution.template
    task = Task(
        name=f"{execution.name}/tasks/{record.id}",
        uid=str(uuid.uuid5(uuid.UUID(execution.uid), str(record.number))),
        generation=1,
        labels=dict(execution.labels),
        annotations=dict(execution.annotations),
        job=execution.job,
        execution=record.execution_id,
        containers=template.containers,
        max_retries=template.max_retries,
        timeout=template.timeout,
        service_account=template.service_account,
        execution_environment=template.execution_environment,
        reconciling=record.state in ("pending", "running"),
        index=record.number,
        retried=max(0, record.attempts - 1),
        log_uri=f"{execution.log_uri}/task{record.number}.log",
        create_time=execution.create_time,
        scheduled_time=execution.create_time,
    )
    if record.started_ns:
        task.start_time.CopyFrom(moment(record.started_ns))
    if record.ended_ns:
        task.completion_time.CopyFrom(moment(record.ended_ns))
    if not task.reconciling:
        task.observed_generation = task.generation
    if record.outcome is not None:
        result = task.last_attempt_result
        result.status.code = record.outcome.code
        result.status.message = record.outcome.message
        result.exit_code = record.outcome.exit_code
        result.term_signal = record.outcome.signal
    task.conditions.extend(_task_conditions(record, task))
    return task


def _task_conditions(record: TaskRecord, task: Any) -> list[Any]:
    created = task.create_time
    started = task.start_time if record.started_ns else created
    is_started = condition(
        "Started", SUCCEEDED if record.started_ns else RECONCILING, since=started
    )
    if task.reconciling:
        return [condition("Completed", RECONCILING, since=started), is_started]
    ended = task.completion_time
    if record.state == "succeeded":
        return [condition("Completed", SUCCEEDED, since=ended), is_started]
    outcome = record.outcome or CANCELLED
    if record.state == "cancelled":
        words, reason = CANCELLED.message, "CANCELLED"
    else:
        words = failure(record.id, outcome)
        reason = "NON_ZERO_EXIT_CODE" if outcome.code == code_pb2.ABORTED else ""
    return [condition("Completed", FAILED, words, reason, ended), is_started]
