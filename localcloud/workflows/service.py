"""The local Workflows service."""

from __future__ import annotations

import dataclasses
import re
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from localcloud.identity import Identity
from localcloud.workflows import limits
from localcloud.workflows.clock import Clock, SystemClock
from localcloud.workflows.errors import SourceError, failure
from localcloud.workflows.execution import Execution, LogFile, error_record
from localcloud.workflows.program import Program
from localcloud.workflows.source import load
from localcloud.workflows.store import (
    ACTIVE,
    CANCELLED,
    FAILED,
    ErrorRecord,
    ExecutionRecord,
    Revision,
    StepEntry,
    Store,
)
from localcloud.workflows.transport import Refused, Transport
from localcloud.workflows.values import from_json

PROJECT_NUMBER = "100000000000"
STOPPED = "the local cloud stopped while this execution ran"
STOP_WAIT_S = 5.0
# Python frames for 20 nested calls through nested steps: the default of 1000 is too few.
RECURSION_LIMIT = 20_000
_LABEL_KEY = re.compile(r"[^\W\d_A-Z][\w-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")


class Workflows:
    """Workflows deployed from files, and their executions.

    `sources` maps workflow ids to YAML files, read by `start` (SourceError names what is
    wrong in one). `environment` are the user-defined variables that `sys.get_env` reads.

    Known differences from Google's service:
    - An execution that ran when this process died or stopped becomes FAILED at the next
      start, with the reason; the real service continues it. Half of an interpreter's state
      cannot be trusted, and whoever watches executions must handle their death anyway.
    - Connectors, callbacks and `experimental.*` are refused when the source is loaded.
    - Cancelling takes effect at once: nothing runs after it but an HTTP request in flight.
    """

    def __init__(
        self,
        folder: Path,
        sources: Mapping[str, Path],
        identity: Identity,
        project: str,
        region: str,
        environment: Mapping[str, str],
        service_account_email: str,
        clock: Clock | None = None,
    ) -> None:
        _check_environment(environment)
        self._sources, self._identity = dict(sources), identity
        self._project, self._region = project, region
        self._environment, self._email = dict(environment), service_account_email
        self._clock = clock or SystemClock()
        self._store = Store(folder)
        self._log = LogFile(folder / "executions.log")
        self._transport = Transport(self, project, PROJECT_NUMBER, region)
        self._lock = threading.Lock()
        self._programs: dict[str, Program] = {}
        self._running: dict[str, tuple[Execution, threading.Thread]] = {}
        self._stopping = False

    def grpc_handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the handlers of the Executions and the Workflows service."""
        return self._transport.handlers()

    def start(self) -> None:
        """Deploy the sources and fail the executions that an earlier process left running."""
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
        self._fail(self._store.active())
        for workflow, path in self._sources.items():
            self.deploy(workflow, path)

    def stop(self) -> None:
        """Fail the running executions, wait for their threads a few seconds, close the files."""
        with self._lock:
            self._stopping = True
            running = dict(self._running)
        self._fail(running)
        for execution, _ in running.values():
            execution.cancelled.set()
        deadline = time.monotonic() + STOP_WAIT_S
        for _, thread in running.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for _, thread in running.values()):
            # A thread still in an HTTP request will find the file open, and its end refused.
            self._store.close()

    def deploy(self, workflow: str, path: Path) -> Revision:
        """Make the source at `path` the latest revision of `workflow`; SourceError if it is wrong.

        The same source again keeps the revision; running executions keep theirs.
        """
        source = path.read_text(encoding="utf-8")
        try:
            program = load(source)
        except SourceError as wrong:
            raise SourceError(
                f'workflow "{workflow}" ({path}): {wrong.message}', step=wrong.step, line=wrong.line
            ) from None
        with self._lock:
            revision = self._store.deploy(
                workflow, source, self._environment, self._email, self._clock.now()
            )
            self._programs[workflow] = program
        return revision

    def step_entries(self, execution: str) -> list[StepEntry]:
        """Return the steps that an execution (its id) entered, in order, for debugging."""
        running = self._running.get(execution)
        if running is not None:
            running[0].flush()
        return self._store.step_entries(execution)

    def create_execution(
        self, workflow: str, argument: str, labels: dict[str, str], call_log_level: str
    ) -> ExecutionRecord:
        """Start an execution; it is on disk before this returns.

        There is no request id: a caller that repeats starts a second execution, as with the
        real service.
        """
        _check_labels(labels)
        with self._lock:
            revision = self._store.latest(workflow)
            program = self._programs.get(workflow)
            if revision is None or program is None:
                raise Refused(grpc.StatusCode.NOT_FOUND, f"workflow {workflow!r} does not exist")
            _check_argument(workflow, program, argument)
            if self._stopping:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "the local cloud is stopping")
            record = ExecutionRecord(
                str(uuid.uuid4()), workflow, revision.revision_id, ACTIVE, argument, labels,
                call_log_level, self._clock.now(),
            )  # fmt: skip
            self._store.create(record)
            execution = Execution(
                record, program, {**self._built_in(record), **revision.environment}, self._email,
                self._clock, self._identity, self._store, self._log,
            )  # fmt: skip
            thread = threading.Thread(
                target=self._run, args=(execution,), name=f"workflow-{record.id}", daemon=True
            )
            self._running[record.id] = (execution, thread)
        thread.start()
        return record

    def get_execution(self, workflow: str, execution: str) -> ExecutionRecord:
        """Return an execution."""
        record = self._store.execution(execution)
        if record is None or record.workflow != workflow:
            raise Refused(
                grpc.StatusCode.NOT_FOUND, f"workflow {workflow!r} has no execution {execution!r}"
            )
        return record

    def list_executions(self, workflow: str) -> list[ExecutionRecord]:
        """Return all executions of a workflow, the newest first."""
        if workflow not in self._programs:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"workflow {workflow!r} does not exist")
        return [self._at_its_step(record) for record in self._store.executions(workflow)]

    def _at_its_step(self, record: ExecutionRecord) -> ExecutionRecord:
        current = self.current_steps(record)
        routine, step = current[0] if current else (None, None)
        return dataclasses.replace(record, routine=routine, step=step)

    def cancel_execution(self, workflow: str, execution: str) -> ExecutionRecord:
        """Cancel an active execution: it starts no further step and sleeps no longer."""
        self.get_execution(workflow, execution)
        reason = ErrorRecord('"execution cancelled"', "the execution was cancelled")
        if not self._store.finish(execution, CANCELLED, self._clock.now(), error=reason):
            state = self.get_execution(workflow, execution).state
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"execution {execution!r} is {state}; only an ACTIVE one can be cancelled",
            )
        with self._lock:
            running = self._running.get(execution)
        if running is not None:
            running[0].cancelled.set()
        return self.get_execution(workflow, execution)

    def current_steps(self, record: ExecutionRecord) -> list[tuple[str, str]]:
        """Return (routine, step) of what runs now, or of the last step entered."""
        running = self._running.get(record.id)
        if running is not None and record.state == ACTIVE:
            return running[0].current_steps()
        return [(record.routine, record.step)] if record.routine and record.step else []

    def revision(self, workflow: str, revision_id: str) -> Revision:
        """Return a revision of a workflow, the latest where the id is empty."""
        known = workflow in self._programs
        found = (
            self._store.revision(workflow, revision_id)
            if revision_id
            else self._store.latest(workflow)
        )
        if found is None or not known:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"workflow {workflow!r} does not exist"
                + (f" at revision {revision_id!r}" if known else ""),
            )
        return found

    def workflow_ids(self) -> list[str]:
        """Return the ids of the deployed workflows."""
        return sorted(self._programs)

    def created(self, workflow: str) -> float:
        """Return when a workflow was first deployed."""
        return self._store.first_created(workflow)

    def _run(self, execution: Execution) -> None:
        try:
            execution.run()
        finally:
            with self._lock:
                self._running.pop(execution.record.id, None)

    def _fail(self, executions: Mapping[str, object] | Sequence[str]) -> None:
        """Record that `executions` end here; those that had ended are left alone."""
        error = error_record(failure("SystemError", STOPPED))
        for execution in executions:
            self._store.finish(execution, FAILED, self._clock.now(), error=error)

    def _built_in(self, record: ExecutionRecord) -> dict[str, str]:
        return {
            "GOOGLE_CLOUD_LOCATION": self._region,
            "GOOGLE_CLOUD_PROJECT_ID": self._project,
            "GOOGLE_CLOUD_PROJECT_NUMBER": PROJECT_NUMBER,
            "GOOGLE_CLOUD_SERVICE_ACCOUNT_NAME": self._email,
            "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": record.id,
            "GOOGLE_CLOUD_WORKFLOW_ID": record.workflow,
            "GOOGLE_CLOUD_WORKFLOW_REVISION_ID": record.revision_id,
        }


def _check_environment(environment: Mapping[str, str]) -> None:
    if len(environment) > limits.USER_VARIABLES:
        raise ValueError(f"over {limits.USER_VARIABLES} environment variables for workflows")
    for name, value in environment.items():
        if not name or name.startswith(("GOOGLE", "WORKFLOWS")):
            raise ValueError(f"{name!r} cannot name an environment variable of a workflow")
        if max(len(name.encode()), len(value.encode())) > limits.USER_VARIABLE_BYTES:
            raise ValueError(f"environment variable {name!r} is over 4 KiB")


def _check_argument(workflow: str, program: Program, argument: str) -> None:
    if len(argument.encode()) > limits.ARGUMENT_BYTES:
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT, f"argument is over {limits.ARGUMENT_BYTES} bytes"
        )
    try:
        value = from_json(argument) if argument else None
    except ValueError as wrong:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"argument is not JSON: {wrong}") from None
    if value not in (None, {}) and not program.main.parameters:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"workflow {workflow!r} takes no argument")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > limits.LABELS:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"over {limits.LABELS} labels")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{key!r} is not a label's key")
        if not _LABEL_VALUE.fullmatch(value) or value != value.lower():
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, f"{value!r} is not a value of label {key!r}"
            )
