"""The local Cloud Run: wires the API, the stored state and the running fleet together."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc

from localcloud.database import Database
from localcloud.ports import Ports
from localcloud.run import jobs, store
from localcloud.run.control import Control
from localcloud.run.fleet import Fleet
from localcloud.run.measurement import Listener, Measurement
from localcloud.run.names import Names, region_of
from localcloud.run.plan import Environment, Failure, RevisionPlan, ServicePlan, revision_plan
from localcloud.run.policy import Policies
from localcloud.run.process import Image, Processes
from localcloud.run.reconciler import Reconciler
from localcloud.run.refuse import RefuseTheRest
from localcloud.run.store import RevisionRecord, ServiceRecord, Store
from localcloud.run.traffic import Route
from localcloud.run.transport import Transport

IDLE_TIMEOUT_S = 15 * 60.0
PENDING_TIMEOUT_S = 120.0
_APPLY_TIMEOUT_S = 60.0
_OURS = ("/google.cloud.run.", "/google.longrunning.Operations/")

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class CloudRun:
    """Services, revisions and jobs as `google.cloud.run_v2` knows them, run as local processes.

    Of every region of `project`; an id of a service or a job is in one of them at a time.
    `images` maps image references to what stands for them here; a revision of an image that
    is not in it fails with CONTAINER_MISSING. `environment` of its region is given to every
    instance, and to a job's tasks unless they have a `task_environment`.
    `loop` is running in another thread; `start` and `stop` must not be called from it.

    A revision that nothing leads to keeps its instance for `idle_timeout_s` after it became
    ready, loses it at once after traffic was taken away, and a tagged one without a share
    after `idle_timeout_s` without requests. A request waits for a starting instance up to
    `pending_timeout_s`. At most `task_slots` tasks of jobs run at once, without it as many as
    the machine has CPUs.
    """

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        images: Mapping[str, Image],
        environment: Environment,
        project: str,
        loop: asyncio.AbstractEventLoop,
        *,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        pending_timeout_s: float = PENDING_TIMEOUT_S,
        task_slots: int | None = None,
        task_environment: Environment | None = None,
    ) -> None:
        self.project = project
        self._folder = folder
        self._ports = ports
        self._images = images
        self._environment = environment
        self._loop = loop
        self._idle_timeout_s = idle_timeout_s
        self._pending_timeout_s = pending_timeout_s
        self._listeners: list[Listener] = []
        names = Names(project)
        self._database = Database(folder / "run.db", store.SCHEMA + jobs.SCHEMA)
        self._store = Store(self._database)
        self._policies = Policies(self._store)
        self._reconciler = Reconciler(self._store, self._apply, self._remove)
        control = Control(self._store, names, self._reconciler)
        self._transport = Transport(control, self._reconciler, self._policies, names)
        self._processes = Processes(self._store)
        self._jobs = jobs.Jobs(
            self._database,
            self._store,
            self._processes,
            names,
            images,
            task_environment or environment,
            folder / "logs",
            task_slots or _cpus(),
            self._reconciler.announce,
            self._in_loop,
        )
        self._fleet: Fleet | None = None
        self._deployments: queue.SimpleQueue[tuple[str, Failure | None] | None] = (
            queue.SimpleQueue()
        )
        self._worker: threading.Thread | None = None

    def grpc_handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the handlers of Services, Revisions, Jobs, Executions, Tasks and Operations.

        The last one refuses every other method of google.cloud.run and of Operations by name:
        register it after any other server of google.longrunning.Operations.
        """
        return [
            *self._transport.handlers(),
            *self._jobs.handlers(),
            RefuseTheRest(_OURS, "local Cloud Run"),
        ]

    def subscribe(self, listener: Listener) -> None:
        """Have every measured request told to `listener`, in the loop: it must not block."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Kill what an earlier run left, then serve again what was served, at the same URLs.

        Returns when the URLs answer; requests wait there for their instances to start.
        """
        self._processes.open()
        self._fleet = self._in_loop(self._new_fleet())
        self._worker = threading.Thread(target=self._work, name="cloud-run", daemon=True)
        self._worker.start()
        self._reconciler.reconcile_all()
        self._jobs.start()

    def stop(self) -> None:
        """Finish the requests in flight, end every process; the unfinished goes on at `start`."""
        if self._worker is not None:
            self._deployments.put(None)
            self._worker.join()
            self._worker = None
        if self._fleet is not None:
            self._in_loop(self._end_all(self._fleet), timeout_s=None)
            self._fleet = None
        self._processes.close()
        self._database.close()

    def replace_instance(self, service_id: str, revision: str) -> None:
        """Replace a revision's instance, as the real service may at any time: no API asks for it.

        KeyError where nothing runs of that service and revision.
        """
        assert self._fleet is not None, "the local Cloud Run is not started"
        self._in_loop(self._fleet.replace(service_id, revision))

    async def _new_fleet(self) -> Fleet:
        return Fleet(
            self._ports,
            self._processes,
            lambda revision, failure: self._deployments.put((revision, failure)),
            self._measured,
            self._idle_timeout_s,
            self._pending_timeout_s,
        )

    async def _end_all(self, fleet: Fleet) -> None:
        await asyncio.gather(fleet.close(), self._jobs.stop())

    def _measured(self, measurement: Measurement) -> None:
        for listener in self._listeners:
            listener(measurement)

    def _work(self) -> None:
        """Take in how deployments ended; apart from the loop, which must not wait for a disk."""
        while (outcome := self._deployments.get()) is not None:
            try:
                self._reconciler.deployed(*outcome)
            except Exception:
                # Its service stays reconciling until the next write; the others go on.
                _log.exception("the deployment of %s could not be taken in", outcome[0])

    def _apply(
        self, record: ServiceRecord, revisions: Sequence[RevisionRecord], routes: tuple[Route, ...]
    ) -> Mapping[str, str]:
        assert self._fleet is not None, "the local Cloud Run is not started"
        plans = {state: self._plans(revisions, state) for state in ("deploying", "ready")}
        plan = ServicePlan(
            id=record.id,
            region=region_of(record.service.name),
            public=self._policies.is_public(record.id, record.service),
            routes=routes,
            deploying=plans["deploying"],
            ready=plans["ready"],
        )
        return self._in_loop(self._fleet.apply(plan))

    def _plans(self, revisions: Sequence[RevisionRecord], state: str) -> tuple[RevisionPlan, ...]:
        return tuple(
            revision_plan(
                revision.name,
                revision.service_id,
                revision.template,
                self._images,
                self._environment(region_of(revision.revision.name)),
                self._folder / "logs",
            )
            for revision in revisions
            if revision.state == state
        )

    def _remove(self, service_id: str) -> None:
        assert self._fleet is not None, "the local Cloud Run is not started"
        self._in_loop(self._fleet.remove(service_id))

    def _in_loop(
        self, work: Coroutine[Any, Any, _T], timeout_s: float | None = _APPLY_TIMEOUT_S
    ) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)


def _cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
