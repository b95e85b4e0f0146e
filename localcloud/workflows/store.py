"""What the service keeps: revisions of workflows, executions, and the steps they went through."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localcloud.database import Database

ACTIVE, SUCCEEDED, FAILED, CANCELLED = "ACTIVE", "SUCCEEDED", "FAILED", "CANCELLED"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS revisions (
    workflow TEXT NOT NULL, number INTEGER NOT NULL, revision_id TEXT NOT NULL,
    source TEXT NOT NULL, environment TEXT NOT NULL, service_account TEXT NOT NULL,
    created REAL NOT NULL, PRIMARY KEY (workflow, number));
CREATE TABLE IF NOT EXISTS executions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, workflow TEXT NOT NULL,
    revision_id TEXT NOT NULL, state TEXT NOT NULL, argument TEXT NOT NULL, result TEXT,
    error TEXT, labels TEXT NOT NULL, call_log_level TEXT NOT NULL,
    started REAL NOT NULL, ended REAL, routine TEXT, step TEXT);
CREATE INDEX IF NOT EXISTS executions_of ON executions (workflow, number);
CREATE INDEX IF NOT EXISTS executions_in ON executions (state);
CREATE TABLE IF NOT EXISTS step_entries (
    execution TEXT NOT NULL, entry INTEGER NOT NULL, routine TEXT NOT NULL, step TEXT NOT NULL,
    kind TEXT NOT NULL, line INTEGER NOT NULL, branch INTEGER NOT NULL, state TEXT NOT NULL,
    entered REAL NOT NULL, left REAL, error TEXT, PRIMARY KEY (execution, entry)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Revision:
    """One deployed state of a workflow; an execution keeps the one it started with."""

    workflow: str
    number: int
    revision_id: str
    source: str
    environment: Mapping[str, str]
    service_account: str
    created: float


@dataclass(frozen=True)
class ErrorRecord:
    """Why an execution ended abnormally: JSON payload, readable context, places."""

    payload: str
    context: str
    places: Sequence[Mapping[str, object]] = ()


@dataclass(frozen=True)
class ExecutionRecord:
    """One execution as it stands on disk. Times are seconds since 1970."""

    id: str
    workflow: str
    revision_id: str
    state: str
    argument: str
    labels: Mapping[str, str]
    call_log_level: str
    started: float
    result: str | None = None
    error: ErrorRecord | None = None
    ended: float | None = None
    routine: str | None = None
    step: str | None = None


@dataclass
class StepEntry:
    """One step that an execution entered; state IN_PROGRESS, SUCCEEDED, FAILED or CANCELLED."""

    entry: int
    routine: str
    step: str
    kind: str
    line: int
    branch: int
    entered: float
    state: str = "IN_PROGRESS"
    left: float | None = None
    error: str | None = None


@dataclass
class Store:
    """The tables of one folder."""

    folder: Path
    _database: Database = field(init=False)

    def __post_init__(self) -> None:
        self._database = Database(self.folder / "workflows.db", _SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def deploy(
        self, workflow: str, source: str, environment: Mapping[str, str], account: str, now: float
    ) -> Revision:
        """Return the latest revision, a new one where anything differs from it.

        Deploying the same again changes nothing.
        """
        with self._database.transaction() as connection:
            latest = self.latest(workflow)
            if latest and (latest.source, latest.environment, latest.service_account) == (
                source, dict(environment), account,
            ):  # fmt: skip
                return latest
            number = latest.number + 1 if latest else 1
            suffix = hashlib.sha256(f"{number}\n{source}".encode()).hexdigest()[:3]
            made = Revision(
                workflow, number, f"{number:06d}-{suffix}", source, dict(environment), account, now
            )
            connection.execute(
                "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    workflow,
                    number,
                    made.revision_id,
                    source,
                    json.dumps(made.environment),
                    account,
                    now,
                ),
            )
            return made

    def latest(self, workflow: str) -> Revision | None:
        """Return a workflow's newest revision."""
        row = self._database.row(
            "SELECT * FROM revisions WHERE workflow = ? ORDER BY number DESC LIMIT 1", workflow
        )
        return _revision(row) if row else None

    def revision(self, workflow: str, revision_id: str) -> Revision | None:
        """Return one revision of a workflow."""
        row = self._database.row(
            "SELECT * FROM revisions WHERE workflow = ? AND revision_id = ?", workflow, revision_id
        )
        return _revision(row) if row else None

    def first_created(self, workflow: str) -> float:
        """Return when a workflow was first deployed."""
        row = self._database.row(
            "SELECT min(created) AS created FROM revisions WHERE workflow = ?", workflow
        )
        return float(row["created"]) if row else 0.0

    def create(self, record: ExecutionRecord) -> None:
        """Keep a new execution."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO executions (id, workflow, revision_id, state, argument, labels,"
                " call_log_level, started) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id, record.workflow, record.revision_id, record.state, record.argument,
                    json.dumps(dict(record.labels)), record.call_log_level, record.started,
                ),
            )  # fmt: skip

    def finish(
        self,
        execution: str,
        state: str,
        now: float,
        result: str | None = None,
        error: ErrorRecord | None = None,
    ) -> bool:
        """End an active execution; False, and nothing changed, where it had ended before.

        Only the first end counts, so an end that is repeated or comes too late is harmless.
        """
        with self._database.transaction() as connection:
            ended = connection.execute(
                "UPDATE executions SET state = ?, ended = ?, result = ?, error = ?"
                " WHERE id = ? AND state = ?",
                (state, now, result, _error_json(error), execution, ACTIVE),
            )
            if ended.rowcount == 0:
                return False
            connection.execute(
                "UPDATE step_entries SET state = ?, left = ? WHERE execution = ? AND"
                " state = 'IN_PROGRESS'",
                (CANCELLED if state == CANCELLED else FAILED, now, execution),
            )
            return True

    def execution(self, execution: str) -> ExecutionRecord | None:
        """Return one execution."""
        row = self._database.row("SELECT * FROM executions WHERE id = ?", execution)
        return _execution(row) if row else None

    def executions(self, workflow: str) -> list[ExecutionRecord]:
        """Return all executions of a workflow, the newest first."""
        rows = self._database.rows(
            "SELECT * FROM executions WHERE workflow = ? ORDER BY started DESC, number DESC",
            workflow,
        )
        return [_execution(row) for row in rows]

    def active(self) -> list[str]:
        """Return the ids of the executions that have not ended."""
        rows = self._database.rows("SELECT id FROM executions WHERE state = ?", ACTIVE)
        return [row["id"] for row in rows]

    def record(self, execution: str, entries: Iterable[StepEntry]) -> None:
        """Keep step entries; one kept before is replaced by its newer state."""
        written = list(entries)
        if not written:
            return
        last = max(written, key=lambda entry: entry.entry)
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO step_entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        execution, entry.entry, entry.routine, entry.step, entry.kind, entry.line,
                        entry.branch, entry.state, entry.entered, entry.left, entry.error,
                    )
                    for entry in written
                ],
            )  # fmt: skip
            connection.execute(
                "UPDATE executions SET routine = ?, step = ? WHERE id = ?",
                (last.routine, last.step, execution),
            )

    def step_entries(self, execution: str) -> list[StepEntry]:
        """Return the steps an execution entered, in order."""
        rows = self._database.rows(
            "SELECT * FROM step_entries WHERE execution = ? ORDER BY entry", execution
        )
        return [
            StepEntry(**{key: row[key] for key in row.keys() if key != "execution"})  # noqa: SIM118
            for row in rows
        ]


def _revision(row: sqlite3.Row) -> Revision:
    return Revision(
        row["workflow"], row["number"], row["revision_id"], row["source"],
        json.loads(row["environment"]), row["service_account"], row["created"],
    )  # fmt: skip


def _execution(row: sqlite3.Row) -> ExecutionRecord:
    error = ErrorRecord(**json.loads(row["error"])) if row["error"] else None
    return ExecutionRecord(
        row["id"], row["workflow"], row["revision_id"], row["state"], row["argument"],
        json.loads(row["labels"]), row["call_log_level"], row["started"], row["result"], error,
        row["ended"], row["routine"], row["step"],
    )  # fmt: skip


def _error_json(error: ErrorRecord | None) -> str | None:
    if error is None:
        return None
    fields = {"payload": error.payload, "context": error.context, "places": list(error.places)}
    return json.dumps(fields)
