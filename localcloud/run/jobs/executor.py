"""Runs the tasks of executions as processes, several at once; lives in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable

from google.rpc import code_pb2

from localcloud.run.instance import MEMORY_CHECK_S
from localcloud.run.jobs.ledger import Attempt, Ledger
from localcloud.run.jobs.outcome import (
    CANCELLED,
    TIMED_OUT,
    Outcome,
    not_started,
    of_exit,
    out_of_memory,
)
from localcloud.run.process import Launch, Process, Processes
from localcloud.run.template import quantity

# Returns how to start an attempt, None when its image is unknown here.
Launcher = Callable[[Attempt], Launch | None]

_log = logging.getLogger(__name__)


class Executor:
    """Starts executions and stops them; at most `slots` tasks of all of them run at once."""

    def __init__(
        self, processes: Processes, ledger: Ledger, launcher: Launcher, slots: int
    ) -> None:
        self._processes = processes
        self._ledger = ledger
        self._launcher = launcher
        self._most_at_once = slots
        self._slots = asyncio.Semaphore(slots)
        self._running: dict[str, _Execution] = {}
        self._ends: set[asyncio.Task[None]] = set()

    async def start(self, execution_id: str) -> None:
        """Run the tasks of an execution that are still to be run."""
        execution = _Execution(
            execution_id, self._processes, self._ledger, self._launcher, self._slots
        )
        self._running[execution_id] = execution
        end = asyncio.ensure_future(self._run(execution))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    async def stop(self, execution_id: str) -> None:
        """Have an execution's processes ended and no others started; does not wait for it."""
        if execution_id in self._running:
            self._running[execution_id].stop()

    async def close(self) -> None:
        """End every process; the executions go on with the next start."""
        for execution in self._running.values():
            execution.interrupt()
        if self._ends:
            await asyncio.wait(self._ends)

    async def _run(self, execution: _Execution) -> None:
        try:
            await execution.run(self._most_at_once)
        except Exception:
            # It stays as it is until the next start takes it up; the others go on.
            _log.critical("execution %s ended by a defect", execution.id, exc_info=True)
        finally:
            del self._running[execution.id]


class _Execution:
    """One execution: workers that take its tasks in order, each through all its attempts."""

    def __init__(
        self,
        execution_id: str,
        processes: Processes,
        ledger: Ledger,
        launcher: Launcher,
        slots: asyncio.Semaphore,
    ) -> None:
        self.id = execution_id
        self._processes = processes
        self._ledger = ledger
        self._launcher = launcher
        self._slots = slots
        self._stopping = asyncio.Event()
        self._interrupted = False

    def stop(self) -> None:
        self._stopping.set()

    def interrupt(self) -> None:
        """Stop without a verdict: what runs is to be tried again later."""
        self._interrupted = True
        self._stopping.set()

    async def run(self, most_at_once: int) -> None:
        parallelism, numbers = await asyncio.to_thread(self._ledger.pending, self.id)
        todo = deque(numbers)
        workers = min(parallelism, most_at_once, len(todo))
        await asyncio.gather(*(self._work(todo) for _ in range(workers)))
        if not self._interrupted:
            await asyncio.to_thread(self._ledger.cancel_rest, self.id)

    async def _work(self, todo: deque[int]) -> None:
        while todo and not self._stopping.is_set():
            number = todo.popleft()
            async with self._slot():
                while not self._stopping.is_set() and await self._attempt(number):
                    pass

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Hold one of the machine's places; or none, once the execution is to stop."""
        acquiring = asyncio.ensure_future(self._slots.acquire())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        held = acquiring.done() or not acquiring.cancel()
        try:
            yield
        finally:
            if held:
                self._slots.release()

    async def _attempt(self, number: int) -> bool:
        """Make one attempt; tell whether another one is to follow."""
        attempt = await asyncio.to_thread(self._ledger.begin, self.id, number)
        if attempt is None:
            return False
        outcome = await self._outcome(attempt)
        if outcome is None:
            return False
        return await asyncio.to_thread(self._ledger.ended, self.id, number, outcome)

    async def _outcome(self, attempt: Attempt) -> Outcome | None:
        """Run the process of an attempt to its end; None when it was interrupted."""
        launch = self._launcher(attempt)
        if launch is None:
            image = attempt.execution.template.containers[0].image
            return Outcome(code_pb2.NOT_FOUND, f"Image '{image}' not found.")
        try:
            process = await self._processes.start(self.id, launch)
        except OSError as error:
            return not_started(str(error))
        try:
            return await self._watch(process, attempt)
        finally:
            await self._processes.end(process)

    async def _watch(self, process: Process, attempt: Attempt) -> Outcome | None:
        """Return when the process has ended or has to be ended, with how the attempt ends."""
        template = attempt.execution.template
        limit_bytes = int(quantity(template.containers[0].resources.limits["memory"]))
        clock = asyncio.get_running_loop().time
        deadline = clock() + template.timeout.seconds
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                await asyncio.wait(
                    {process.exited, stopping},
                    timeout=min(MEMORY_CHECK_S, max(0.0, deadline - clock())),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if process.exit_code is not None:
                    return of_exit(process.exit_code)
                if stopping.done():
                    return None if self._interrupted else CANCELLED
                if clock() >= deadline:
                    return TIMED_OUT
                used_bytes = await asyncio.to_thread(process.memory_bytes)
                if used_bytes > limit_bytes:
                    process.signal_group(signal.SIGKILL)
                    return out_of_memory(limit_bytes, used_bytes)
        finally:
            stopping.cancel()
