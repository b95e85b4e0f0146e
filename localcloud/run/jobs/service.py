"""The jobs of the local Cloud Run: wires their API, stored state and running tasks together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from localcloud.database import Database
from localcloud.run.jobs.control import Control
from localcloud.run.jobs.executor import Executor
from localcloud.run.jobs.ledger import Attempt, Ledger
from localcloud.run.jobs.store import JobStore
from localcloud.run.jobs.transport import Transport
from localcloud.run.names import Names, region_of
from localcloud.run.plan import Environment, container_launch
from localcloud.run.process import Image, Launch, Processes
from localcloud.run.store import Store

InLoop = Callable[[Coroutine[Any, Any, Any]], Any]


class Jobs:
    """Jobs as `google.cloud.run_v2` knows them; a task is a local process that ends.

    `in_loop` runs a coroutine in the event loop and returns its result. At most `slots` tasks
    run at once, whatever parallelism the jobs have; the others wait their turn. CPU limits and
    service accounts are recorded and not enforced; a task above its memory limit is killed.
    """

    def __init__(
        self,
        database: Database,
        store: Store,
        processes: Processes,
        names: Names,
        images: Mapping[str, Image],
        environment: Environment,
        logs: Path,
        slots: int,
        announce: Callable[[], None],
        in_loop: InLoop,
    ) -> None:
        self._images = images
        self._environment = environment
        self._logs = logs
        self._slots = slots
        self._processes = processes
        self._in_loop = in_loop
        jobs = JobStore(database)
        self._ledger = Ledger(store, jobs, announce)
        self._control = Control(
            store,
            jobs,
            self._ledger,
            names,
            logs,
            lambda image: image in images,
            lambda execution: in_loop(self._running().start(execution)),
            lambda execution: in_loop(self._running().stop(execution)),
        )
        self._executor: Executor | None = None

    def handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the handlers of Jobs, Executions and Tasks."""
        return Transport(self._control).handlers()

    def start(self) -> None:
        """Run on what an earlier run left unfinished; its processes must be gone by now."""
        self._control.recheck()
        unfinished = self._ledger.recover()
        self._executor = self._in_loop(self._new_executor())
        for execution in unfinished:
            self._in_loop(self._executor.start(execution))

    async def stop(self) -> None:
        """End every task's process; the executions go on with the next `start`."""
        if self._executor is not None:
            await self._executor.close()
            self._executor = None

    async def _new_executor(self) -> Executor:
        return Executor(self._processes, self._ledger, self._launch, self._slots)

    def _running(self) -> Executor:
        assert self._executor is not None, "the local Cloud Run is not started"
        return self._executor

    def _launch(self, attempt: Attempt) -> Launch | None:
        own = {
            "CLOUD_RUN_JOB": attempt.job_id,
            "CLOUD_RUN_EXECUTION": attempt.execution_id,
            "CLOUD_RUN_TASK_INDEX": str(attempt.number),
            "CLOUD_RUN_TASK_ATTEMPT": str(attempt.attempt),
            "CLOUD_RUN_TASK_COUNT": str(attempt.execution.task_count),
        }
        return container_launch(
            attempt.execution.template.containers[0],
            self._images,
            self._environment(region_of(attempt.execution.name)),
            own,
            self._logs / attempt.execution_id / f"task{attempt.number}.log",
            listens=False,
        )
