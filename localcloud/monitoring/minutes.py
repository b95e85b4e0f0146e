"""The measured requests, counted by minute, region, revision and response code, on disk.

Counts gather in memory and go to SQLite about once a second: the last second before a kill
is lost. Metrics are no acknowledged writes, and on Google's side too they are sampled.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from localcloud.database import Database
from localcloud.monitoring.histogram import Histogram
from localcloud.run.measurement import Measurement

RETENTION_S = 42 * 24 * 3600.0
FLUSH_S = 1.0

_SCHEMA = """
DROP TABLE IF EXISTS counts;    -- of releases in which there was one region
CREATE TABLE IF NOT EXISTS requests (
    begins REAL NOT NULL,       -- Unix time, s
    region TEXT NOT NULL,
    service TEXT NOT NULL,
    revision TEXT NOT NULL,
    code INTEGER NOT NULL,
    last REAL NOT NULL,         -- when the last request counted here finished
    count INTEGER NOT NULL,
    total REAL NOT NULL,        -- ms
    total_of_squares REAL NOT NULL,
    buckets TEXT NOT NULL,
    PRIMARY KEY (begins, region, service, revision, code)
);
"""


@dataclass(frozen=True)
class Key:
    """What is counted together; `begins` is the start of the sampling period (Unix time, s)."""

    begins: float
    region: str
    service: str
    revision: str
    code: int


@dataclass
class Sample:
    """What was counted, and when the last of it happened."""

    last: float = 0.0
    latencies: Histogram = field(default_factory=Histogram)


class Minutes:
    """Counts measurements; `period_s` is the sampling period, 60 s on Google's side."""

    def __init__(self, path: Path, period_s: float, clock: Callable[[], float]) -> None:
        self._database = Database(path, _SCHEMA)
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._gathered: dict[Key, Sample] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="monitoring", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.flush()
        self._database.close()

    def add(self, measurement: Measurement) -> None:
        """Count one request; touches memory only."""
        begins = measurement.finished_at // self._period_s * self._period_s
        key = Key(
            begins,
            measurement.region,
            measurement.service,
            measurement.revision,
            measurement.response_code,
        )
        with self._lock:
            sample = self._gathered.setdefault(key, Sample())
            sample.last = max(sample.last, measurement.finished_at)
            sample.latencies.add(measurement.latency_ms)

    def flush(self) -> None:
        """Write what has gathered; each count is added to the table once."""
        with self._database.transaction() as connection:
            with self._lock:
                gathered, self._gathered = self._gathered, {}
            for key, sample in gathered.items():
                stored = self._stored(key)
                stored.last = max(stored.last, sample.last)
                stored.latencies.merge(sample.latencies)
                latencies = stored.latencies
                connection.execute(
                    "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        key.begins,
                        key.region,
                        key.service,
                        key.revision,
                        key.code,
                        stored.last,
                        latencies.count,
                        latencies.total,
                        latencies.total_of_squares,
                        latencies.buckets_json(),
                    ),
                )

    def samples(self, start: float, end: float) -> list[tuple[Key, Sample]]:
        """Return what was counted in periods that may end in (start, end], oldest first."""
        self.flush()
        rows = self._database.rows(
            "SELECT * FROM requests WHERE begins > ? AND begins < ? ORDER BY begins",
            start - self._period_s - 1,
            end,
        )
        return [(_key(row), _sample(row)) for row in rows]

    def _stored(self, key: Key) -> Sample:
        row = self._database.row(
            "SELECT * FROM requests WHERE begins = ? AND region = ? AND service = ?"
            " AND revision = ? AND code = ?",
            key.begins,
            key.region,
            key.service,
            key.revision,
            key.code,
        )
        return _sample(row) if row else Sample()

    def _work(self) -> None:
        next_prune = time.monotonic()
        while not self._stopping.wait(FLUSH_S):
            self.flush()
            if time.monotonic() >= next_prune:
                self._prune()
                next_prune = time.monotonic() + 3600

    def _prune(self) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM requests WHERE begins < ?", (self._clock() - RETENTION_S,)
            )


def _key(row: sqlite3.Row) -> Key:
    return Key(row["begins"], row["region"], row["service"], row["revision"], row["code"])


def _sample(row: sqlite3.Row) -> Sample:
    return Sample(
        row["last"],
        Histogram(
            row["count"],
            row["total"],
            row["total_of_squares"],
            Histogram.buckets_from_json(row["buckets"]),
        ),
    )
