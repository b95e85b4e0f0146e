"""SQLite underneath every service: one file a service, committed before it is acknowledged."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Database:
    """One SQLite file, one connection, one writer at a time.

    A commit is in the write-ahead log before `transaction` returns, so it survives the
    death of the process (kill -9). `synchronous=NORMAL` may lose the last commits when
    the machine itself loses power, never the file's consistency.
    """

    def __init__(self, path: Path, schema: str) -> None:
        """Open `path`, creating it with `schema` (statements that may run again)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.RLock()
        self._depth = 0
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(schema)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the writer; commit on leaving, roll back on an exception. Nests into one commit."""
        with self._lock:
            if self._depth:
                yield self._connection
                return
            self._depth = 1
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            else:
                self._connection.execute("COMMIT")
            finally:
                self._depth = 0

    def rows(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        """Return all rows of a query."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, *parameters: object) -> sqlite3.Row | None:
        """Return the first row of a query, or None."""
        with self._lock:
            found: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return found

    def close(self) -> None:
        """Close the file; a later call on this object fails."""
        with self._lock:
            self._connection.close()
