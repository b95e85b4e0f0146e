"""One revision's instance: started when needed, restarted when it crashes, ended when idle.

The real service runs as many instances as the load asks for; here there is one process a
revision, whatever `max_instance_count` says. It is sent at most
`max_instance_request_concurrency` requests at once, as every instance of the real service is;
further requests wait their turn in the order of arrival. CPU limits and service accounts are
recorded and not enforced; the memory limit is: an instance that exceeds it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import time
from collections import deque
from collections.abc import Callable

import aiohttp

from localcloud.run.plan import Failure, RevisionPlan
from localcloud.run.process import Process, Processes

_log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 30.0
STABLE_AFTER_S = 30.0
MEMORY_CHECK_S = 2.0


class NoInstance(Exception):
    """No instance became available to a request in time (503)."""


class AllBusy(Exception):
    """The instance served as many requests as it may for all the time waited (429)."""


class RevisionRunner:
    """Keeps at most one process of a revision and hands it to requests; lives in the loop.

    `deployed` is called once, with None or the Failure, when a new revision's first instance
    is ready or has failed.
    """

    def __init__(
        self,
        plan: RevisionPlan,
        processes: Processes,
        session: aiohttp.ClientSession,
        idle_timeout_s: float,
        deployed: Callable[[Failure | None], None] | None,
    ) -> None:
        self.plan = plan
        self._processes = processes
        self._session = session
        self._idle_timeout_s = idle_timeout_s
        self._deployed = deployed
        self._live: Process | None = None
        self._waiters: deque[asyncio.Future[Process]] = deque()
        self._in_flight = 0
        self._percent = 0
        self._tagged = False
        self._was_routed = False
        self._last_used = float("-inf")
        self._closing = False
        self._failed = False
        self._changed = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(_log_defect)

    # -- what the routes say

    def route(self, percent: int, tagged: bool) -> None:
        """Say which share of traffic leads here, and whether a tag does."""
        self._percent, self._tagged = percent, tagged
        self._was_routed = self._was_routed or percent > 0 or tagged
        self._changed.set()

    async def close(self) -> None:
        """End the instance after its requests in flight and refuse new ones."""
        self._closing = True
        self._changed.set()
        await self._task
        if self._ending:
            await asyncio.gather(*self._ending)

    def kill(self) -> None:
        """End the instance now; its requests in flight fail."""
        if self._live is not None:
            self._live.signal_group(signal.SIGKILL)

    # -- what requests do

    async def acquire(self, timeout_s: float) -> Process:
        """Return the instance, started if there is none; every call needs a `release`.

        Raises NoInstance or AllBusy after `timeout_s`.
        """
        if self._live is not None and not self._waiters and self._has_room(self._live):
            return self._grant(self._live)
        if self._closing or self._failed:
            raise NoInstance(f"revision {self.plan.name} is not available")
        waiter: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._changed.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            busy = self._live is not None
            raise (AllBusy if busy else NoInstance)(
                f"revision {self.plan.name}: no instance within {timeout_s:g} s"
            ) from None
        finally:
            self._give_up(waiter)

    def _give_up(self, waiter: asyncio.Future[Process]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            self._changed.set()

    def release(self, process: Process) -> None:
        """Give the instance back after a request."""
        process.in_flight -= 1
        self._in_flight -= 1
        self._last_used = time.monotonic()
        self._admit()
        if not self._in_flight and (self._percent == 0 or self._closing):
            self._changed.set()  # It may have to end now; a busy instance is not woken for this.

    def discard(self, process: Process) -> None:
        """Stop using an instance that refuses connections; a fresh one takes its place.

        It may be ending by itself, with requests in flight that it still answers.
        """
        if self._live is process:
            _log.warning("instance of %s refuses connections; replacing it", self.plan.name)
            self.replace()

    def replace(self) -> None:
        """Send the instance no more requests, but SIGTERM; those in flight have the grace period.

        The next one starts at once, and further requests wait for it. The real service may do
        this to any instance at any time.
        """
        if self._live is not None:
            self._live = None
            self._changed.set()

    def _has_room(self, process: Process) -> bool:
        return process.in_flight < self.plan.concurrency

    def _grant(self, process: Process) -> Process:
        process.in_flight += 1
        self._in_flight += 1
        return process

    def _admit(self) -> None:
        while self._live is not None and self._waiters and self._has_room(self._live):
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(self._grant(self._live))

    # -- the life of the instance

    def _idle_left_s(self) -> float:
        """Return how long the instance may stay without being used; 0 or less: end it."""
        if self._deployed is not None or self._waiters or self._in_flight:
            return float("inf")
        if self._closing or self._failed:
            return 0.0
        if self._percent > 0 or (self._tagged and self.plan.min_instances > 0):
            return float("inf")
        if self._was_routed and not self._tagged:
            return 0.0  # Traffic was taken away: nothing can reach it any more.
        return self._last_used + self._idle_timeout_s - time.monotonic()

    async def _run(self) -> None:
        failures = 0
        while await self._until_wanted():
            process = await self._started()
            if self._failed:
                self._refuse_waiters()
                continue
            if process is None:
                failures += 1
                await self._back_off(failures)
                continue
            began = time.monotonic()
            self._live = process
            self._last_used = began
            self._admit()
            await self._until_ended_or_idle(process)
            self._live = None
            crashed = process.exited.done()
            self._end_later(process)
            if crashed:
                _log.warning("instance of %s ended with code %s", self.plan.name, process.exit_code)
                failures = 1 if time.monotonic() - began > STABLE_AFTER_S else failures + 1
                await self._back_off(failures)
            else:
                failures = 0

    async def _until_wanted(self) -> bool:
        """Wait until an instance is needed; False when the runner is closed instead."""
        while True:
            self._changed.clear()
            if self._closing and not self._in_flight:
                self._refuse_waiters()
                return False
            if self._idle_left_s() > 0:
                return True
            await self._changed.wait()

    def _refuse_waiters(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(NoInstance(f"revision {self.plan.name} is gone"))

    async def _back_off(self, failures: int) -> None:
        """Wait before the next start, longer each time; not when closing."""
        wait_s = min(FIRST_BACKOFF_S * 2 ** (failures - 1), LONGEST_BACKOFF_S)
        until = time.monotonic() + wait_s
        while not self._closing and (left_s := until - time.monotonic()) > 0:
            await self._change(left_s)

    async def _change(self, timeout_s: float) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if timeout_s == float("inf") else timeout_s):
                await self._changed.wait()

    async def _started(self) -> Process | None:
        """Start and probe a process; report a first deployment; None when it failed."""
        process, failure = await self._start_and_probe()
        if process is not None and failure is not None:
            self._end_later(process)
            process = None
        if failure is not None and not self._closing:
            _log.warning("instance of %s failed to start: %s", self.plan.name, failure.message)
        if self._deployed is not None and not (self._closing and failure is not None):
            self._failed = failure is not None
            deployed, self._deployed = self._deployed, None
            deployed(failure)
        elif self._closing:
            self._deployed = None
        return process

    async def _start_and_probe(self) -> tuple[Process | None, Failure | None]:
        plan = self.plan
        if plan.launch is None:
            return None, Failure(
                "CONTAINER_MISSING",
                f"Image '{plan.image}' not found. This local cloud knows no such image.",
            )
        try:
            process = await self._processes.start(plan.name, plan.launch)
        except OSError as error:
            return None, Failure("HEALTH_CHECK_CONTAINER_ERROR", f"It cannot be started: {error}.")
        probing = asyncio.ensure_future(plan.probe.passes(self._session, process.port))
        closing = asyncio.ensure_future(self._until_closing())
        try:
            await asyncio.wait(
                {probing, process.exited, closing}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            closing.cancel()
            if not probing.done():
                probing.cancel()
        if process.exited.done():
            why = f"exited with code {process.exit_code} before it was ready"
        elif not probing.done():
            why = "was stopped while it started"
        elif why_not := probing.result():
            why = (
                "failed the configured startup probe checks "
                f"({plan.probe.failure_threshold} x {plan.probe.period_s} s): {why_not}"
            )
        else:
            return process, None
        return process, Failure("HEALTH_CHECK_CONTAINER_ERROR", self._failure_text(process, why))

    def _failure_text(self, process: Process, why: str) -> str:
        assert self.plan.launch is not None
        lines = _as_sentences(process.last_lines()) or "(nothing)"
        return (
            f"The user-provided container {why}. It must listen on the port given in PORT "
            f"(PORT={process.port}). Last lines of {self.plan.launch.log}:\n{lines}"
        )

    async def _until_closing(self) -> None:
        while not self._closing:
            await self._change(float("inf"))

    async def _until_ended_or_idle(self, process: Process) -> None:
        next_check = time.monotonic() + MEMORY_CHECK_S
        while self._live is process and not process.exited.done():
            idle_left_s = self._idle_left_s()
            if idle_left_s <= 0:
                return
            if time.monotonic() >= next_check:
                await self._check_memory(process)
                next_check = time.monotonic() + MEMORY_CHECK_S
            changed = asyncio.ensure_future(self._changed.wait())
            timeout_s = min(idle_left_s, max(0.0, next_check - time.monotonic()))
            await asyncio.wait(
                {changed, process.exited}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            changed.cancel()
            self._changed.clear()

    async def _check_memory(self, process: Process) -> None:
        used = await asyncio.to_thread(process.memory_bytes)
        if used > self.plan.memory_bytes:
            _log.error(
                "Memory limit of %d MiB exceeded with %d MiB used by %s; killing the instance",
                self.plan.memory_bytes >> 20,
                used >> 20,
                self.plan.name,
            )
            process.signal_group(signal.SIGKILL)

    def _end_later(self, process: Process) -> None:
        task = asyncio.ensure_future(self._processes.end(process))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _log_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("a revision's runner ended by a defect", exc_info=task.exception())


def _as_sentences(lines: str) -> str:
    """Return log lines with the structured ones as `SEVERITY message: code: reason`."""
    return "\n".join(_as_sentence(line) for line in lines.splitlines())


def _as_sentence(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "message" not in entry:
        return line
    said = [entry["message"], entry.get("code"), entry.get("reason")]
    words = ": ".join(str(part) for part in said if part)
    return f"{entry.get('severity', '')} {words}".strip()
