"""The front door: every service URL and every tag URL is an HTTP origin on its own port.

A request's target is chosen once, on arrival, by the percentages served at that moment; it
stays with that revision to its end, whatever happens to the split meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from aiohttp import hdrs, web

from localcloud.ports import HOST, Ports
from localcloud.run.exchange import Exchange, problem
from localcloud.run.instance import AllBusy, NoInstance, RevisionRunner
from localcloud.run.measurement import Measurement

_log = logging.getLogger(__name__)

FRESH_INSTANCES = 5


@dataclass(frozen=True)
class Table:
    """Where an origin's requests go: runners with their shares, which sum to 100."""

    service: str
    region: str
    public: bool
    targets: tuple[tuple[int, RevisionRunner], ...]

    def choose(self) -> RevisionRunner | None:
        """Return the target of the next request, or None while nothing is ready."""
        if len(self.targets) == 1:
            return self.targets[0][1]
        drawn = random.randrange(100)
        for percent, runner in self.targets:
            drawn -= percent
            if drawn < 0:
                return runner
        return None


class FrontDoor:
    """Opens and closes origins and forwards their requests; lives in the event loop."""

    def __init__(
        self,
        ports: Ports,
        session: aiohttp.ClientSession,
        measured: Callable[[Measurement], None],
        pending_timeout_s: float,
    ) -> None:
        self._ports = ports
        self._session = session
        self._measured = measured
        self._pending_timeout_s = pending_timeout_s
        self._origins: dict[tuple[str, str], _Origin] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def serve(self, service: str, tables: Mapping[str, Table]) -> dict[str, str]:
        """Make the origins of a service those of `tables` and return their URLs.

        Keys are tags, "" for the service's own URL. A changed table takes effect for every
        request that arrives after this returns.
        """
        for tag, table in tables.items():
            origin = self._origins.get((service, tag))
            if origin is not None:
                origin.table = table
        urls = {}
        for tag, table in tables.items():
            origin = self._origins.get((service, tag))
            if origin is None:
                name = f"run-{service}/{tag}" if tag else f"run-{service}"
                origin = _Origin(table, self)
                await origin.open(self._ports, name)
                self._origins[service, tag] = origin
            urls[tag] = origin.url
        for key in [k for k in self._origins if k[0] == service and k[1] not in tables]:
            self._close_later(self._origins.pop(key))
        return urls

    def _close_later(self, origin: _Origin) -> None:
        task = asyncio.ensure_future(origin.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Stop listening everywhere and finish the requests in flight."""
        while self._origins:
            self._close_later(self._origins.popitem()[1])
        if self._closing:
            await asyncio.gather(*self._closing)

    async def handle(self, table: Table, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request from an instance of one of the table's revisions."""
        if not table.public:
            return problem(
                HTTPStatus.FORBIDDEN,
                "caller_not_allowed",
                "The service is not public: set invoker_iam_disabled, or grant roles/run.invoker "
                "to allUsers.",
            )
        # An offer of HTTP/2 may be left alone: the answer is then HTTP/1.1 (RFC 9110, 7.8).
        if request.headers.get(hdrs.UPGRADE, "h2c").lower() != "h2c":
            return problem(
                HTTPStatus.NOT_IMPLEMENTED,
                "upgrade_not_supported",
                f"Upgrade to {request.headers[hdrs.UPGRADE]!r} is not supported by the local "
                "front door.",
            )
        runner = table.choose()
        if runner is None:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "no_ready_revision",
                f"Service {table.service} has no ready revision.",
            )
        try:
            return await self._with_instance(table, runner, request)
        except NoInstance as error:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "no_instance", f"{error}.")
        except AllBusy as error:
            return problem(HTTPStatus.TOO_MANY_REQUESTS, "no_available_instance", f"{error}.")

    async def _with_instance(
        self, table: Table, runner: RevisionRunner, request: web.BaseRequest
    ) -> web.StreamResponse:
        deadline = time.monotonic() + self._pending_timeout_s
        for _ in range(FRESH_INSTANCES):
            process = await runner.acquire(max(0.0, deadline - time.monotonic()))
            exchange = Exchange(request, process, self._session)
            began = time.monotonic()
            try:
                await exchange.run(runner.plan.request_timeout_s)
            except aiohttp.ClientConnectorError:
                # Refused before a byte was sent, so whatever the method it is safe again.
                runner.discard(process)
                continue
            finally:
                runner.release(process)
                if exchange.status:
                    took_ms = (time.monotonic() - began) * 1000
                    self._measured(
                        Measurement(
                            table.region,
                            table.service,
                            runner.plan.name,
                            exchange.status,
                            took_ms,
                            time.time(),
                        )
                    )
            assert exchange.response is not None
            return exchange.response
        raise NoInstance(f"revision {runner.plan.name}: every instance refuses connections")


class _Origin:
    """One listener with its routing table, which is replaced as a whole."""

    def __init__(self, table: Table, door: FrontDoor) -> None:
        self.table = table
        self.url = ""
        self._door = door
        # Requests in flight when an origin closes are waited for as long as one may take.
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None), shutdown_timeout=60.0
        )
        self._site: web.SockSite | None = None

    async def open(self, ports: Ports, name: str) -> None:
        await self._runner.setup()
        bound = ports.bind(name)
        self.url = f"http://{HOST}:{bound.getsockname()[1]}"
        self._site = web.SockSite(self._runner, bound, backlog=1024)
        await self._site.start()

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._door.handle(self.table, request)
