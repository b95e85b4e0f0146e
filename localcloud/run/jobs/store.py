"""What the local Cloud Run remembers of jobs: their executions, and how each task stands."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from localcloud.database import Database
from localcloud.run.jobs.outcome import Outcome
from localcloud.run.messages import Execution, Job

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, job BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS executions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job_id TEXT NOT NULL,
    state TEXT NOT NULL,            -- running, cancelling, succeeded, failed, cancelled
    execution BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS tasks (
    execution_id TEXT NOT NULL,
    number INTEGER NOT NULL,        -- its index within the execution
    state TEXT NOT NULL,            -- pending, running, succeeded, failed, cancelled
    attempts INTEGER NOT NULL,      -- started so far
    failures INTEGER NOT NULL,      -- those of them that ended by the task's own fault
    started_ns INTEGER NOT NULL,    -- Unix time of the first attempt; 0: not yet
    ended_ns INTEGER NOT NULL,
    outcome TEXT NOT NULL,          -- JSON: how the last attempt that ended did; '' for none
    PRIMARY KEY (execution_id, number)
) WITHOUT ROWID;
"""


@dataclass
class ExecutionRecord:
    """An execution and its state; the job is its short name."""

    id: str
    job_id: str
    state: str
    execution: Any


@dataclass
class TaskRecord:
    """How a task of an execution stands; `number` is its index."""

    execution_id: str
    number: int
    state: str = "pending"
    attempts: int = 0
    failures: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    outcome: Outcome | None = None

    @property
    def id(self) -> str:
        return f"{self.execution_id}-task{self.number}"


@dataclass(frozen=True)
class Tally:
    """How many of an execution's tasks are in each state; `retried` had more than one attempt."""

    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0


class JobStore:
    """The tables; every method is one statement, callers group them with `transaction`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractContextManager[Any]:
        """Hold the writer: what is read inside is true until the commit."""
        return self._database.transaction()

    # -- jobs

    def job(self, job_id: str) -> Any | None:
        row = self._database.row("SELECT job FROM jobs WHERE id = ?", job_id)
        return Job.FromString(row["job"]) if row else None

    def jobs(self) -> list[tuple[str, Any]]:
        """Return (id, job) of all jobs by id."""
        rows = self._database.rows("SELECT * FROM jobs ORDER BY id")
        return [(row["id"], Job.FromString(row["job"])) for row in rows]

    def put_job(self, job_id: str, job: Any) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO jobs VALUES (?, ?)", (job_id, job.SerializeToString())
            )

    def delete_job(self, job_id: str) -> None:
        """Forget a job whose executions are forgotten."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    # -- executions

    def execution(self, execution_id: str) -> ExecutionRecord | None:
        row = self._database.row("SELECT * FROM executions WHERE id = ?", execution_id)
        return _execution_record(row) if row else None

    def executions(self, job_id: str | None) -> list[ExecutionRecord]:
        """Return the executions of a job (None: of all), newest first."""
        rows = self._database.rows(
            "SELECT * FROM executions WHERE ?1 IS NULL OR job_id = ?1 ORDER BY number DESC", job_id
        )
        return [_execution_record(row) for row in rows]

    def unfinished(self) -> list[ExecutionRecord]:
        """Return the executions that have not come to their end, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM executions WHERE state IN ('running', 'cancelling') ORDER BY number"
        )
        return [_execution_record(row) for row in rows]

    def put_execution(self, record: ExecutionRecord) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO executions (id, job_id, state, execution) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET state = excluded.state,"
                " execution = excluded.execution",
                (record.id, record.job_id, record.state, record.execution.SerializeToString()),
            )

    def delete_execution(self, execution_id: str) -> None:
        """Forget an execution and its tasks."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM executions WHERE id = ?", (execution_id,))
            connection.execute("DELETE FROM tasks WHERE execution_id = ?", (execution_id,))

    # -- tasks

    def add_tasks(self, execution_id: str, count: int) -> None:
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO tasks VALUES (?, ?, 'pending', 0, 0, 0, 0, '')",
                ((execution_id, number) for number in range(count)),
            )

    def task(self, execution_id: str, number: int) -> TaskRecord | None:
        row = self._database.row(
            "SELECT * FROM tasks WHERE execution_id = ? AND number = ?", execution_id, number
        )
        return _task_record(row) if row else None

    def tasks(self, execution_id: str) -> list[TaskRecord]:
        rows = self._database.rows(
            "SELECT * FROM tasks WHERE execution_id = ? ORDER BY number", execution_id
        )
        return [_task_record(row) for row in rows]

    def put_task(self, task: TaskRecord) -> None:
        with self.transaction() as connection:
            connection.execute(
                "UPDATE tasks SET state = ?, attempts = ?, failures = ?, started_ns = ?,"
                " ended_ns = ?, outcome = ? WHERE execution_id = ? AND number = ?",
                (
                    task.state,
                    task.attempts,
                    task.failures,
                    task.started_ns,
                    task.ended_ns,
                    json.dumps(asdict(task.outcome)) if task.outcome else "",
                    task.execution_id,
                    task.number,
                ),
            )

    def tally(self, execution_id: str) -> Tally:
        rows = self._database.rows(
            "SELECT state, COUNT(*) AS tasks, SUM(attempts > 1) AS retried FROM tasks"
            " WHERE execution_id = ? GROUP BY state",
            execution_id,
        )
        counts = {row["state"]: row["tasks"] for row in rows}
        return Tally(**counts, retried=sum(row["retried"] for row in rows))

    def first_failed(self, execution_id: str) -> TaskRecord | None:
        """Return the task that failed first."""
        row = self._database.row(
            "SELECT * FROM tasks WHERE execution_id = ? AND state = 'failed'"
            " ORDER BY ended_ns, number LIMIT 1",
            execution_id,
        )
        return _task_record(row) if row else None


def _execution_record(row: Any) -> ExecutionRecord:
    return ExecutionRecord(
        row["id"], row["job_id"], row["state"], Execution.FromString(row["execution"])
    )


def _task_record(row: Any) -> TaskRecord:
    return TaskRecord(
        execution_id=row["execution_id"],
        number=row["number"],
        state=row["state"],
        attempts=row["attempts"],
        failures=row["failures"],
        started_ns=row["started_ns"],
        ended_ns=row["ended_ns"],
        outcome=Outcome(**json.loads(row["outcome"])) if row["outcome"] else None,
    )
