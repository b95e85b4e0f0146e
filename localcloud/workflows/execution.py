"""One execution while it runs: its thread's work, its history, its log."""

from __future__ import annotations

import datetime as dt
import json
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path

from localcloud.identity import Identity
from localcloud.workflows.clock import Clock
from localcloud.workflows.errors import Cancelled, WorkflowError, failure
from localcloud.workflows.evaluate import checked_string
from localcloud.workflows.interpreter import Interpreter
from localcloud.workflows.program import Program, Step
from localcloud.workflows.store import (
    FAILED,
    SUCCEEDED,
    ErrorRecord,
    ExecutionRecord,
    StepEntry,
    Store,
)
from localcloud.workflows.values import Value, from_json, to_json

FLUSH_EVERY = 200
_SECRET_HEADER = "authorization"


class LogFile:
    """`executions.log`: one JSON object a line, shaped as Cloud Logging shows it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(self, entry: Mapping[str, Value]) -> None:
        """Append one line."""
        line = json.dumps(entry, ensure_ascii=False, default=repr)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class Execution:
    """Runs one execution and records what it does. Implements Host and Observer."""

    def __init__(
        self,
        record: ExecutionRecord,
        program: Program,
        environment: Mapping[str, str],
        email: str,
        clock: Clock,
        identity: Identity,
        store: Store,
        log: LogFile,
    ) -> None:
        self.record = record
        self.environment = environment
        self.cancelled = threading.Event()
        self._program, self._email, self._clock = program, email, clock
        self._identity, self._store, self._log = identity, store, log
        self._lock = threading.Lock()
        self._entries = 0
        self._open: dict[int, StepEntry] = {}
        self._unwritten: dict[int, StepEntry] = {}
        self._innermost: dict[int, list[int]] = {}

    def run(self) -> None:
        """Run to the end and record how it ended."""
        interpreter = Interpreter(self._program, self, self, self.cancelled)
        try:
            argument = from_json(self.record.argument) if self.record.argument else None
            result = checked_result(interpreter.run(argument))
        except Cancelled:
            # Whoever cancelled has recorded the end.
            self.flush()
        except WorkflowError as wrong:
            self._finish(FAILED, error=error_record(wrong))
        except Exception as wrong:
            self._write("ERROR", {"jsonPayload": {"exception": traceback.format_exc()}})
            inside = failure("SystemError", f"the interpreter failed: {wrong!r}")
            self._finish(FAILED, error=error_record(inside))
        else:
            self._finish(SUCCEEDED, result=result)

    def _finish(
        self, state: str, result: str | None = None, error: ErrorRecord | None = None
    ) -> None:
        self.flush()
        self._store.finish(self.record.id, state, self._clock.now(), result, error)

    # What the library's functions need

    def now(self) -> float:
        """Return seconds since 1970."""
        return self._clock.now()

    def pause(self, seconds: float) -> None:
        """Sleep; Cancelled when the execution is cancelled meanwhile."""
        self.flush()
        if not self.cancelled.is_set():
            self._clock.sleep(seconds, self.cancelled)
        if self.cancelled.is_set():
            raise Cancelled

    def token(self, audience: str) -> str:
        """Return a token of the workflow's service account."""
        try:
            return self._identity.mint(audience, self._email)
        except Exception as wrong:
            raise failure("AuthError", f"no token for {audience!r}: {wrong}") from None

    def log(self, severity: str, field: str, payload: Value) -> None:
        """Write what `sys.log` was given."""
        self._write(severity, {field: payload})

    def _write(self, severity: str, fields: Mapping[str, Value]) -> None:
        moment = dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)
        self._log.write(
            {
                "timestamp": moment.isoformat().replace("+00:00", "Z"),
                "severity": severity,
                **fields,
                "resource": {
                    "type": "workflows.googleapis.com/Workflow",
                    "labels": {"workflow_id": self.record.workflow},
                },
                "labels": {
                    "workflows.googleapis.com/execution_id": self.record.id,
                    "workflows.googleapis.com/revision_id": self.record.revision_id,
                },
            }
        )

    # What the interpreter reports

    def entered(self, routine: str, step: Step, branch: int) -> int:
        """Take note that a step begins."""
        with self._lock:
            self._entries += 1
            entry = StepEntry(
                self._entries, routine, step.name, step.kind, step.line, branch, self._clock.now()
            )
            self._open[entry.entry] = self._unwritten[entry.entry] = entry
            self._innermost.setdefault(branch, []).append(entry.entry)
            full = len(self._unwritten) >= FLUSH_EVERY
        if full:
            self.flush()
        return entry.entry

    def left(self, entry: int, branch: int, error: WorkflowError | None) -> None:
        """Take note that a step ended."""
        with self._lock:
            closed = self._open.pop(entry)
            self._unwritten[entry] = closed
            closed.left = self._clock.now()
            closed.state = FAILED if error else ("CANCELLED" if self._stopped() else SUCCEEDED)
            closed.error = error.summary() if error else None
            self._innermost[branch].pop()
            if not self._innermost[branch]:
                del self._innermost[branch]

    def _stopped(self) -> bool:
        return self.cancelled.is_set()

    def flush(self) -> None:
        """Write the step entries not yet written; called before anything that may take long."""
        with self._lock:
            self._store.record(self.record.id, self._unwritten.values())
            self._unwritten.clear()

    def current_steps(self) -> list[tuple[str, str]]:
        """Return (routine, step) of what runs now: one, or one a branch."""
        with self._lock:
            innermost = [self._open[entries[-1]] for entries in self._innermost.values() if entries]
        branches = [entry for entry in innermost if entry.kind != "parallel"]
        return [(entry.routine, entry.step) for entry in branches or innermost]

    def called(self, routine: str, step: Step, function: str, arguments: Value) -> None:
        """Write a call to the log where all calls are logged."""
        self.flush()
        if self.record.call_log_level == "LOG_ALL_CALLS":
            shown = _without_secrets(arguments)
            self._call_log("INFO", routine, step, function, {"state": "ACTIVE", "args": shown})

    def answered(self, routine: str, step: Step, function: str, answer: Value) -> None:
        """Write a call's end to the log where all calls, or its error where errors, are logged."""
        level = self.record.call_log_level
        if isinstance(answer, WorkflowError):
            if level in ("LOG_ALL_CALLS", "LOG_ERRORS_ONLY"):
                shown = {"state": "FAILED", "exception": answer.value}
                self._call_log("ERROR", routine, step, function, shown)
        elif level == "LOG_ALL_CALLS":
            shown = {"state": "SUCCEEDED", "response": answer}
            self._call_log("INFO", routine, step, function, shown)

    def _call_log(
        self, severity: str, routine: str, step: Step, function: str, activity: Mapping[str, Value]
    ) -> None:
        place = {"routine": routine, "step": step.name, "line": step.line, "call": function}
        self._write(severity, {"jsonPayload": {**place, **activity}})


def checked_result(value: Value) -> str:
    """Return what `main` returned as JSON; TypeError for what JSON cannot hold, such as bytes."""
    return checked_string(to_json(value))


def error_record(error: WorkflowError) -> ErrorRecord:
    """Return an uncaught error the way the API shows it."""
    places = [
        f'in step "{place.step}", routine "{place.routine}", line: {place.line}'
        for place in error.trace
    ]
    return ErrorRecord(
        payload=to_json(error.value, bytes_as_base64=True),
        context="\n".join([error.summary(), *places]),
        places=[
            {
                "step": place.step,
                "routine": place.routine,
                "line": place.line,
                "column": place.column,
            }
            for place in error.trace
        ],
    )


def _without_secrets(arguments: Value) -> Value:
    """Return a call's arguments without the credentials that a header may carry."""
    if not isinstance(arguments, dict) or not isinstance(arguments.get("headers"), dict):
        return arguments
    headers = {
        name: "[redacted]" if name.lower() == _SECRET_HEADER else value
        for name, value in arguments["headers"].items()
    }
    return {**arguments, "headers": headers}
