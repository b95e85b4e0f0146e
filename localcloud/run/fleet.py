"""The fleet: runners of every revision and the front door, kept as the plans say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from localcloud.ports import Ports
from localcloud.run.exchange import new_session
from localcloud.run.front_door import FrontDoor, Table
from localcloud.run.instance import RevisionRunner
from localcloud.run.measurement import Measurement
from localcloud.run.plan import Failure, RevisionPlan, ServicePlan
from localcloud.run.process import Processes
from localcloud.run.traffic import shares

STOP_GRACE_S = 10.0

Deployed = Callable[[str, Failure | None], None]


class Fleet:
    """Everything that runs; all methods belong to the event loop.

    `deployed(revision, failure)` is called once for each deploying revision.
    """

    def __init__(
        self,
        ports: Ports,
        processes: Processes,
        deployed: Deployed,
        measured: Callable[[Measurement], None],
        idle_timeout_s: float,
        pending_timeout_s: float,
    ) -> None:
        self._processes = processes
        self._deployed = deployed
        self._idle_timeout_s = idle_timeout_s
        self._session = new_session()
        self._door = FrontDoor(ports, self._session, measured, pending_timeout_s)
        self._runners: dict[str, dict[str, RevisionRunner]] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    async def apply(self, plan: ServicePlan) -> dict[str, str]:
        """Make the service as planned; return its URLs by tag ("" for the service's own)."""
        runners = self._runners.setdefault(plan.id, {})
        for revision in plan.deploying:
            if revision.name not in runners:
                runners[revision.name] = self._runner(revision, deploying=True)
        for revision in plan.ready:
            if revision.name not in runners:
                runners[revision.name] = self._runner(revision, deploying=False)

        percents = shares(plan.routes)
        tagged = {route.revision for route in plan.routes if route.tag}
        # First wake who is to serve, then switch, then let go who no longer does.
        for name, runner in runners.items():
            if name in percents:
                runner.route(percents[name], name in tagged)
        tables = {"": _table(plan, runners, percents)}
        for route in plan.routes:
            if route.tag:
                tables[route.tag] = _table(plan, runners, {route.revision: 100})
        urls = await self._door.serve(plan.id, tables)
        for name, runner in runners.items():
            if name not in percents:
                runner.route(0, False)

        kept = {revision.name for revision in (*plan.deploying, *plan.ready)}
        for name in [name for name in runners if name not in kept]:
            self._retire(runners.pop(name))
        return urls

    async def remove(self, service_id: str) -> None:
        """Close the service's origins and end its instances after their requests in flight."""
        await self._door.serve(service_id, {})
        for runner in self._runners.pop(service_id, {}).values():
            self._retire(runner)

    async def replace(self, service_id: str, revision: str) -> None:
        """End a revision's instance after its requests in flight; another one takes its place."""
        self._runners[service_id][revision].replace()

    async def close(self) -> None:
        """End every instance, after its requests in flight if they end within the grace."""
        runners = [runner for by_name in self._runners.values() for runner in by_name.values()]
        self._runners.clear()
        for runner in runners:
            self._retire(runner)
        ending = asyncio.gather(self._door.close(), *self._retiring)
        await asyncio.wait({ending}, timeout=STOP_GRACE_S)
        for runner in runners:
            runner.kill()
        await ending
        await self._session.close()

    def _runner(self, plan: RevisionPlan, deploying: bool) -> RevisionRunner:
        def deployed(failure: Failure | None) -> None:
            self._deployed(plan.name, failure)

        return RevisionRunner(
            plan,
            self._processes,
            self._session,
            self._idle_timeout_s,
            deployed if deploying else None,
        )

    def _retire(self, runner: RevisionRunner) -> None:
        task = asyncio.ensure_future(runner.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _table(
    plan: ServicePlan, runners: dict[str, RevisionRunner], percents: dict[str, int]
) -> Table:
    targets = tuple((percent, runners[name]) for name, percent in percents.items() if percent)
    return Table(plan.id, plan.region, plan.public, targets)
