"""A local cloud that fails where it is told to: `python -m tests.faults.faulty_cloud DATA MODELS`.

The functions, and nobody else, reach it through two doors, one for gRPC and one for HTTP. Behind
them is the same cloud; at them every call is counted by function and method, and what a rule says
happens: before the call, or when it is done and the caller does not know. Rules come by
`PUT /rules`; every call and every stroke is a line of `DATA/calls.log`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psutil
from aiohttp import hdrs, web

from localcloud import project
from localcloud.ports import HOST
from localcloud.server import LocalCloud
from tests.faults import cases
from tests.faults.cases import Call, Rule

LOG, DOORS_FILE = "calls.log", "doors.json"
SLOW_S = 0.4
# A deadline that is at most this far away is really waited for; a later one is said to have
# passed at once, which the client cannot tell from having waited.
WAITED_FOR_S, DEADLINE_AT_MOST_S = 5.0, 900.0
# Runs whenever an event is published, beside whatever else is at work.
BESIDE = ("on_deployment_event",)
_SERVICES = {
    "google.firestore.v1.Firestore": "Firestore",
    "google.pubsub.v1.Publisher": "PubSub",
    "google.cloud.run.v2.Services": "Run",
    "google.cloud.run.v2.Revisions": "Run",
    "google.cloud.run.v2.Jobs": "RunJobs",
    "google.cloud.run.v2.Executions": "RunExecutions",
    "google.cloud.workflows.executions.v1.Executions": "Workflows",
    "google.monitoring.v3.MetricService": "Monitoring",
}
_HTTP = (
    ("Storage.rewrite", r"POST .*/rewriteTo/"),
    ("Storage.insert", r"(POST|PUT) .*/upload/storage/v1/"),
    ("Storage.list", r"GET .*/storage/v1/b/[^/]+/o\?"),
    ("Storage.read", r"GET .*/download/storage/v1/"),
    ("Storage.delete", r"DELETE .*/storage/v1/"),
    ("Storage.get", r"GET .*/storage/v1/"),
    ("Model.health", r"GET .*/health$"),
    ("Model.recommend", r"POST .*/recommend-batch$"),
)
_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "host"}
_STATUS = {
    cases.UNAVAILABLE: (grpc.StatusCode.UNAVAILABLE, 503),
    cases.OUTAGE: (grpc.StatusCode.UNAVAILABLE, 503),
    cases.CONFLICT: (grpc.StatusCode.ABORTED, 409),
    cases.REFUSED: (grpc.StatusCode.INVALID_ARGUMENT, 400),
    cases.KILL_FUNCTION: (grpc.StatusCode.UNAVAILABLE, 503),  # nobody is there to hear it
}


class Faults:
    """Counts calls, and says what happens to each."""

    def __init__(self, log: Path, kill_functions: Callable[[], None]) -> None:
        self._log, self._kill_functions = log, kill_functions
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._running: list[str] = []

    def arm(self, rules: Sequence[Rule]) -> None:
        """Follow these rules from now on, and count from the beginning."""
        with self._lock:
            self._rules = list(rules)
            self._counts.clear()

    def said(self, function: str, moment: str) -> None:
        """A function begins or ends."""
        with self._lock:
            if moment == cases.BEGINS:
                self._running.append(function)
            call = self._counted(function, moment)
        self.strike(call, "before")
        with self._lock:
            if moment == cases.ENDS and function in self._running:
                self._running.remove(function)

    def count(self, method: str, function: str) -> Call:
        """Return the call that a function makes now.

        Calls from its own threads do not name it: they are of the step that began last. The
        stories have one step at work at a time.
        """
        with self._lock:
            steps = [name for name in self._running if name not in BESIDE]
            return self._counted(function or next(reversed(steps), ""), method)

    def strike(self, call: Call, moment: str) -> str:
        """Kill what is to be killed; return the fault that the caller shall meet, or ""."""
        with self._lock:
            rule = next((rule for rule in self._rules if _meets(rule, call, moment)), None)
            if rule is None:
                return ""
            self._note(call, fault=rule.fault, moment=moment)
        if rule.fault == cases.KILL_CLOUD:
            os.kill(os.getpid(), signal.SIGKILL)
        if rule.fault == cases.KILL_FUNCTION:
            self._kill_functions()
            with self._lock:
                self._running.clear()
        return rule.fault

    def unbounded(self, call: Call) -> None:
        """Note that nothing would ever end the waiting for this call's answer."""
        with self._lock:
            self._note(call, fault="no deadline", moment="before")

    def _counted(self, function: str, method: str) -> Call:
        self._counts[function, method] += 1
        call = Call(function, method, self._counts[function, method])
        self._note(call)
        return call

    def _note(self, call: Call, **about: str) -> None:
        line = {"function": call.function, "method": call.method, "number": call.number, **about}
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def _meets(rule: Rule, call: Call, moment: str) -> bool:
    if rule.function != call.function or rule.moment != moment:
        return False
    if not rule.method:
        return call.method not in (cases.BEGINS, cases.ENDS)
    return rule.method == call.method and rule.number <= call.number < rule.number + rule.times


class GrpcDoor(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A service's handlers, each behind the faults."""

    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method."""
        handler = self._inner.service(details)
        service, _, method = str(details.method).lstrip("/").partition("/")
        name = f"{_SERVICES.get(service, service)}.{method}"
        if handler is None or handler.request_streaming:
            return handler
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:

            def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
                yield from self._met(
                    name, context, lambda: list(handler.unary_stream(request, context))
                )

            return grpc.unary_stream_rpc_method_handler(stream, *codecs)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            return self._met(name, context, lambda: handler.unary_unary(request, context))

        return grpc.unary_unary_rpc_method_handler(unary, *codecs)

    def _met(self, name: str, context: grpc.ServicerContext, work: Callable[[], Any]) -> Any:
        call = self._faults.count(name, dict(context.invocation_metadata()).get(cases.MARK, ""))
        self._fail(self._faults.strike(call, "before"), call, context)
        answer = work()
        self._fail(self._faults.strike(call, "after"), call, context)
        return answer

    def _fail(self, fault: str, call: Call, context: grpc.ServicerContext) -> None:
        if fault == cases.SLOW:
            time.sleep(SLOW_S)
        elif fault == cases.SILENT:
            left_s = context.time_remaining()
            if left_s is None or left_s > DEADLINE_AT_MOST_S:
                self._faults.unbounded(call)
            elif left_s <= WAITED_FOR_S:
                time.sleep(left_s)
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the test's: no answer in time")
        elif fault:
            context.abort(_STATUS[fault][0], f"the test's: {fault}")


class HttpDoor:
    """A forward proxy (`http_proxy`), behind the faults."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._session: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        """Return the HTTP application."""
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._forward)
        app.cleanup_ctx.append(self._connected)
        return app

    async def _connected(self, _: web.Application) -> Any:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        yield
        await self._session.close()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        method = _method(request)
        if not method:
            return await self._pass(request)
        call = self._faults.count(method, request.headers.get(cases.MARK, ""))
        refusal = await _refusal(request, self._faults.strike(call, "before"))
        if refusal:
            return refusal
        answer = await self._pass(request)
        return await _refusal(request, self._faults.strike(call, "after")) or answer

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        async with self._session.request(
            request.method,
            request.url,
            headers=headers,
            data=await request.read(),
            allow_redirects=False,
            skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.CONTENT_TYPE),
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


async def _refusal(request: web.Request, fault: str) -> web.Response | None:
    if fault == cases.SLOW:
        await asyncio.sleep(SLOW_S)
    elif fault == cases.SILENT:
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(0.2)
    elif fault:
        status = _STATUS[fault][1]
        error = {"code": status, "message": f"the test's: {fault}"}
        return web.json_response({"error": error, "detail": error["message"]}, status=status)
    return None


def _method(request: web.Request) -> str:
    line = f"{request.method} {request.url}"
    return next((name for name, pattern in _HTTP if re.search(pattern, line)), "")


class FaultyCloud(LocalCloud):
    """The same cloud with the doors, and without schedules: stories say when reconcile runs."""

    FUNCTIONS = Path(__file__).parent / "bundle"

    def _serve_grpc(self, address: str) -> grpc.Server:
        server = super()._serve_grpc(address)
        self._faults = Faults(self.folder / LOG, _kill_functions)
        self._door = grpc.server(
            ThreadPoolExecutor(64, thread_name_prefix="door"), options=[("grpc.so_reuseport", 0)]
        )
        for service in (
            self._pubsub,
            self._firestore,
            self._run,
            self._monitoring,
            self._workflows,
        ):
            handlers = [GrpcDoor(inner, self._faults) for inner in service.grpc_handlers()]
            self._door.add_generic_rpc_handlers(tuple(handlers))
        with self._ports.bind("grpc door") as bound:
            door = f"{HOST}:{bound.getsockname()[1]}"
        self._door.add_insecure_port(door)
        self._door.start()
        http, control = self._ports.bind("http door"), self._ports.bind("control")
        doors = {
            "control": f"http://{HOST}:{control.getsockname()[1]}",
            "environment": {
                "PUBSUB_EMULATOR_HOST": door,
                "FIRESTORE_EMULATOR_HOST": door,
                "TURNOUT_GRPC_EMULATOR_HOST": door,
                "http_proxy": f"http://{HOST}:{http.getsockname()[1]}",
                "no_grpc_proxy": HOST,
            },
        }
        self._serve(HttpDoor(self._faults).app(), http)
        self._serve(self._control(), control)
        # Inherited by the functions' process, which starts later: see bundle/main.py.
        os.environ["TURNOUT_FAULTS"] = json.dumps(doors)
        (self.folder / DOORS_FILE).write_text(json.dumps(doors))
        return server

    def stop(self) -> None:
        """Close the doors, then stop as every local cloud."""
        self._door.stop(grace=None)
        super().stop()

    def _control(self) -> web.Application:
        async def arm(request: web.Request) -> web.Response:
            self._faults.arm([Rule.read(fields) for fields in await request.json()])
            return web.Response()

        async def said(request: web.Request) -> web.Response:
            self._faults.said(request.match_info["function"], await request.text())
            return web.Response()

        app = web.Application()
        app.router.add_put("/rules", arm)
        app.router.add_post("/functions/{function}", said)
        return app


def _kill_functions() -> None:
    """SIGKILL the process that runs the functions; its server forks another one."""
    for host in psutil.Process().children():
        if "localcloud.functions.child" in host.cmdline():
            for worker in host.children():
                worker.kill()
                worker.wait(timeout=30)


def main(folder: Path, models: Path) -> None:
    """Run until SIGTERM or SIGINT."""
    project.SCHEDULES.clear()
    cloud = FaultyCloud(folder, models)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    cloud.start()
    ended.wait()
    cloud.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
