"""The use cases of the Jobs, Executions and Tasks APIs."""

from __future__ import annotations

import random
import secrets
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localcloud.run.errors import AlreadyExists, FailedPrecondition, NotFound, check_etag
from localcloud.run.jobs import resources, specification, status
from localcloud.run.jobs.ledger import Ledger
from localcloud.run.jobs.store import ExecutionRecord, JobStore
from localcloud.run.messages import SUCCEEDED, now
from localcloud.run.names import Names, check_job_id, location_of, refuse_second_region
from localcloud.run.store import Store

_SUFFIX_LETTERS = string.ascii_lowercase + string.digits
_SUFFIX_LENGTH = 5


class Control:
    """Changes what is asked for in one transaction, then has it made true.

    An answered write is on disk. `has_image` tells whether an image is known here; `start` and
    `stop` have an execution's tasks run and ended.
    """

    def __init__(
        self,
        store: Store,
        jobs: JobStore,
        ledger: Ledger,
        names: Names,
        logs: Path,
        has_image: Callable[[str], bool],
        start: Callable[[str], None],
        stop: Callable[[str], None],
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._ledger = ledger
        self._names = names
        self._logs = logs
        self._has_image = has_image
        self._start = start
        self._stop = stop

    def recheck(self) -> None:
        """Write anew which jobs can be run, after a start with perhaps other images."""
        with self._jobs.transaction():
            for job_id, job in self._jobs.jobs():
                self._show_ready(job)
                self._jobs.put_job(job_id, job)

    # -- jobs

    def create(self, parent: str, job_id: str, given: Any, validate_only: bool) -> Any:
        """Create a job; return the operation, which is done."""
        self._names.check_parent(parent)
        check_job_id(job_id)
        name = f"{parent}/jobs/{job_id}"
        with self._jobs.transaction():
            if self._found(name) is not None:
                raise AlreadyExists(f"Resource '{job_id}' already exists.")
            return self._write(job_id, self._new_job(name), given, validate_only)

    def update(self, given: Any, validate_only: bool, allow_missing: bool) -> Any:
        """Replace a job's specification; return the operation, which is done.

        Executions that run go on as they were started.
        """
        job_id = self._names.job_id(given.name)
        with self._jobs.transaction():
            job = self._found(given.name)
            if job is None:
                if not allow_missing:
                    raise NotFound(given.name)
                check_job_id(job_id)
                job = self._new_job(given.name)
            check_etag(given.name, given.etag, job.etag)
            return self._write(job_id, job, given, validate_only)

    def _write(self, job_id: str, before: Any, given: Any, validate_only: bool) -> Any:
        job = specification.merged(before, given)
        specification.check(job)
        if job != before:
            job.generation += 1
        job.update_time.CopyFrom(now())
        # Every accepted write changes the etag: whoever read before it must read again.
        job.etag = f'"{secrets.token_urlsafe(12)}"'
        self._show_ready(job)
        operation = resources.operation(job_id, job)
        resources.end_with_job(operation.operation, job)
        if not validate_only:
            self._jobs.put_job(job_id, job)
            self._store.put_operation(operation)
        return operation.operation

    def get(self, name: str) -> Any:
        return self._existing(name)

    def all(self, parent: str) -> list[Any]:
        self._names.check_parent(parent)
        return [job for _, job in self._jobs.jobs() if location_of(job.name) == parent]

    def delete(self, name: str, etag: str, validate_only: bool) -> Any:
        """Delete a job with its executions; return the operation, which is done.

        What runs is ended afterwards, as in a cancelled execution.
        """
        job_id = self._names.job_id(name)
        with self._jobs.transaction():
            job = self._existing(name)
            check_etag(name, etag, job.etag)
            job.delete_time.CopyFrom(now())
            operation = resources.done_operation(job_id, job)
            if validate_only:
                return operation.operation
            executions = self._jobs.executions(job_id)
            for record in executions:
                self._forget(record)
            self._jobs.delete_job(job_id)
            self._store.put_operation(operation)
        self._ledger.announce()
        for record in executions:
            self._stop(record.id)
        return operation.operation

    # -- executions

    def run(self, name: str, etag: str, overrides: Any, validate_only: bool) -> Any:
        """Start an execution; return the operation, which ends when the execution does.

        Each call makes one more execution. A kill after the commit loses none: the next start
        runs what is stored.
        """
        job_id = self._names.job_id(name)
        with self._jobs.transaction():
            job = self._existing(name)
            check_etag(name, etag, job.etag)
            if job.terminal_condition.state != SUCCEEDED:
                raise FailedPrecondition(
                    f"Job '{job_id}' is not ready to be run: {job.terminal_condition.message}"
                )
            template = specification.overridden(job.template, overrides)
            record = resources.new_execution(
                job_id, self._new_execution_id(job_id), template, job, self._logs
            )
            if validate_only:
                return resources.done_operation(job_id, record.execution).operation
            job.execution_count += 1
            job.latest_created_execution.CopyFrom(resources.reference(record))
            self._jobs.put_job(job_id, job)
            self._jobs.add_tasks(record.id, template.task_count)
            self._ledger.refresh(record)
            operation = resources.operation(job_id, record.execution, record.id)
            self._store.put_operation(operation)
        self._start(record.id)
        return operation.operation

    def cancel(self, name: str, etag: str, validate_only: bool) -> Any:
        """Cancel an execution; return the operation, which ends when its last process has.

        Asking again while it is being cancelled changes nothing and waits for the same end.
        """
        with self._jobs.transaction():
            record = self._existing_execution(name)
            check_etag(name, etag, record.execution.etag)
            if status.is_finished(record):
                raise FailedPrecondition(
                    f"Execution '{record.id}' cannot be cancelled because it is not running."
                )
            if validate_only:
                return resources.done_operation(record.job_id, record.execution).operation
            record.state = "cancelling"
            self._ledger.refresh(record)
            operation = resources.operation(record.job_id, record.execution, record.id)
            self._store.put_operation(operation)
        self._stop(record.id)
        return operation.operation

    def execution(self, name: str) -> Any:
        return self._existing_execution(name).execution

    def executions(self, parent: str) -> list[Any]:
        job_id = self._names.job_ids(parent)
        if job_id is not None:
            self._existing(parent)
        return [record.execution for record in self._executions(location_of(parent), job_id)]

    def delete_execution(self, name: str, etag: str, validate_only: bool) -> Any:
        """Delete an execution with its tasks; return the operation, which is done."""
        with self._jobs.transaction():
            record = self._existing_execution(name)
            check_etag(name, etag, record.execution.etag)
            if validate_only:
                return resources.done_operation(record.job_id, record.execution).operation
            self._forget(record)
            record.execution.delete_time.CopyFrom(now())
            operation = resources.done_operation(record.job_id, record.execution)
            job = self._existing(name.rpartition("/executions/")[0])
            if job.latest_created_execution.name == name:
                job.latest_created_execution.delete_time.CopyFrom(record.execution.delete_time)
                self._jobs.put_job(record.job_id, job)
            self._store.put_operation(operation)
        self._ledger.announce()
        self._stop(record.id)
        return operation.operation

    def _forget(self, record: ExecutionRecord) -> None:
        if not status.is_finished(record):
            self._ledger.close(record)
        self._jobs.delete_execution(record.id)

    # -- tasks

    def task(self, name: str) -> Any:
        execution_id, task_id = self._names.task_ids(name)
        record = self._jobs.execution(execution_id)
        number = task_id.removeprefix(f"{execution_id}-task")
        task = self._jobs.task(execution_id, int(number)) if number.isdecimal() else None
        if record is None or task is None or name != f"{record.execution.name}/tasks/{task.id}":
            raise NotFound(name)
        return status.task_of(task, record.execution)

    def tasks(self, parent: str) -> list[Any]:
        job_id, execution_id = self._names.executions_ids(parent)
        if job_id is not None:
            self._existing(parent.rpartition("/executions/")[0])
        found = [
            record
            for record in self._executions(location_of(parent), job_id)
            if execution_id in (None, record.id)
        ]
        if execution_id is not None and not found:
            raise NotFound(parent)
        return [
            status.task_of(task, record.execution)
            for record in found
            for task in self._jobs.tasks(record.id)
        ]

    # -- parts

    def _show_ready(self, job: Any) -> None:
        image = job.template.template.containers[0].image
        resources.show_ready(job, self._has_image(image))

    def _new_execution_id(self, job_id: str) -> str:
        while True:
            letters = "".join(random.choices(_SUFFIX_LETTERS, k=_SUFFIX_LENGTH))
            if self._jobs.execution(f"{job_id}-{letters}") is None:
                return f"{job_id}-{letters}"

    def _new_job(self, name: str) -> Any:
        taken = self._jobs.job(self._names.job_id(name))
        if taken is not None:
            refuse_second_region(taken.name, name)
        return resources.new_job(name)

    def _found(self, name: str) -> Any | None:
        job = self._jobs.job(self._names.job_id(name))
        return job if job is not None and job.name == name else None

    def _existing(self, name: str) -> Any:
        job = self._found(name)
        if job is None:
            raise NotFound(name)
        return job

    def _executions(self, location: str, job_id: str | None) -> list[ExecutionRecord]:
        found = self._jobs.executions(job_id)
        return [record for record in found if location_of(record.execution.name) == location]

    def _existing_execution(self, name: str) -> ExecutionRecord:
        record = self._jobs.execution(self._names.execution_id(name))
        if record is None or record.execution.name != name:
            raise NotFound(name)
        return record
