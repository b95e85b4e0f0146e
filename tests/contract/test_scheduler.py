"""The scheduler, calling a real HTTP target at times of a clock that the test moves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from localcloud.identity import Identity
from localcloud.scheduler import Job, JobIsRunning, Scheduler, next_time
from tests.contract.listener import listening

EMAIL = "scheduler@turnout-local.iam.gserviceaccount.com"
NOON = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)


@dataclass
class MovableClock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Target:
    """An HTTP target that records its calls, and waits in each while `held` is set."""

    status: int = 200
    calls: list[dict[str, str]] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        self.calls.append({**request.headers, "body": body, "path": request.path})
        while self.held.is_set():
            await asyncio.sleep(0.01)
        return web.Response(status=self.status, text="what the target says")


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    app = web.Application()
    app.router.add_post("/{path:.*}", target.handle)
    with listening(app) as address:
        target.address = f"http://{address}"
        yield target
        target.held.clear()


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(tmp_path / "identity")


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


def job(target: Target, schedule: str = "*/5 * * * *", **fields: object) -> Job:
    uri = f"{target.address}/reconcile"
    return Job("reconcile", schedule, uri, EMAIL, audience=uri, **fields)  # type: ignore[arg-type]


@pytest.fixture
def scheduler(
    tmp_path: Path, target: Target, identity: Identity, clock: MovableClock
) -> Iterator[Scheduler]:
    scheduler = Scheduler(tmp_path / "scheduler", [job(target)], identity, clock)
    scheduler.start()
    yield scheduler
    target.held.clear()
    scheduler.stop()


def eventually(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def status(scheduler: Scheduler) -> str:
    return scheduler.record("reconcile").status


def test_job_is_called_at_its_time_with_a_token(
    scheduler: Scheduler, target: Target, identity: Identity, clock: MovableClock
) -> None:
    scheduler.tick()
    clock.forward(minutes=4)
    scheduler.tick()
    assert (target.calls, status(scheduler)) == ([], "never")
    clock.forward(seconds=30)
    scheduler.tick()
    eventually(lambda: status(scheduler) == "succeeded")
    (call,) = target.calls
    claims = identity.verify(
        call["Authorization"].removeprefix("Bearer "), f"{target.address}/reconcile"
    )
    assert (claims["email"], call["path"], call["body"]) == (EMAIL, "/reconcile", "{}")
    assert call["X-CloudScheduler-ScheduleTime"] == "2026-11-24T12:05:00+00:00"
    record = scheduler.record("reconcile")
    assert (record.http_status, record.attempts) == (200, 1)
    assert record.last_attempt_at == "2026-11-24T12:05:00+00:00"
    assert record.next_at == "2026-11-24T12:10:00+00:00"


def test_background_thread_runs_what_is_due(
    scheduler: Scheduler, target: Target, clock: MovableClock
) -> None:
    clock.forward(minutes=5)
    eventually(lambda: status(scheduler) == "succeeded")
    assert len(target.calls) == 1


def test_job_that_still_runs_is_not_started_again(
    scheduler: Scheduler, target: Target, clock: MovableClock
) -> None:
    target.held.set()
    clock.forward(minutes=5)
    scheduler.tick()
    eventually(lambda: target.calls)
    clock.forward(minutes=5)
    scheduler.tick()
    with pytest.raises(JobIsRunning):
        scheduler.run_now("reconcile")
    record = scheduler.record("reconcile")
    assert (record.status, record.attempts, record.skipped) == ("running", 1, 1)
    target.held.clear()
    eventually(lambda: status(scheduler) == "succeeded")
    clock.forward(minutes=5)
    scheduler.tick()
    eventually(lambda: len(target.calls) == 2)


def test_run_now_returns_what_became_of_it(scheduler: Scheduler, target: Target) -> None:
    target.status = 503
    record = scheduler.run_now("reconcile")
    assert (record.status, record.http_status) == ("failed", 503)
    assert record.detail == "what the target says"
    target.status = 200
    assert scheduler.run_now("reconcile").status == "succeeded"
    assert scheduler.record("reconcile").attempts == 2
    with pytest.raises(KeyError):
        scheduler.run_now("unknown")


def test_target_that_does_not_answer_in_time_is_a_failed_attempt(
    tmp_path: Path, target: Target, identity: Identity, clock: MovableClock
) -> None:
    impatient = Scheduler(tmp_path / "s", [job(target, attempt_deadline_s=0.2)], identity, clock)
    impatient.start()
    target.held.set()
    record = impatient.run_now("reconcile")
    assert (record.status, record.http_status) == ("failed", None)
    assert "timed out" in (record.detail or "")
    impatient.stop()


def test_time_missed_while_down_is_made_up_for_once(
    tmp_path: Path, target: Target, identity: Identity, clock: MovableClock
) -> None:
    first = Scheduler(tmp_path / "s", [job(target)], identity, clock)
    first.start()
    first.run_now("reconcile")
    first.stop()
    clock.forward(hours=3)
    second = Scheduler(tmp_path / "s", [job(target)], identity, clock)
    second.start()
    eventually(lambda: second.record("reconcile").attempts == 2)
    eventually(lambda: status(second) == "succeeded")
    second.tick()
    record = second.record("reconcile")
    assert (record.attempts, record.next_at) == (2, "2026-11-24T15:05:00+00:00")
    second.stop()


def test_attempt_cut_off_by_a_kill_is_recorded_as_interrupted(
    tmp_path: Path, target: Target, identity: Identity, clock: MovableClock
) -> None:
    target.held.set()
    cut_off = Scheduler(tmp_path / "s", [job(target)], identity, clock)
    cut_off.start()
    clock.forward(minutes=5)
    cut_off.tick()
    eventually(lambda: target.calls)
    # A copy of the files as they are now is what a kill would leave.
    for path in (tmp_path / "s").iterdir():
        (tmp_path / "killed").mkdir(exist_ok=True)
        (tmp_path / "killed" / path.name).write_bytes(path.read_bytes())
    after = Scheduler(tmp_path / "killed", [job(target)], identity, clock)
    after.start()
    assert (after.record("reconcile").status, after.record("reconcile").attempts) == (
        "interrupted",
        1,
    )
    target.held.clear()
    assert after.run_now("reconcile").status == "succeeded"
    after.stop()
    cut_off.stop()


def test_changed_schedule_counts_from_now_and_removed_jobs_are_gone(
    tmp_path: Path, target: Target, identity: Identity, clock: MovableClock
) -> None:
    first = Scheduler(tmp_path / "s", [job(target)], identity, clock)
    first.start()
    first.stop()
    second = Scheduler(tmp_path / "s", [job(target, "0 * * * *")], identity, clock)
    second.start()
    assert second.record("reconcile").next_at == "2026-11-24T13:00:00+00:00"
    second.stop()
    third = Scheduler(tmp_path / "s", [], identity, clock)
    third.start()
    assert third.records() == []
    third.stop()


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("* * * * *", "2026-11-24T12:01:00+00:00"),
        ("*/15 * * * *", "2026-11-24T12:15:00+00:00"),
        ("30 3 * * MON", "2026-11-30T03:30:00+00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00+00:00"),
        ("0 9 1 JUL *", "2027-07-01T09:00:00+00:00"),
    ],
)
def test_next_time_is_the_first_one_behind_now(schedule: str, due: str) -> None:
    assert next_time(schedule, NOON).isoformat() == due


@pytest.mark.parametrize(
    "schedule",
    ["", "* * * *", "* * * * * *", "61 * * * *", "0 0 L * *", "0 0 * * 1#2", "0 0 31 2 *"],
)
def test_schedule_that_is_not_unix_cron_is_refused(
    tmp_path: Path, identity: Identity, schedule: str
) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Scheduler(tmp_path, [Job("j", schedule, "http://x", EMAIL, "http://x")], identity)
