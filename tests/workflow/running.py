"""Workflows running for tests: the real service behind a real gRPC port, Google's own client."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.cloud import workflows_v1
from google.cloud.workflows import executions_v1

from localcloud.identity import Identity
from localcloud.workflows import Clock, FakeClock, Workflows

PROJECT, REGION = "turnout-local", "europe-central2"
LOCATION = f"projects/{PROJECT}/locations/{REGION}"
EMAIL = "workflow@turnout-local.iam.gserviceaccount.com"
DEADLINE_S = 20.0
T = TypeVar("T")
State = executions_v1.Execution.State


class Cloud:
    """A Workflows service of one folder and clients of it."""

    def __init__(
        self,
        folder: Path,
        sources: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.clock = clock or FakeClock()
        self.identity = Identity(folder)
        paths = {name: self.write(name, source) for name, source in (sources or {}).items()}
        self.workflows = Workflows(
            folder, paths, self.identity, PROJECT, REGION, environment or {}, EMAIL, self.clock
        )
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8))
        self._server.add_generic_rpc_handlers(tuple(self.workflows.grpc_handlers()))
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Cloud:
        self.workflows.start()
        self._server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        transport = executions_v1.ExecutionsClient.get_transport_class("grpc")
        self.client = executions_v1.ExecutionsClient(transport=transport(channel=self.channel))
        catalogue = workflows_v1.WorkflowsClient.get_transport_class("grpc")
        self.catalogue = workflows_v1.WorkflowsClient(transport=catalogue(channel=self.channel))
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self._server.stop(0).wait()
        self.workflows.stop()

    @staticmethod
    def connect(port: int) -> executions_v1.ExecutionsClient:
        """Return a client of the service on a port of another process."""
        transport = executions_v1.ExecutionsClient.get_transport_class("grpc")
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        return executions_v1.ExecutionsClient(transport=transport(channel=channel))

    def write(self, name: str, source: str) -> Path:
        """Write a workflow's source to a file and return its path."""
        path = self.folder / "sources" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    def deploy(self, source: str, name: str = "test") -> str:
        """Deploy a source and return the workflow's resource name."""
        self.workflows.deploy(name, self.write(name, source))
        return f"{LOCATION}/workflows/{name}"

    def begin(self, source: str, argument: Any = None, **fields: Any) -> executions_v1.Execution:
        """Deploy a source and start an execution of it."""
        given = {} if argument is None else {"argument": json.dumps(argument)}
        return self.client.create_execution(
            parent=self.deploy(source), execution=executions_v1.Execution(**given, **fields)
        )

    def finished(self, execution: executions_v1.Execution) -> executions_v1.Execution:
        """Return an execution once it has ended."""
        return until(
            lambda: self.client.get_execution(name=execution.name),
            lambda found: found.state != State.ACTIVE,
        )

    def run(self, source: str, argument: Any = None, **fields: Any) -> executions_v1.Execution:
        """Deploy and run a source to its end."""
        return self.finished(self.begin(source, argument, **fields))

    def result(self, source: str, argument: Any = None) -> Any:
        """Return what a source returns; an AssertionError shows the error of one that fails."""
        ended = self.run(source, argument)
        assert ended.state == State.SUCCEEDED, ended.error.context
        return json.loads(ended.result)

    def error(self, source: str, argument: Any = None) -> Any:
        """Return the payload of the error with which a source fails."""
        ended = self.run(source, argument)
        assert ended.state == State.FAILED, ended.result
        return json.loads(ended.error.payload)

    def compute(self, expression: str, **variables: Any) -> Any:
        """Return the value of an expression over variables."""
        return self.result(returning(expression, variables), variables)

    def failure(self, expression: str, **variables: Any) -> tuple[str, str]:
        """Return (tag, message) of the error that an expression raises."""
        error = self.error(returning(expression, variables), variables)
        return error["tags"][0], error["message"]

    def steps(self, execution: executions_v1.Execution) -> list[str]:
        """Return the names of the steps that an execution entered."""
        entries = self.workflows.step_entries(execution.name.rsplit("/", 1)[1])
        return [entry.step for entry in entries]

    def log(self) -> list[dict[str, Any]]:
        """Return the entries of the executions' log."""
        return [json.loads(line) for line in (self.folder / "executions.log").open()]


def returning(expression: str, variables: Mapping[str, Any]) -> str:
    """Return the source of a workflow that returns an expression over its argument's fields."""
    bind = {"bind": {"assign": [{name: f"${{args.{name}}}"} for name in variables]}}
    answer = {"answer": {"return": f"${{{expression}}}"}}
    steps = [bind, answer] if variables else [answer]
    return json.dumps({"main": {"params": ["args"], "steps": steps}})


def until(read: Callable[[], T], holds: Callable[[T], bool]) -> T:
    """Read until a condition holds; AssertionError after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = read()
        if holds(found):
            return found
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.002)


@dataclass
class Listener:
    """An HTTP listener that answers as it is told and remembers what it was asked."""

    url: str
    answer: Callable[[str, Mapping[str, str], bytes], Answer]
    requests: list[Asked] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """One request received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """One response: `body` is sent as JSON unless it is bytes; None drops the connection."""

    code: int | None = 200
    body: Any = None
    content_type: str = "application/json"


@contextlib.contextmanager
def listening(
    answer: Callable[[str, Mapping[str, str], bytes], Answer] | list[Answer],
) -> Iterator[Listener]:
    """Run a listener; a list is answered in turn, its last item for ever."""
    turns = iter(answer) if isinstance(answer, list) else None
    lock = threading.Lock()
    last = [Answer()]

    def choose(path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if not isinstance(answer, list):
            return answer(path, headers, body)
        with lock:
            assert turns is not None
            last[0] = next(turns, last[0])
            return last[0]

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            listener.requests.append(Asked(self.command, self.path, headers, body))
            chosen = listener.answer(self.path, headers, body)
            if chosen.code is None:
                self.close_connection = True
                return
            is_bytes = isinstance(chosen.body, bytes)
            content = chosen.body if is_bytes else json.dumps(chosen.body).encode()
            self.send_response(chosen.code)
            self.send_header("content-type", chosen.content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    listener = Listener(f"http://127.0.0.1:{server.server_address[1]}", choose)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
