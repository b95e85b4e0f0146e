"""What the local Cloud Run remembers: services, revisions, operations, policies, processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from google.longrunning import operations_pb2

from localcloud.database import Database
from localcloud.run.messages import Revision, RevisionTemplate, Service
from localcloud.run.reconcile import RevisionFact
from localcloud.run.traffic import Route

SCHEMA = """
CREATE TABLE IF NOT EXISTS services (
    id TEXT PRIMARY KEY,
    service BLOB NOT NULL,
    routes TEXT NOT NULL,           -- JSON: the split that is served now
    latest_created TEXT NOT NULL,
    latest_ready TEXT NOT NULL,
    revisions_made INTEGER NOT NULL,
    processed_generation INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS revisions (
    name TEXT PRIMARY KEY,          -- kept after deletion: names are never given twice
    service_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,            -- deploying, ready, failed, deleted
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    template BLOB NOT NULL,
    revision BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS operations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    service_id TEXT NOT NULL,       -- for a job's: jobs/JOB
    generation INTEGER NOT NULL,
    revision TEXT NOT NULL,         -- the one this operation made, or ''; a job's: the execution
    done INTEGER NOT NULL,
    operation BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS policies (service_id TEXT PRIMARY KEY, policy BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS processes (
    pid INTEGER PRIMARY KEY,
    started REAL,
    revision TEXT                   -- or the execution whose task it is
);
"""


@dataclass
class ServiceRecord:
    """A service with what its own resource does not show."""

    id: str
    service: Any
    routes: tuple[Route, ...]
    latest_created: str
    latest_ready: str
    revisions_made: int
    processed_generation: int


@dataclass
class RevisionRecord:
    """A revision, the template it was made of, and how it stands."""

    name: str
    service_id: str
    number: int
    state: str
    reason: str
    message: str
    template: Any
    revision: Any

    @property
    def fact(self) -> RevisionFact:
        return RevisionFact(self.name, self.number, self.state, self.reason, self.message)


@dataclass
class OperationRecord:
    """A long-running operation and what it waits for.

    One of a job has `jobs/JOB` for its service and the execution for its revision.
    """

    service_id: str
    generation: int
    revision: str
    operation: Any


@dataclass(frozen=True)
class ProcessRecord:
    """A process of an earlier run; `started` (Unix time, s) tells it from a reused pid.

    Its `owner` is the revision or the execution that it ran for.
    """

    pid: int
    started: float
    owner: str


class Store:
    """The tables; every method is one statement, callers group them with `transaction`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractContextManager[Any]:
        """Hold the writer: what is read inside is true until the commit."""
        return self._database.transaction()

    # -- services

    def service(self, service_id: str) -> ServiceRecord | None:
        row = self._database.row("SELECT * FROM services WHERE id = ?", service_id)
        return _service_record(row) if row else None

    def services(self) -> list[ServiceRecord]:
        return [
            _service_record(row)
            for row in self._database.rows("SELECT * FROM services ORDER BY id")
        ]

    def put_service(self, record: ServiceRecord) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO services VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    record.service.SerializeToString(),
                    json.dumps([asdict(route) for route in record.routes]),
                    record.latest_created,
                    record.latest_ready,
                    record.revisions_made,
                    record.processed_generation,
                ),
            )

    def delete_service(self, service_id: str) -> None:
        """Forget the service, its revisions (their names become free) and its policy."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM services WHERE id = ?", (service_id,))
            connection.execute("DELETE FROM revisions WHERE service_id = ?", (service_id,))
            connection.execute("DELETE FROM policies WHERE service_id = ?", (service_id,))

    # -- revisions

    def revision(self, name: str) -> RevisionRecord | None:
        """Return the revision, also one whose state is deleted."""
        row = self._database.row("SELECT * FROM revisions WHERE name = ?", name)
        return _revision_record(row) if row else None

    def revisions(self, service_id: str | None) -> list[RevisionRecord]:
        """Return the revisions that are not deleted, newest first; None: of every service."""
        rows = self._database.rows(
            "SELECT * FROM revisions WHERE state <> 'deleted' AND (?1 IS NULL OR service_id = ?1)"
            " ORDER BY service_id, number DESC",
            service_id,
        )
        return [_revision_record(row) for row in rows]

    def put_revision(self, record: RevisionRecord) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.name,
                    record.service_id,
                    record.number,
                    record.state,
                    record.reason,
                    record.message,
                    record.template.SerializeToString(),
                    record.revision.SerializeToString(),
                ),
            )

    # -- operations

    def operation(self, name: str) -> OperationRecord | None:
        row = self._database.row("SELECT * FROM operations WHERE name = ?", name)
        return _operation_record(row) if row else None

    def operations(self) -> list[OperationRecord]:
        """Return all operations, newest first."""
        rows = self._database.rows("SELECT * FROM operations ORDER BY number DESC")
        return [_operation_record(row) for row in rows]

    def open_operations(self, service_id: str) -> list[OperationRecord]:
        rows = self._database.rows(
            "SELECT * FROM operations WHERE service_id = ? AND done = 0 ORDER BY number", service_id
        )
        return [_operation_record(row) for row in rows]

    def put_operation(self, record: OperationRecord) -> None:
        values: Mapping[str, object] = {
            "name": record.operation.name,
            "service_id": record.service_id,
            "generation": record.generation,
            "revision": record.revision,
            "done": int(record.operation.done),
            "operation": record.operation.SerializeToString(),
        }
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO operations (name, service_id, generation, revision, done, operation)"
                " VALUES (:name, :service_id, :generation, :revision, :done, :operation)"
                " ON CONFLICT (name) DO UPDATE SET done = :done, operation = :operation",
                values,
            )

    def delete_operation(self, name: str) -> None:
        with self.transaction() as connection:
            connection.execute("DELETE FROM operations WHERE name = ?", (name,))

    # -- policies

    def policy(self, service_id: str) -> bytes | None:
        row = self._database.row("SELECT policy FROM policies WHERE service_id = ?", service_id)
        return bytes(row["policy"]) if row else None

    def put_policy(self, service_id: str, policy: bytes) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO policies VALUES (?, ?)", (service_id, policy)
            )

    # -- processes

    def processes(self) -> list[ProcessRecord]:
        rows = self._database.rows("SELECT pid, started, revision FROM processes")
        return [ProcessRecord(row["pid"], row["started"], row["revision"]) for row in rows]

    def put_process(self, process: ProcessRecord) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO processes VALUES (?, ?, ?)",
                (process.pid, process.started, process.owner),
            )

    def delete_process(self, pid: int) -> None:
        with self.transaction() as connection:
            connection.execute("DELETE FROM processes WHERE pid = ?", (pid,))


def _service_record(row: Any) -> ServiceRecord:
    return ServiceRecord(
        id=row["id"],
        service=Service.FromString(row["service"]),
        routes=tuple(Route(**route) for route in json.loads(row["routes"])),
        latest_created=row["latest_created"],
        latest_ready=row["latest_ready"],
        revisions_made=row["revisions_made"],
        processed_generation=row["processed_generation"],
    )


def _revision_record(row: Any) -> RevisionRecord:
    return RevisionRecord(
        name=row["name"],
        service_id=row["service_id"],
        number=row["number"],
        state=row["state"],
        reason=row["reason"],
        message=row["message"],
        template=RevisionTemplate.FromString(row["template"]),
        revision=Revision.FromString(row["revision"]),
    )


def _operation_record(row: Any) -> OperationRecord:
    return OperationRecord(
        service_id=row["service_id"],
        generation=row["generation"],
        revision=row["revision"],
        operation=operations_pb2.Operation.FromString(row["operation"]),
    )
