"""Cloud Scheduler: calls HTTP targets at their schedule, with an ID token."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import requests
from cronsim import CronSim, CronSimError

from localcloud.database import Database
from localcloud.identity import Identity

Clock = Callable[[], datetime]
Status = Literal["never", "running", "succeeded", "failed", "interrupted"]

_TICK_S = 1.0
_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    name TEXT PRIMARY KEY, schedule TEXT NOT NULL, next_at TEXT NOT NULL,
    status TEXT NOT NULL, attempts INTEGER NOT NULL, skipped INTEGER NOT NULL,
    last_attempt_at TEXT, last_finished_at TEXT, http_status INTEGER, detail TEXT
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Job:
    """What to call and when; `schedule` is unix cron (five fields) in UTC.

    The body is sent as JSON. An attempt that has no answer after `attempt_deadline_s`
    has failed; like Google's default, a failed attempt is not repeated before the next time.
    """

    name: str
    schedule: str
    uri: str
    service_account_email: str
    audience: str
    attempt_deadline_s: float = 180.0
    body: bytes = b"{}"


@dataclass(frozen=True)
class JobRecord:
    """What became of a job; times are RFC 3339 text in UTC.

    `skipped` counts the times that passed while the attempt before was still running.
    """

    name: str
    schedule: str
    next_at: str
    status: Status
    attempts: int
    skipped: int
    last_attempt_at: str | None
    last_finished_at: str | None
    http_status: int | None
    detail: str | None


class JobIsRunning(RuntimeError):
    """The job is at work; run it again when it is done."""


class Scheduler:
    """Runs jobs in threads, never the same job twice at once; what happened is in `folder`.

    After a restart a job whose time passed meanwhile runs once, at once, and an attempt
    that was cut off is recorded as interrupted. `clock` gives the present time (aware).
    """

    def __init__(
        self,
        folder: Path,
        jobs: Sequence[Job],
        identity: Identity,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        if len(self._jobs) != len(jobs):
            raise ValueError("two jobs have the same name")
        for job in jobs:
            next_time(job.schedule, datetime.now(UTC))
        self._identity = identity
        self._clock = clock
        self._database = Database(folder / "scheduler.sqlite", _SCHEMA)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)
        self._pool = ThreadPoolExecutor(max(1, len(jobs)), thread_name_prefix="scheduler-job")

    def start(self) -> None:
        """Bring the records in line with the declared jobs and begin to watch the clock."""
        now = self._clock()
        with self._database.transaction() as rows:
            rows.execute(
                "UPDATE jobs SET status = 'interrupted', detail = 'the local cloud ended meanwhile'"
                " WHERE status = 'running'"
            )
            known = {row["name"] for row in self._database.rows("SELECT name FROM jobs")}
            for name in known - set(self._jobs):
                rows.execute("DELETE FROM jobs WHERE name = ?", (name,))
            for job in self._jobs.values():
                # A schedule that is the same keeps its next time, so none is lost.
                rows.execute(
                    "INSERT INTO jobs (name, schedule, next_at, status, attempts, skipped)"
                    " VALUES (?, ?, ?, 'never', 0, 0) ON CONFLICT (name) DO UPDATE"
                    " SET schedule = excluded.schedule, next_at = excluded.next_at"
                    " WHERE schedule <> excluded.schedule",
                    (job.name, job.schedule, _text(next_time(job.schedule, now))),
                )
        self._thread.start()

    def stop(self) -> None:
        """End after the attempts in flight."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=True)
        self._database.close()

    def tick(self) -> None:
        """Begin every job whose time has come; one that is still running is skipped."""
        now = self._clock()
        for row in self._database.rows("SELECT name, next_at FROM jobs"):
            due = datetime.fromisoformat(row["next_at"])
            job = self._jobs[row["name"]]
            if due <= now and self._claim(job, now, due):
                self._pool.submit(self._attempt, job, due)

    def run_now(self, name: str) -> JobRecord:
        """Run a job at once and return what became of it; KeyError, JobIsRunning."""
        job, now = self._jobs[name], self._clock()
        if not self._claim(job, now):
            raise JobIsRunning(f"job {name!r} is running; wait until it is done")
        self._attempt(job, now)
        return self.record(name)

    def record(self, name: str) -> JobRecord:
        """Return what is known of a job; KeyError."""
        row = self._database.row("SELECT * FROM jobs WHERE name = ?", name)
        if row is None:
            raise KeyError(name)
        return _to_record(row)

    def records(self) -> list[JobRecord]:
        """Return what is known of every job."""
        return [_to_record(row) for row in self._database.rows("SELECT * FROM jobs ORDER BY name")]

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self.tick()
            self._stopping.wait(_TICK_S)

    def _claim(self, job: Job, now: datetime, due: datetime | None = None) -> bool:
        """Mark the job as running, unless it is; the time `due` is used up either way.

        One transaction: of two who see the same time only one claims it, and a kill
        afterwards finds the job interrupted, not due again.
        """
        with self._database.transaction() as rows:
            record = self.record(job.name)
            if due is not None:
                if record.next_at != _text(due):
                    return False
                rows.execute(
                    "UPDATE jobs SET next_at = ? WHERE name = ?",
                    (_text(next_time(job.schedule, now)), job.name),
                )
            if record.status == "running":
                if due is not None:
                    rows.execute(
                        "UPDATE jobs SET skipped = skipped + 1 WHERE name = ?", (job.name,)
                    )
                return False
            rows.execute(
                "UPDATE jobs SET status = 'running', attempts = attempts + 1, last_attempt_at = ?,"
                " last_finished_at = NULL, http_status = NULL, detail = NULL WHERE name = ?",
                (_text(now), job.name),
            )
            return True

    def _attempt(self, job: Job, due: datetime) -> None:
        http_status, detail = self._call(job, due)
        succeeded = http_status is not None and 200 <= http_status < 300
        with self._database.transaction() as rows:
            rows.execute(
                "UPDATE jobs SET status = ?, http_status = ?, detail = ?, last_finished_at = ?"
                " WHERE name = ?",
                (
                    "succeeded" if succeeded else "failed",
                    http_status,
                    None if succeeded else detail,
                    _text(self._clock()),
                    job.name,
                ),
            )
        if not succeeded:
            _log.warning("job %s failed: HTTP %s: %s", job.name, http_status, detail)

    def _call(self, job: Job, due: datetime) -> tuple[int | None, str]:
        """POST to the target; return its status (None: no answer) and the begin of its answer."""
        token = self._identity.mint(job.audience, job.service_account_email)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "User-Agent": "Google-Cloud-Scheduler",
            "X-CloudScheduler": "true",
            "X-CloudScheduler-JobName": job.name,
            "X-CloudScheduler-ScheduleTime": _text(due),
        }
        try:
            answer = requests.post(
                job.uri,
                data=job.body,
                headers=headers,
                timeout=job.attempt_deadline_s,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return None, f"{type(error).__name__}: {error}"
        return answer.status_code, answer.text[:500]


def next_time(schedule: str, after: datetime) -> datetime:
    """Return the first minute behind `after` at which `schedule` is due, in UTC.

    ValueError for what is not unix cron.
    """
    # "L" and "#" are extensions of cronsim; July is the only name with an L in it.
    extended = {"L", "#"} & set(schedule.upper().replace("JUL", ""))
    if len(schedule.split()) != 5 or extended:
        raise ValueError(f"not a unix cron schedule of five fields: {schedule!r}")
    try:
        return next(CronSim(schedule, after.astimezone(UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"schedule {schedule!r} is never due: {error}") from error


def _to_record(row: sqlite3.Row) -> JobRecord:
    return JobRecord(**dict(row))


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
