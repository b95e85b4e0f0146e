"""A local Cloud Run on real listeners, and tiny servers that stand for container images."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import requests
from google.api_core.future import polling
from google.cloud import run_v2

from localcloud.ports import Ports
from localcloud.run import CloudRun, Image

PROJECT, REGION = "turnout-test", "europe-central2"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
SERVICE = "movies"
NAME = f"{PARENT}/services/{SERVICE}"

LATEST = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST
BY_REVISION = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
State = run_v2.Condition.State
# The clients' own polling of operations, only quicker than its first pause of a second.
POLLING = polling.DEFAULT_POLLING.with_delay(initial=0.05, maximum=0.2)

# Behaviour is chosen by environment variables, as a container's would be.
SERVER = """
import http.server, json, os, signal, socket, subprocess, sys, threading, time

START_S = float(os.environ.get("START_S", "0"))
if os.environ.get("CRASH_AT_START"):
    print("the model cannot be loaded: no such file", flush=True)
    sys.exit(3)
time.sleep(START_S)
if os.environ.get("CHILD"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("child", child.pid, flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # One packet an answer: in two, the second waits for a delayed ACK.

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/health" and os.environ.get("UNHEALTHY"):
            return self.answer(503, {"status": "unhealthy", "reason": "no model"})
        if path == "/crash":
            os._exit(9)
        if path == "/deaf":
            # The process lives on and listens no more: closing alone leaves the port open
            # for as long as the accept loop still waits on it.
            server.socket.shutdown(socket.SHUT_RDWR)
            server.socket.close()
            self.close_connection = True
        if path == "/sleep":
            print("sleeping", flush=True)
            time.sleep(float(query))
        if path == "/status":
            return self.answer(int(query), {})
        if path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path == "/chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for n in range(3):
                self.wfile.write(b"6\\r\\nchunk%d\\r\\n" % n)
                self.wfile.flush()
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        self.answer(200, {
            "revision": os.environ["K_REVISION"], "pid": os.getpid(), "path": self.path,
            "headers": {k.lower(): v for k, v in self.headers.items()},
            "env": dict(os.environ), "cwd": os.getcwd(), "argv": sys.argv[1:],
        })

    do_HEAD = do_GET

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while (size := int(self.rfile.readline(), 16)):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(200, {"revision": os.environ["K_REVISION"], "bytes": len(body)})

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
"""

# One attempt of a job's task: it leaves a file that says who it was, then does as it is told.
TASK = """
import json, os, pathlib, signal, sys, time

who = {name: os.environ.get("CLOUD_RUN_" + name) for name in
       ("JOB", "EXECUTION", "TASK_INDEX", "TASK_ATTEMPT", "TASK_COUNT")}
attempt, index = int(who["TASK_ATTEMPT"]), who["TASK_INDEX"]
seen = pathlib.Path("seen")
seen.mkdir(exist_ok=True)
began = time.monotonic()

def tell():
    name = "-".join((who["EXECUTION"], index, str(attempt)))
    (seen / (name + ".new")).write_text(json.dumps({
        **who, "pid": os.getpid(), "env": dict(os.environ), "argv": sys.argv[1:],
        "began": began, "ended": time.monotonic(),
    }))
    (seen / (name + ".new")).rename(seen / (name + ".json"))

def terminated(*_):
    print("terminated", flush=True)
    if not os.environ.get("DEAF"):
        sys.exit(0)

signal.signal(signal.SIGTERM, terminated)
print("attempt", attempt, flush=True)
tell()
block = bytearray(int(os.environ.get("EAT_BYTES", "0")))
while not pathlib.Path(os.environ.get("WAIT_FOR", ".")).exists():
    time.sleep(0.02)
time.sleep(float(os.environ.get("WORK_S", "0")))
tell()
if attempt < int(os.environ.get("FAIL_ATTEMPTS", "0")) and index in os.environ.get("FAIL", index):
    sys.exit(3)
"""


class World:
    """The running local Cloud Run and Google's own clients, connected to it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        server_py = folder / "server.py"
        server_py.parent.mkdir(parents=True, exist_ok=True)
        server_py.write_text(SERVER)
        task_py = folder / "task.py"
        task_py.write_text(TASK)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.cloud_run = CloudRun(
            folder / "run",
            Ports(folder),
            {
                "images/server": Image([sys.executable, str(server_py)], folder, {"OF": "image"}),
                "images/task": Image([sys.executable, str(task_py)], folder, {"OF": "image"}),
            },
            lambda region: {"GOOGLE_CLOUD_PROJECT": PROJECT, "TOLD_REGION": region},
            PROJECT,
            self.loop,
            **options,
        )
        self.cloud_run.start()
        self.grpc = grpc.server(ThreadPoolExecutor(max_workers=32))
        self.grpc.add_generic_rpc_handlers(tuple(self.cloud_run.grpc_handlers()))
        port = self.grpc.add_insecure_port("127.0.0.1:0")
        self.grpc.start()
        self.target = f"127.0.0.1:{port}"
        self.channel = grpc.insecure_channel(self.target)
        self.services = client(run_v2.ServicesClient, self.channel)
        self.revisions = client(run_v2.RevisionsClient, self.channel)
        self.jobs = client(run_v2.JobsClient, self.channel)
        self.executions = client(run_v2.ExecutionsClient, self.channel)
        self.tasks = client(run_v2.TasksClient, self.channel)

    def close(self) -> None:
        self.channel.close()
        self.grpc.stop(None).wait()
        self.cloud_run.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    # -- shorthands

    def create(self, revision: str = "v1", **service: Any) -> Any:
        """Create the service with a first revision of 100 % and wait for it."""
        request = run_v2.CreateServiceRequest(
            parent=PARENT, service_id=SERVICE, service=self.service(revision, **service)
        )
        return done(self.services.create_service(request))

    def service(self, revision: str = "v1", **fields: Any) -> Any:
        fields.setdefault("template", template(revision))
        fields.setdefault("invoker_iam_disabled", True)
        fields.setdefault("traffic", [to(revision, 100)])
        return run_v2.Service(**fields)

    def start_update(self, mask: str, etag: str = "", **fields: Any) -> Any:
        return self.services.update_service(
            run_v2.UpdateServiceRequest(
                service=run_v2.Service(name=NAME, etag=etag, **fields),
                update_mask={"paths": mask.split(",")},
            )
        )

    def update(self, mask: str, **fields: Any) -> Any:
        return done(self.start_update(mask, **fields))

    def deploy(self, revision: str, **options: Any) -> Any:
        return self.update("template", template=template(revision, **options))

    def split(self, *targets: Any) -> Any:
        return self.update("traffic", traffic=list(targets))

    def get(self) -> Any:
        return self.services.get_service(name=NAME)

    def revision(self, revision: str) -> Any:
        return self.revisions.get_revision(name=f"{NAME}/revisions/{SERVICE}-{revision}")

    def log(self, revision: str) -> str:
        return (self.folder / "run" / "logs" / f"{SERVICE}-{revision}.log").read_text()


@contextlib.contextmanager
def world(folder: Path, **options: Any) -> Iterator[World]:
    made = World(folder, **options)
    try:
        yield made
    finally:
        made.close()


def client(kind: Any, channel: grpc.Channel) -> Any:
    """Return one of Google's clients over a plaintext channel."""
    return kind(transport=kind.get_transport_class("grpc")(channel=channel))


def done(operation: Any) -> Any:
    """Return the outcome of a client's operation; raises its error."""
    return operation.result(timeout=20, polling=POLLING)


def template(revision: str = "", image: str = "images/server", **options: Any) -> Any:
    """Return a template; `env` holds the container's variables, other options are its fields."""
    env = [run_v2.EnvVar(name=k, value=v) for k, v in options.pop("env", {}).items()]
    container = {"image": image, "env": env, **options.pop("container", {})}
    name = f"{SERVICE}-{revision}" if revision else ""
    return run_v2.RevisionTemplate(revision=name, containers=[container], **options)


def to(revision: str, percent: int, tag: str = "") -> Any:
    return run_v2.TrafficTarget(
        type_=BY_REVISION, revision=f"{SERVICE}-{revision}", percent=percent, tag=tag
    )


def served(service: Any) -> list[tuple[str, int, str]]:
    return [(s.revision, s.percent, s.tag) for s in service.traffic_statuses]


def tag_url(service: Any, tag: str) -> str:
    return next(s.uri for s in service.traffic_statuses if s.tag == tag)


def ready_of(resource: Any) -> Any:
    """Return a resource's Ready condition."""
    return next(c for c in resource.conditions if c.type_ == "Ready")


def answer(url: str) -> dict[str, Any]:
    response = requests.get(url, timeout=20)
    response.raise_for_status()
    return dict(response.json())


def until(condition: Callable[[], Any], what: str, timeout_s: float = 15) -> Any:
    """Poll until the condition holds and return its value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def is_running(pid: int) -> bool:
    """Tell whether a process lives; a zombie that nobody has reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # before the open, or between it and the read
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
