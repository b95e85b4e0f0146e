"""All services in one process: started in order, stopped in order, one folder of data."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
from aiohttp import web

from localcloud import project
from localcloud.calls import NO_FUNCTION, PERSON, Calls
from localcloud.firestore import Firestore
from localcloud.functions import FunctionsHost
from localcloud.google_emulators import FIRESTORE
from localcloud.identity import Identity
from localcloud.metadata import Metadata, metadata_environment
from localcloud.monitoring import Monitoring
from localcloud.ports import HOST, Ports
from localcloud.pubsub import PubSub
from localcloud.recording import Recorder, recording
from localcloud.run import CloudRun, Image
from localcloud.scheduler import Scheduler
from localcloud.storage import Storage
from localcloud.traces import Traces
from localcloud.workflows import Workflows
from shared.config import WORKFLOW, Settings

PROJECT, REGION = "turnout-local", "europe-central2"
ROOT = Path(__file__).parents[1]
SERVING_IMAGE = "turnout-serving"
GRPC_THREADS = 128
GRPC_MESSAGE_BYTES = 64 * 2**20
TARGETS = {
    "abort_deployment": "http",
    "cancel": "http",
    "check_health": "http",
    "claim_deployment": "http",
    "collect_metrics": "http",
    "copy_artifacts": "http",
    "create_revision": "http",
    "dashboard": "http",
    "finish_deployment": "http",
    "judge_canary": "http",
    "on_deployment_event": "cloudevent",
    "on_training_completed": "cloudevent",
    "prepare_model": "http",
    "reconcile": "http",
    "roll_back": "http",
    "shift_traffic": "http",
}


# The two kinds of containers of a model: its revisions, and the tasks of its job.
SERVING, PREPARE = "serving", "prepare"


class AlreadyRunning(RuntimeError):
    """Another local cloud uses the same folder."""


@dataclass(frozen=True)
class Listener:
    """Where one kind of caller is told that the services are, so that its calls are known."""

    caller: str
    grpc: socket.socket
    storage: socket.socket

    @property
    def grpc_address(self) -> str:
        """Where gRPC is, HOST:PORT."""
        return f"{HOST}:{self.grpc.getsockname()[1]}"

    @property
    def storage_port(self) -> int:
        """The port of Cloud Storage."""
        return int(self.storage.getsockname()[1])


class LocalCloud:
    """The services of one project on 127.0.0.1, their data below `folder`."""

    FUNCTIONS = ROOT / "functions"

    def __init__(
        self, folder: Path, models: Path = project.MODELS_FILE, google_firestore: bool = False
    ) -> None:
        """Take the folder; with `google_firestore` Google's emulator keeps the documents.

        That one is for comparing: it keeps them in memory only. AlreadyRunning, ValueError.
        """
        self._google_firestore = google_firestore
        self._closing = ExitStack()
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        self._models = project.read_models(models, PROJECT)
        self._ports = Ports(self.folder)
        self._identity = Identity(self.folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._sites: list[web.AppRunner] = []
        self._calls = Calls(self.folder)
        self._grpc_threads = ThreadPoolExecutor(GRPC_THREADS, thread_name_prefix="grpc")

    def start(self) -> dict[str, str]:
        """Start everything; return the environment in which Google's clients find it.

        The environment is also set in this process and written to `cloud.json`.
        """
        self._thread.start()
        metadata_socket, traces_socket = self._ports.bind("metadata"), self._ports.bind("traces")
        firestore = (
            self._closing.enter_context(FIRESTORE.running()) if self._google_firestore else ""
        )

        def environment_of(listener: Listener) -> Callable[[str], dict[str, str]]:
            everywhere = {
                "GOOGLE_CLOUD_PROJECT": PROJECT,
                "TURNOUT_PROJECT": PROJECT,
                "PUBSUB_EMULATOR_HOST": listener.grpc_address,
                "FIRESTORE_EMULATOR_HOST": firestore or listener.grpc_address,
                "TURNOUT_GRPC_EMULATOR_HOST": listener.grpc_address,
                "STORAGE_EMULATOR_HOST": f"http://{HOST}:{listener.storage_port}",
                "TURNOUT_TRAINING_BUCKETS": f"{PROJECT}-training",
                "TURNOUT_SERVING_BUCKET": f"{PROJECT}-serving",
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{traces_socket.getsockname()[1]}",
            }
            metadata = f"{HOST}:{metadata_socket.getsockname()[1]}"
            return lambda region: {
                **everywhere,
                "TURNOUT_REGION": region,
                **metadata_environment(metadata, region),
            }

        listeners = {
            caller: Listener(
                caller, self._ports.bind(f"grpc{suffix}"), self._ports.bind(f"storage{suffix}")
            )
            for caller, suffix in (
                (PERSON, ""),
                (NO_FUNCTION, " functions"),
                (SERVING, " serving"),
                (PREPARE, " prepare"),
            )
        }
        environment = environment_of(listeners[PERSON])(REGION)
        self._functions = FunctionsHost(
            self.folder / "functions",
            self.FUNCTIONS,
            TARGETS,
            self._identity,
            self._ports,
            {
                **environment_of(listeners[NO_FUNCTION])(REGION),
                "PYTHONPATH": str(ROOT),
                "TURNOUT_IDENTITY": "local",
                "TURNOUT_SECRET": self._identity.secret("dashboard"),
                "TURNOUT_TOOLS": "turnout",
            },
            # A browser has no ID token; the dashboard itself refuses whoever is not here.
            public=["dashboard"],
        )
        environment["TURNOUT_FUNCTIONS_URL"] = self._functions.base_url
        os.environ.update(environment)
        settings = Settings.from_environment()

        self._storage = Storage(self.folder / "storage")
        self._pubsub = PubSub(self.folder / "pubsub", self._identity)
        self._firestore = Firestore(
            self.folder / "firestore", ROOT / "terraform" / "firestore.indexes.json"
        )
        self._run = CloudRun(
            self.folder / "run",
            self._ports,
            _images(self.folder),
            environment_of(listeners[SERVING]),
            PROJECT,
            self._loop,
            task_environment=environment_of(listeners[PREPARE]),
        )
        self._monitoring = Monitoring(self.folder / "monitoring", self._run)
        self._workflows = Workflows(
            self.folder / "workflows",
            {WORKFLOW: ROOT / "workflows" / "deploy_model.yaml"},
            self._identity,
            PROJECT,
            REGION,
            {"FUNCTIONS_URL": settings.functions_url},
            project.service_account(PROJECT, "workflow"),
        )
        self._traces = Traces(self.folder / "traces")
        self._serve(self._traces.app(), traces_socket)
        self._storage.start()
        storage = self._storage.app()
        callers = {listener.storage_port: caller for caller, listener in listeners.items()}
        storage.middlewares.append(recording(self._calls, callers))
        self._serve(storage, *(listener.storage for listener in listeners.values()))
        email = project.service_account(PROJECT, "developer")
        metadata = Metadata(self._identity, PROJECT, email)
        self._serve(metadata.app(), metadata_socket)
        self._firestore.start()
        self._monitoring.start()
        self._run.start()
        self._workflows.start()
        addresses = {caller: listener.grpc_address for caller, listener in listeners.items()}
        for listener in listeners.values():
            listener.grpc.close()
        self._grpc = self._serve_grpc(addresses.pop(PERSON))
        self._grpc_of_parts = [
            self._listen(address, caller) for caller, address in addresses.items()
        ]

        self._functions.start()
        project.declare(settings, self._models)
        # Pushes and schedules call the functions, so they begin last.
        self._pubsub.start()
        self._scheduler = Scheduler(
            self.folder / "scheduler", project.jobs(settings), self._identity
        )
        self._scheduler.start()
        self._write(environment)
        return environment

    def stop(self) -> None:
        """Stop in the opposite order; what was acknowledged stays on disk."""
        (self.folder / "cloud.json").unlink(missing_ok=True)
        self._scheduler.stop()
        self._workflows.stop()
        self._functions.stop()
        self._run.stop()
        # No new calls first, then the ends of streams and waiting pulls, then the databases.
        stopped = [server.stop(grace=2) for server in (self._grpc, *self._grpc_of_parts)]
        self._pubsub.stop()
        for server in stopped:
            server.wait()
        self._monitoring.stop()
        self._firestore.stop()
        for site in self._sites:
            asyncio.run_coroutine_threadsafe(site.cleanup(), self._loop).result(timeout=10)
        self._storage.stop()
        self._traces.stop()
        self._calls.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._closing.close()
        self._lock.close()

    def _serve(self, app: web.Application, *sockets: socket.socket) -> None:
        async def begin() -> web.AppRunner:
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            for bound in sockets:
                await web.SockSite(runner, bound).start()
            return runner

        self._sites.append(asyncio.run_coroutine_threadsafe(begin(), self._loop).result(30))

    def _serve_grpc(self, address: str) -> grpc.Server:
        return self._listen(address, PERSON)

    def _listen(self, address: str, caller: str) -> grpc.Server:
        server = grpc.server(
            self._grpc_threads,
            interceptors=[Recorder(self._calls, caller)],
            options=[
                ("grpc.max_receive_message_length", GRPC_MESSAGE_BYTES),
                ("grpc.max_send_message_length", GRPC_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        services = (self._pubsub, self._firestore, self._run, self._monitoring, self._workflows)
        for service in services:
            server.add_generic_rpc_handlers(tuple(service.grpc_handlers()))
        server.add_insecure_port(address)
        server.start()
        return server

    def _write(self, environment: Mapping[str, str]) -> None:
        content = {"pid": os.getpid(), "environment": dict(environment)}
        beside = self.folder / "cloud.json.new"
        beside.write_text(json.dumps(content, indent=1))
        beside.replace(self.folder / "cloud.json")


def run(folder: Path, models: Path = project.MODELS_FILE, google_firestore: bool = False) -> int:
    """Start the local cloud, say where it is, stay until SIGINT or SIGTERM; the exit code."""
    begun = time.monotonic()
    try:
        cloud = LocalCloud(folder, models, google_firestore)
    except (AlreadyRunning, ValueError) as error:
        print(f"turnout: {error}", file=sys.stderr)
        return 1
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    print("Starting the local cloud …", flush=True)
    environment = cloud.start()
    print(_where(environment, folder, time.monotonic() - begun), flush=True)
    ended.wait()
    print("Stopping; the data stay.", flush=True)
    cloud.stop()
    return 0


def _where(environment: Mapping[str, str], folder: Path, took_s: float) -> str:
    dashboard = f"{environment['TURNOUT_FUNCTIONS_URL']}/dashboard/"
    return f"""The local cloud is up ({took_s:.1f} s). Data and logs: {folder}
  Pub/Sub, Firestore, Cloud Run, Workflows, Monitoring   {environment["FIRESTORE_EMULATOR_HOST"]}
  Cloud Storage                                          {environment["STORAGE_EMULATOR_HOST"]}
  Functions                                              {environment["TURNOUT_FUNCTIONS_URL"]}
  Dashboard                                              {dashboard}
Next, in another terminal: turnout deployments, turnout publish --help. Ctrl-C stops it."""


def _images(folder: Path) -> dict[str, Image]:
    """The serving image, and what `images.json` in the data folder names beside it."""
    images = {SERVING_IMAGE: Image([sys.executable, "-m", "serving"], ROOT)}
    registry = folder / "images.json"
    if registry.exists():
        for name, image in json.loads(registry.read_text()).items():
            images[name] = Image(image["command"], ROOT, image.get("environment"))
    return images


def _lock(folder: Path) -> IO[str]:
    """Hold the folder for this process; the kernel lets go of it however the process ends."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(f"a local cloud already runs from {folder}") from None
    return lock
