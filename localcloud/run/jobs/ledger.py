"""Writes down what becomes of executions and their tasks, and ends the operations on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from localcloud.run.jobs import status
from localcloud.run.jobs.outcome import CANCELLED, Outcome, failure
from localcloud.run.jobs.store import ExecutionRecord, JobStore, TaskRecord
from localcloud.run.store import Store


@dataclass(frozen=True)
class Attempt:
    """A try of task `number` of an execution; `attempt` counts from 0."""

    execution_id: str
    job_id: str
    number: int
    attempt: int
    execution: Any


class Ledger:
    """Every method is one transaction, on disk when it returns.

    `announce` wakes those who wait for an operation. It must be called outside a transaction:
    who is woken reads the database.
    """

    def __init__(self, store: Store, jobs: JobStore, announce: Callable[[], None]) -> None:
        self._store = store
        self._jobs = jobs
        self.announce = announce

    def recover(self) -> list[str]:
        """Take back the attempts that a stop or a kill cut short; return what is to be run on.

        Their tasks are started again with the next attempt's number. That is safe for whatever
        is safe on Cloud Run, which may try a task again too. Such an attempt was not the task's
        failure, so it does not use up one of its retries.
        """
        unfinished = self._jobs.unfinished()
        for record in unfinished:
            with self._jobs.transaction():
                for task in self._jobs.tasks(record.id):
                    if task.state == "running":
                        task.state = "pending"
                        self._jobs.put_task(task)
                self._write(record)
        return [record.id for record in unfinished]

    def pending(self, execution_id: str) -> tuple[int, list[int]]:
        """Return how many tasks may run at once, and the indexes of those to be run."""
        record = self._jobs.execution(execution_id)
        if record is None or record.state != "running":
            return 0, []
        tasks = self._jobs.tasks(execution_id)
        return record.execution.parallelism, [t.number for t in tasks if t.state == "pending"]

    def begin(self, execution_id: str, number: int) -> Attempt | None:
        """Record that a task starts; None when it must not: cancelled or deleted meanwhile."""
        with self._jobs.transaction():
            record = self._jobs.execution(execution_id)
            task = self._jobs.task(execution_id, number)
            if record is None or task is None or record.state != "running":
                return None
            at_ns = time.time_ns()
            if not record.execution.HasField("start_time"):
                record.execution.start_time.FromNanoseconds(at_ns)
            task.state = "running"
            task.attempts += 1
            task.started_ns = task.started_ns or at_ns
            self._jobs.put_task(task)
            self._write(record)
        return Attempt(execution_id, record.job_id, number, task.attempts - 1, record.execution)

    def ended(self, execution_id: str, number: int, outcome: Outcome) -> bool:
        """Record how an attempt ended; tell whether the task is to be tried again."""
        with self._jobs.transaction():
            record = self._jobs.execution(execution_id)
            task = self._jobs.task(execution_id, number)
            if record is None or task is None:
                return False
            _judge(task, record, outcome)
            self._jobs.put_task(task)
            self._write(record)
        self.announce()
        return task.state == "pending"

    def cancel_rest(self, execution_id: str) -> None:
        """Record that no further task of an execution runs, if it was cancelled."""
        record = self._jobs.execution(execution_id)
        if record is not None and record.state == "cancelling":
            self.close(record)
            self.announce()

    def close(self, record: ExecutionRecord) -> None:
        """End an execution as cancelled, with those of its tasks that are not over; no announce."""
        with self._jobs.transaction():
            for task in self._jobs.tasks(record.id):
                if task.state in ("pending", "running"):
                    task.state, task.outcome = "cancelled", CANCELLED
                    task.ended_ns = time.time_ns()
                    self._jobs.put_task(task)
            self._write(record)

    def refresh(self, record: ExecutionRecord) -> None:
        """Write an execution and what waits for it as its tasks stand."""
        with self._jobs.transaction():
            self._write(record)

    def _write(self, record: ExecutionRecord) -> None:
        status.show(
            record,
            self._jobs.tally(record.id),
            self._jobs.first_failed(record.id),
            time.time_ns(),
        )
        self._jobs.put_execution(record)
        if status.is_finished(record):
            self._show_in_job(record)
        for waiting in self._store.open_operations(f"jobs/{record.job_id}"):
            if waiting.revision != record.id:
                continue
            waiting.operation.metadata.Pack(record.execution)
            if status.is_finished(record):
                self._end(waiting.operation, record)
            self._store.put_operation(waiting)

    def _end(self, operation: Any, record: ExecutionRecord) -> None:
        """End an operation as the execution did.

        With the first failed task's error, or else with the execution: also a cancelled one,
        whose Completed condition says so.
        """
        operation.done = True
        failed = self._jobs.first_failed(record.id)
        if record.state == "failed" and failed is not None and failed.outcome is not None:
            operation.error.code = failed.outcome.code
            operation.error.message = failure(failed.id, failed.outcome)
        else:
            operation.response.Pack(record.execution)

    def _show_in_job(self, record: ExecutionRecord) -> None:
        job = self._jobs.job(record.job_id)
        if job is None or job.latest_created_execution.name != record.execution.name:
            return
        latest = job.latest_created_execution
        latest.completion_time.CopyFrom(record.execution.completion_time)
        latest.completion_status = status.COMPLETION_STATUS[record.state]
        self._jobs.put_job(record.job_id, job)


def _judge(task: TaskRecord, record: ExecutionRecord, outcome: Outcome) -> None:
    """Decide what an attempt's outcome makes of its task."""
    task.outcome = outcome
    if outcome.succeeded:
        task.state = "succeeded"
    elif record.state == "cancelling":
        task.state, task.outcome = "cancelled", CANCELLED
    else:
        task.failures += 1
        exhausted = task.failures > record.execution.template.max_retries
        task.state = "failed" if exhausted else "pending"
    if task.state != "pending":
        task.ended_ns = time.time_ns()
