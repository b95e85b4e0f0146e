"""The documents on disk: every version of each, for as long as it can still be read.

A version is a serialized Document that was current from one commit (`from_us`) until
another (`until_us`). Reads name the moment they look at, so that what a transaction, a
listener or a page token looks at stands still while commits go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud.database import Database
from localcloud.firestore import names
from localcloud.firestore.errors import InvalidArgument
from localcloud.firestore.messages import Document, WriteResult, microseconds, timestamp
from localcloud.firestore.query import Scope
from localcloud.firestore.writes import CheckedWrite

RETENTION_US = 3_600_000_000
"""How far back a read may look: one hour, as without point-in-time recovery."""

_FOREVER = 2**63 - 1

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS versions (
    name TEXT NOT NULL,
    parent TEXT NOT NULL,
    collection TEXT NOT NULL,
    from_us INTEGER NOT NULL,
    until_us INTEGER NOT NULL DEFAULT {_FOREVER},
    document BLOB NOT NULL,
    PRIMARY KEY (name, from_us)
);
CREATE INDEX IF NOT EXISTS by_parent ON versions (parent, collection, until_us);
CREATE INDEX IF NOT EXISTS by_collection ON versions (collection, until_us);
CREATE INDEX IF NOT EXISTS by_end ON versions (until_us);
CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 0), last_us INTEGER NOT NULL);
INSERT OR IGNORE INTO clock VALUES (0, 0);
"""


@dataclass(frozen=True)
class Commit:
    """What a commit did: its time, a result a write, and the names of changed documents."""

    time_us: int
    results: list[Any]
    changed: frozenset[str]


class Store:
    """Versioned documents in one SQLite file, with a clock that never repeats a commit time."""

    def __init__(self, path: Path, now_us: Callable[[], int] | None = None) -> None:
        self._database = Database(path, _SCHEMA)
        self._now_us = now_us or (lambda: time.time_ns() // 1000)
        # Held while a commit takes its time and becomes visible, so that a read can never
        # look at a moment at which a commit is still on its way.
        self.lock = threading.RLock()
        row = self._database.row("SELECT last_us FROM clock")
        self._last_us: int = row["last_us"] if row else 0
        self._last_commit_us = self._last_us
        self._listeners: list[Callable[[Commit], None]] = []

    def now(self) -> int:
        """Return a moment to read at, in microseconds; every later commit comes after it."""
        with self.lock:
            self._last_us = max(self._last_us, self._now_us())
            return self._last_us

    def check_read_time(self, at_us: int) -> int:
        """Return `at_us` when it can still be read; InvalidArgument otherwise."""
        now_us = self.now()
        if not now_us - RETENTION_US <= at_us <= now_us:
            raise InvalidArgument("read_time must lie within the past hour")
        return at_us

    def changed_since(self, at_us: int) -> bool:
        """Tell whether anything was committed after `at_us`."""
        return self._last_commit_us > at_us

    def get(self, name: str, at_us: int) -> Any | None:
        """Return the document as it was at `at_us`, or None."""
        row = self._database.row(
            "SELECT document FROM versions WHERE name = ? AND from_us <= ? AND until_us > ?",
            name,
            at_us,
            at_us,
        )
        return None if row is None else Document.FromString(row["document"])

    def scan(self, scope: Scope, at_us: int) -> list[Any]:
        """Return the documents of a scope as they were at `at_us`, in no particular order."""
        sql = "SELECT document FROM versions WHERE from_us <= ? AND until_us > ?"
        parameters: list[object] = [at_us, at_us]
        if scope.collection is not None:
            sql += " AND collection = ?"
            parameters.append(scope.collection)
        if scope.all_descendants:
            sql += " AND name > ? AND name < ?"
            parameters += _below(scope.parent)
        else:
            sql += " AND parent = ?"
            parameters.append(scope.parent)
        return [
            Document.FromString(row["document"]) for row in self._database.rows(sql, *parameters)
        ]

    def names_below(self, parent: str, at_us: int) -> list[str]:
        """Return the names of all documents below `parent`, at any depth."""
        low, high = _below(parent)
        rows = self._database.rows(
            "SELECT name FROM versions"
            " WHERE name > ? AND name < ? AND from_us <= ? AND until_us > ?",
            low,
            high,
            at_us,
            at_us,
        )
        return [row["name"] for row in rows]

    def changed_after(self, name: str, at_us: int) -> bool:
        """Tell whether the document was written or deleted after `at_us`."""
        row = self._database.row(
            "SELECT 1 FROM versions WHERE name = ?"
            " AND (from_us > ? OR (until_us > ? AND until_us < ?))",
            name,
            at_us,
            at_us,
            _FOREVER,
        )
        return row is not None

    def commit(self, writes: Sequence[CheckedWrite]) -> Commit:
        """Apply all writes or none, on disk before it returns; the caller holds `lock` or not.

        Not safe to repeat by itself: a repeated write is applied again, at a new time.
        Callers that may repeat carry preconditions, as with the real service.
        """
        with self.lock:
            commit_us = self.now() + 1
            with self._database.transaction() as connection:
                working: dict[str, Any | None] = {}
                stored: dict[str, Any | None] = {}
                results = []
                for write in writes:
                    name = write.name.full
                    if name not in working:
                        stored[name] = working[name] = self.get(name, commit_us)
                    write.check_precondition(working[name])
                    results.append(_apply(write, working, stored[name], commit_us))
                changed = [name for name in working if _differ(stored[name], working[name])]
                for name in changed:
                    self._replace(connection, names.document_name(name), working[name], commit_us)
                connection.execute("UPDATE clock SET last_us = ?", (commit_us,))
            self._last_us = self._last_commit_us = commit_us
            done = Commit(commit_us, results, frozenset(changed))
            if changed:
                for listener in list(self._listeners):
                    listener(done)
            return done

    def subscribe(self, listener: Callable[[Commit], None]) -> Callable[[], None]:
        """Call `listener` after every commit that changed something; return how to stop that.

        It runs on the committing thread, under `lock`: it must only take note.
        """
        with self.lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self.lock:
                self._listeners.remove(listener)

        return unsubscribe

    def forget_old_versions(self) -> None:
        """Delete what no read may look at any more; repeating it finds nothing to delete."""
        # Before the transaction: a commit takes `lock` first and the database then, too.
        before_us = self.now() - RETENTION_US
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM versions WHERE until_us < ?", (before_us,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @staticmethod
    def _replace(
        connection: Any, name: names.DocumentName, document: Any | None, commit_us: int
    ) -> None:
        connection.execute(
            "UPDATE versions SET until_us = ? WHERE name = ? AND until_us = ?",
            (commit_us, name.full, _FOREVER),
        )
        if document is not None:
            connection.execute(
                "INSERT INTO versions (name, parent, collection, from_us, document)"
                " VALUES (?, ?, ?, ?, ?)",
                (name.full, name.parent, name.collection, commit_us, document.SerializeToString()),
            )


def _apply(
    write: CheckedWrite, working: dict[str, Any | None], stored: Any | None, commit_us: int
) -> Any:
    """Apply one write to the working set and return its WriteResult."""
    name = write.name.full
    before = working[name]
    after, transform_results = write.apply(before, commit_us)
    result = WriteResult(transform_results=transform_results)
    if after is not None and not write.is_verify:
        if before is None:
            after.create_time.CopyFrom(timestamp(commit_us))
        # What changes nothing keeps its update time, as with the real service.
        if _differ(stored, after):
            after.update_time.CopyFrom(timestamp(commit_us))
        elif stored is not None:
            after.update_time.CopyFrom(stored.update_time)
        result.update_time.CopyFrom(after.update_time)
    working[name] = after
    return result


def _differ(left: Any | None, right: Any | None) -> bool:
    if left is None or right is None:
        return left is not right
    return bool(left.fields != right.fields or left.create_time != right.create_time)


def _below(parent: str) -> tuple[str, str]:
    # "0" is the character after "/".
    return f"{parent}/", f"{parent}0"


def version_of(document: Any) -> tuple[str, int]:
    """Return what changes whenever the document does."""
    return document.name, microseconds(document.update_time)


def versions_of(documents: Iterable[Any]) -> list[tuple[str, int]]:
    """Return the versions of a query's results, in order."""
    return [version_of(document) for document in documents]
