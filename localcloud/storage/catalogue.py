"""What is stored: buckets and the generations of objects, in SQLite."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from localcloud.database import Database
from localcloud.storage.disk import Content
from localcloud.storage.errors import Conflict, NotFound
from localcloud.storage.preconditions import Preconditions
from localcloud.storage.resources import Bucket, JsonObject, StoredObject

#: How long an unfinished upload or rewrite may be continued.
CONTINUABLE = timedelta(weeks=1)
ANY = Preconditions()

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,
    metageneration INTEGER NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL,
    crc32c TEXT NOT NULL, md5 TEXT, components INTEGER, storage_class TEXT NOT NULL,
    settings TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL, deleted TEXT,
    PRIMARY KEY (bucket, name, generation)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS live ON objects (bucket, name) WHERE deleted IS NULL;
CREATE TABLE IF NOT EXISTS last_generation (value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pending (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, file TEXT NOT NULL, request TEXT NOT NULL,
    answer TEXT, created TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = (
    "bucket, name, generation, metageneration, file, size, crc32c, md5, components,"
    " storage_class, settings, created, updated, deleted"
)


@dataclass(frozen=True)
class NewObject:
    """What an upload, copy, rewrite or compose is about to store."""

    bucket: str
    name: str
    content: Content
    settings: JsonObject
    storage_class: str | None = None
    components: int | None = None


@dataclass(frozen=True)
class Pending:
    """An unfinished resumable upload or rewrite; `answer` is set once it is finished."""

    id: str
    file: str
    request: JsonObject
    answer: JsonObject | None


class Catalogue:
    """Rows of buckets, objects and unfinished transfers.

    Every condition is checked in the transaction that makes the change. `discard` is
    told the data files that no row points to any more, after the commit.
    """

    def __init__(self, path: Path, discard: Callable[[list[str]], None]) -> None:
        self.database = Database(path, _SCHEMA)
        self._discard = discard

    # Buckets

    def create_bucket(self, bucket: Bucket) -> Bucket:
        """Add a bucket; Conflict when there is one of that name."""
        with self.database.transaction() as rows:
            if self._bucket_row(bucket.name):
                raise Conflict(
                    "Your previous request to create the named bucket succeeded"
                    " and you already own it."
                )
            rows.execute("INSERT INTO buckets VALUES (?, ?)", (bucket.name, _bucket_text(bucket)))
        return bucket

    def bucket(self, name: str) -> Bucket:
        """Return a bucket; NotFound."""
        row = self._bucket_row(name)
        if row is None:
            raise NotFound("The specified bucket does not exist.")
        return Bucket(name=name, **json.loads(row["body"]))

    def buckets(self, prefix: str, after: str, limit: int) -> list[Bucket]:
        """Return up to `limit` buckets that start with `prefix` and sort behind `after`."""
        rows = self.database.rows(
            "SELECT * FROM buckets WHERE name > ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
            after,
            len(prefix),
            prefix,
            limit,
        )
        return [Bucket(name=row["name"], **json.loads(row["body"])) for row in rows]

    def change_bucket(self, name: str, changes: JsonObject, condition: Preconditions) -> Bucket:
        """Set fields of a bucket; labels merge by key, None removes one."""
        with self.database.transaction() as rows:
            bucket = self.bucket(name)
            condition.check(1, bucket.metageneration)
            if "labels" in changes:
                labels = {**bucket.labels, **changes["labels"]}
                changes = {**changes, "labels": {k: v for k, v in labels.items() if v is not None}}
            bucket = replace(
                bucket, **changes, metageneration=bucket.metageneration + 1, updated=now()
            )
            rows.execute("UPDATE buckets SET body = ? WHERE name = ?", (_bucket_text(bucket), name))
        return bucket

    def delete_bucket(self, name: str, condition: Preconditions) -> None:
        """Remove an empty bucket; Conflict while any generation of any object is in it."""
        with self.database.transaction() as rows:
            condition.check(1, self.bucket(name).metageneration)
            if self.database.row("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", name):
                raise Conflict("The bucket you tried to delete is not empty.")
            rows.execute("DELETE FROM buckets WHERE name = ?", (name,))

    # Objects

    def find(
        self, bucket: str, name: str, generation: int | None = None, condition: Preconditions = ANY
    ) -> StoredObject:
        """Return an object's live generation, or the one named; NotFound, PreconditionFailed."""
        self.bucket(bucket)
        found = self._generation(bucket, name, generation)
        if found is None:
            raise NotFound(f"No such object: {bucket}/{name}")
        condition.check(found.generation, found.metageneration)
        return found

    def put(
        self,
        new: NewObject,
        condition: Preconditions = ANY,
        also: Callable[[StoredObject], None] = lambda _: None,
    ) -> StoredObject:
        """Make `new` the live generation; the one before is archived or gone.

        Of several writers with `ifGenerationMatch=0` exactly one finds nothing there.
        `also` runs in the same transaction.
        """
        with self.database.transaction() as rows:
            self.check_write(new.bucket, new.name, condition)
            bucket = self.bucket(new.bucket)
            freed = self._retire(rows, bucket, new.name)
            stored = StoredObject(
                bucket=new.bucket,
                name=new.name,
                generation=self._next_generation(rows),
                metageneration=1,
                file=new.content.file,
                size=new.content.size,
                crc32c=new.content.crc32c,
                # As Google's: a composite object has no MD5.
                md5=None if new.components else new.content.md5,
                components=new.components,
                storage_class=new.storage_class or bucket.storage_class,
                settings=new.settings,
                created=(created := now()),
                updated=created,
                deleted=None,
            )
            values = {**vars(stored), "settings": json.dumps(stored.settings)}
            rows.execute(
                f"INSERT INTO objects ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})",
                tuple(values.values()),
            )
            also(stored)
        self._discard(freed)
        return stored

    def check_write(self, bucket: str, name: str, condition: Preconditions) -> None:
        """Check the conditions of a write against what is live now; PreconditionFailed."""
        self.bucket(bucket)
        live = self._generation(bucket, name, None)
        condition.check(*((live.generation, live.metageneration) if live else (0, 0)))

    def change(
        self,
        bucket: str,
        name: str,
        generation: int | None,
        settings: Callable[[JsonObject], JsonObject],
        condition: Preconditions,
    ) -> StoredObject:
        """Replace an object's editable fields by `settings(of the present ones)`."""
        with self.database.transaction() as rows:
            found = self.find(bucket, name, generation, condition)
            changed = replace(
                found,
                settings=settings(found.settings),
                metageneration=found.metageneration + 1,
                updated=now(),
            )
            rows.execute(
                "UPDATE objects SET settings = ?, metageneration = ?, updated = ?"
                " WHERE bucket = ? AND name = ? AND generation = ?",
                (
                    json.dumps(changed.settings),
                    changed.metageneration,
                    changed.updated,
                    *(bucket, name, found.generation),
                ),
            )
        return changed

    def delete(
        self, bucket: str, name: str, generation: int | None, condition: Preconditions
    ) -> None:
        """Delete the live generation (archived under versioning), or for good the one named."""
        with self.database.transaction() as rows:
            found = self.find(bucket, name, generation, condition)
            if generation is None:
                freed = self._retire(rows, self.bucket(bucket), name)
            else:
                freed = self._remove(rows, found)
        self._discard(freed)

    def files(self) -> set[str]:
        """Return the names of all files that a row points to."""
        rows = self.database.rows("SELECT file FROM objects UNION SELECT file FROM pending")
        return {row["file"] for row in rows}

    # Unfinished uploads and rewrites

    def unfinished_files(self) -> list[str]:
        """Return the names of the files that transfers are still writing."""
        rows = self.database.rows("SELECT file FROM pending WHERE answer IS NULL")
        return [row["file"] for row in rows]

    def begin(self, pending: str, kind: str, file: str, request: JsonObject) -> None:
        """Record a resumable upload or a rewrite, so that it can be continued after a restart."""
        with self.database.transaction() as rows:
            rows.execute(
                "INSERT INTO pending VALUES (?, ?, ?, ?, NULL, ?)",
                (pending, kind, file, json.dumps(request), now()),
            )

    def pending(self, pending: str, kind: str) -> Pending | None:
        """Return an unfinished (or just finished) transfer, or None."""
        row = self.database.row(
            "SELECT * FROM pending WHERE id = ? AND kind = ? AND created > ?",
            pending,
            kind,
            _timestamp(datetime.now(UTC) - CONTINUABLE),
        )
        if row is None:
            return None
        answer = json.loads(row["answer"]) if row["answer"] else None
        return Pending(row["id"], row["file"], json.loads(row["request"]), answer)

    def finish(self, pending: str, answer: JsonObject) -> None:
        """Remember the final answer: whoever asks again gets the same one."""
        with self.database.transaction() as rows:
            rows.execute(
                "UPDATE pending SET answer = ?, file = '' WHERE id = ?",
                (json.dumps(answer), pending),
            )

    def forget(self, pending: str) -> None:
        """Drop an unfinished transfer; its file is gone afterwards."""
        row = self.database.row("SELECT file FROM pending WHERE id = ?", pending)
        with self.database.transaction() as rows:
            rows.execute("DELETE FROM pending WHERE id = ?", (pending,))
        self._discard([row["file"]] if row and row["file"] else [])

    def expire(self) -> None:
        """Drop transfers that are too old to be continued."""
        limit = _timestamp(datetime.now(UTC) - CONTINUABLE)
        for row in self.database.rows("SELECT id FROM pending WHERE created <= ?", limit):
            self.forget(row["id"])

    # Rows

    def _bucket_row(self, name: str) -> sqlite3.Row | None:
        return self.database.row("SELECT body FROM buckets WHERE name = ?", name)

    def _generation(self, bucket: str, name: str, generation: int | None) -> StoredObject | None:
        which = "deleted IS NULL" if generation is None else "generation = ?"
        parameters = [bucket, name] + ([] if generation is None else [generation])
        row = self.database.row(
            f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND name = ? AND {which}", *parameters
        )
        return to_object(row) if row else None

    def _retire(self, rows: sqlite3.Connection, bucket: Bucket, name: str) -> list[str]:
        """Archive or remove the live generation; return the files that are free now."""
        live = self._generation(bucket.name, name, None)
        if live is None:
            return []
        if not bucket.versioning:
            return self._remove(rows, live)
        rows.execute(
            "UPDATE objects SET deleted = ? WHERE bucket = ? AND name = ? AND deleted IS NULL",
            (now(), bucket.name, name),
        )
        return []

    def _remove(self, rows: sqlite3.Connection, found: StoredObject) -> list[str]:
        rows.execute(
            "DELETE FROM objects WHERE bucket = ? AND name = ? AND generation = ?",
            (found.bucket, found.name, found.generation),
        )
        return [found.file]

    def _next_generation(self, rows: sqlite3.Connection) -> int:
        """Return the time in µs, or one more than the last: it only grows, whatever the clock."""
        row = self.database.row("SELECT value FROM last_generation")
        generation = max(time.time_ns() // 1000, (row["value"] if row else 0) + 1)
        rows.execute("DELETE FROM last_generation")
        rows.execute("INSERT INTO last_generation VALUES (?)", (generation,))
        return generation


def to_object(row: sqlite3.Row) -> StoredObject:
    """Return a row of `objects` as an object."""
    return StoredObject(**{**dict(row), "settings": json.loads(row["settings"])})


def checked_for_read(found: StoredObject, condition: Preconditions) -> StoredObject:
    """Apply the conditions of a read: what the caller has already is NotModified."""
    condition.check(found.generation, found.metageneration, reading=True)
    return found


def now() -> str:
    """Return the present time as RFC 3339 text in milliseconds."""
    return _timestamp(datetime.now(UTC))


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bucket_text(bucket: Bucket) -> str:
    values: dict[str, Any] = {key: value for key, value in vars(bucket).items() if key != "name"}
    return json.dumps(values)
