"""The two worlds behind the ports: the fakes, and Google's clients on the local cloud."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
import pytest
from google.cloud import firestore, run_v2, storage
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
from google.cloud.workflows import executions_v1

from localcloud.firestore import Firestore
from localcloud.identity import Identity
from localcloud.ports import HOST
from localcloud.ports import Ports as Listeners
from localcloud.pubsub import PubSub
from localcloud.run import CloudRun, Image
from localcloud.storage import Storage
from localcloud.workflows import FakeClock as WorkflowsClock
from localcloud.workflows import Workflows
from shared.config import DEAD_LETTER_TOPIC, EVENTS_TOPIC, WORKFLOW
from shared.domain.deployment import SERVICE_PREFIX, Deployment, Event
from shared.gcp.cloud_run import RunServices
from shared.gcp.firestore import FirestoreKeys, FirestorePosts, FirestoreState
from shared.gcp.jobs import RunJobs
from shared.gcp.predictions import HttpPredictions
from shared.gcp.pubsub import Topic
from shared.gcp.regions import ModelRegions
from shared.gcp.storage import StorageObjects
from shared.gcp.workflows import WorkflowExecutions
from shared.messages import ModelDeclaration
from shared.ports import Ports, Posts
from shared.wiring import SystemClock
from tests.contract.listener import listening
from tests.fakes import SETTINGS, Behaviour, FakePosts, Preparation, World

T = TypeVar("T")
CRASHING_RUN, HANGING_RUN = 13, 14
WHY_IT_CRASHES = "the model cannot be loaded"
WHY_IT_FAILS = "it broke"
DEADLINE_S = 30.0

# A container that answers as a model's does, or prepares it, from the same environment.
SERVING = f"""
import http.server, json, os, sys, time

run = os.environ.get("TRAINING_RUN")
if run == "{CRASHING_RUN}":
    sys.exit("{WHY_IT_CRASHES}")
if "prepare" in sys.argv:
    time.sleep(3600 if run == "{HANGING_RUN}" else 0)
    sys.exit()
version = os.environ.get("MODEL_VERSION")

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if run is None:
            return self.answer(503, {{"status": "unhealthy", "reason": "no model is deployed"}})
        self.answer(200, {{
            "status": "healthy", "model_id": os.environ["MODEL_ID"], "model_version": version,
            "training_run": int(run), "artifact_digest": os.environ["MODEL_DIGEST"],
            "products": 50}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if len(self.headers["Authorization"]) != len("Bearer ") + 43:
            return self.answer(401, {{"detail": "the API key is not valid"}})
        ranked = [{{"product_id": f"p{{n}}", "score": 1 - n / 100}} for n in range(asked["top_k"])]
        self.answer(200, {{"model_version": version, "results": [
            {{"customer_id": name, "recommendations": ranked}} for name in asked["customer_ids"]]}})

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
server.daemon_threads = True
server.serve_forever()
"""

# Ends as the deployment's id says: -succeeds, -fails, or else never.
WORKFLOW_SOURCE = f"""
main:
  params: [args]
  steps:
    - how:
        switch:
          - condition: ${{text.match_regex(args.deployment_id, "succeeds$")}}
            return: done
          - condition: ${{text.match_regex(args.deployment_id, "fails$")}}
            raise: {WHY_IT_FAILS}
    - bake:
        call: sys.sleep
        args: {{seconds: 3600}}
"""


class Backend(Protocol):
    """A world behind the ports, and what others do in it."""

    ports: Ports
    posts: Posts

    def declare(self, model: ModelDeclaration) -> None:
        """Declare a model and create its empty service and its job, as Terraform does."""
        ...

    def train(self, name: str, content: bytes) -> None:
        """Write an object to the bucket `training`, as training does."""
        ...

    def by_hand(self, service: str, split: Mapping[str | None, int]) -> None:
        """Change a service's traffic, as a person at the console does; None is LATEST."""
        ...

    def least_instances(self, service: str) -> int:
        """Return how many instances a service has at least."""
        ...

    def events(self, deployment_id: str) -> list[Event]:
        """Return a deployment's history."""
        ...

    def dead_letters(self) -> list[tuple[bytes, dict[str, str]]]:
        """Return what was published since the last call."""
        ...


class Fakes:
    """The fakes, whose containers and executions behave as the local cloud's."""

    def __init__(self) -> None:
        self._world = world = World.of()
        self.ports = world.ports()
        self.posts: Posts = FakePosts()
        self._seen = 0
        world.cloud_run.fate = lambda deployment: (
            WHY_IT_CRASHES if deployment.training_run == CRASHING_RUN else ""
        )
        world.predictions.behaviours[CRASHING_RUN] = Behaviour()
        world.jobs.behaviours[CRASHING_RUN] = Preparation(fails="a task exited with code 1")
        world.jobs.behaviours[HANGING_RUN] = Preparation(reads_until_done=1_000_000)
        world.executions.started = self._started

    def declare(self, model: ModelDeclaration) -> None:
        self._world.state.declare(model)
        self._world.cloud_run.declare(model.config.service)
        self._world.jobs.declare(model.config.job)

    def train(self, name: str, content: bytes) -> None:
        self._world.objects.put("training", name, content)

    def by_hand(self, service: str, split: Mapping[str | None, int]) -> None:
        self._world.cloud_run.by_hand(service, split)

    def least_instances(self, service: str) -> int:
        return self._world.cloud_run.services[service].min_instances

    def events(self, deployment_id: str) -> list[Event]:
        return self._world.state.events(deployment_id)

    def dead_letters(self) -> list[tuple[bytes, dict[str, str]]]:
        new = self._world.dead_letters.messages[self._seen :]
        self._seen += len(new)
        return new

    def _started(self, execution: str, deployment: Deployment) -> None:
        if deployment.id.endswith("succeeds"):
            self._world.executions.end(execution, "SUCCEEDED")
        if deployment.id.endswith("fails"):
            self._world.executions.end(execution, "FAILED", WHY_IT_FAILS)


class LocalCloud:
    """Google's unmodified clients on the local cloud's services."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("firestore", "pubsub", "workflows"):
            (folder / name).mkdir(parents=True)
        identity = Identity(folder)
        services = _services(folder, identity, stack)
        target = f"{HOST}:{_serve(services, stack)}"
        environment.setenv("FIRESTORE_EMULATOR_HOST", target)
        environment.setenv("PUBSUB_EMULATOR_HOST", target)
        stored = Storage(folder / "storage")
        stored.start()
        stack.callback(stored.stop)
        origin = stack.enter_context(listening(stored.app()))
        environment.setenv("STORAGE_EMULATOR_HOST", f"http://{origin}")

        channel = stack.enter_context(grpc.insecure_channel(target))
        project = SETTINGS.project
        self._services = _client(run_v2.ServicesClient, channel)
        self._jobs = _client(run_v2.JobsClient, channel)
        self._storage = storage.Client(project=project)
        for bucket in ("training", "serving"):
            self._storage.create_bucket(bucket)
        self._database = firestore.Client(project=project)
        self._state = FirestoreState(self._database)
        parent = ModelRegions(self._database, SETTINGS).parent
        self._parent = parent
        self.posts: Posts = FirestorePosts(self._database)
        self._publisher, self._subscriber = PublisherClient(), SubscriberClient()
        topic = f"projects/{project}/topics/{DEAD_LETTER_TOPIC}"
        self._subscription = f"projects/{project}/subscriptions/{DEAD_LETTER_TOPIC}"
        self._publisher.create_topic(name=topic)
        self._publisher.create_topic(name=f"projects/{project}/topics/{EVENTS_TOPIC}")
        self._subscriber.create_subscription(name=self._subscription, topic=topic)
        stack.callback(self._subscriber.close)
        self.ports = Ports(
            settings=SETTINGS,
            state=self._state,
            objects=StorageObjects(self._storage),
            cloud_run=RunServices(
                self._services, _client(run_v2.RevisionsClient, channel), SETTINGS, parent
            ),
            jobs=RunJobs(self._jobs, _client(run_v2.ExecutionsClient, channel), parent),
            executions=WorkflowExecutions(
                _client(executions_v1.ExecutionsClient, channel), SETTINGS
            ),
            dead_letters=Topic(self._publisher, project, DEAD_LETTER_TOPIC),
            events=Topic(self._publisher, project, EVENTS_TOPIC),
            predictions=HttpPredictions(),
            keys=FirestoreKeys(self._database),
            clock=SystemClock(),
        )

    def declare(self, model: ModelDeclaration) -> None:
        self._database.collection("model_configs").document(model.model_id).set(
            model.model_dump(mode="json")
        )
        service_id = model.config.service
        container = {"image": model.image, "env": [{"name": "MODEL_ID", "value": model.model_id}]}
        self._services.create_service(
            parent=_parent(model),
            service_id=service_id,
            service=run_v2.Service(
                {
                    "invoker_iam_disabled": True,
                    "template": {"revision": f"{service_id}-v0-1", "containers": [container]},
                }
            ),
        ).result(timeout=DEADLINE_S)
        task = {"containers": [{**container, "args": ["prepare"]}], "max_retries": 0}
        self._jobs.create_job(
            parent=_parent(model),
            job_id=model.config.job,
            job=run_v2.Job({"template": {"template": task}}),
        ).result(timeout=DEADLINE_S)

    def train(self, name: str, content: bytes) -> None:
        self._storage.bucket("training").blob(name).upload_from_string(content)

    def by_hand(self, service: str, split: Mapping[str | None, int]) -> None:
        kinds = run_v2.TrafficTargetAllocationType
        model_id = service.removeprefix(SERVICE_PREFIX)
        targets = [
            run_v2.TrafficTarget(
                type_=kinds.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
                if revision
                else kinds.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST,
                revision=revision or "",
                percent=percent,
            )
            for revision, percent in split.items()
        ]
        self._services.update_service(
            run_v2.UpdateServiceRequest(
                service=run_v2.Service(
                    name=f"{self._parent(model_id)}/services/{service}", traffic=targets
                ),
                update_mask={"paths": ["traffic"]},
            )
        )

    def least_instances(self, service: str) -> int:
        name = f"{self._parent(service.removeprefix(SERVICE_PREFIX))}/services/{service}"
        return self._services.get_service(name=name).scaling.min_instance_count

    def events(self, deployment_id: str) -> list[Event]:
        return self._state.events(deployment_id)

    def dead_letters(self) -> list[tuple[bytes, dict[str, str]]]:
        pulled = self._subscriber.pull(
            subscription=self._subscription, max_messages=10, timeout=DEADLINE_S
        )
        messages = [got.message for got in pulled.received_messages]
        self._subscriber.acknowledge(
            subscription=self._subscription,
            ack_ids=[got.ack_id for got in pulled.received_messages],
        )
        return [(message.data, dict(message.attributes)) for message in messages]


@contextmanager
def fakes(_: Path) -> Iterator[Backend]:
    """Give the fakes."""
    yield Fakes()


@contextmanager
def local_cloud(folder: Path) -> Iterator[Backend]:
    """Run the local cloud's services below `folder` and give Google's clients of them."""
    with ExitStack() as stack:
        yield LocalCloud(folder, stack)


BACKENDS: Mapping[str, Callable[[Path], Any]] = {"fakes": fakes, "local cloud": local_cloud}


def until(read: Callable[[], T], holds: Callable[[T], bool]) -> T:
    """Read until a condition holds and return what it holds for."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds(found := read()):
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.02)
    return found


def _parent(model: ModelDeclaration) -> str:
    return f"projects/{SETTINGS.project}/locations/{model.region or SETTINGS.region}"


def _services(folder: Path, identity: Identity, stack: ExitStack) -> Sequence[Any]:
    source = folder / "workflow.yaml"
    source.write_text(WORKFLOW_SOURCE)
    container = folder / "serving.py"
    container.write_text(SERVING)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(loop.call_soon_threadsafe, loop.stop)
    made: Sequence[Any] = (
        Firestore(folder / "firestore"),
        PubSub(folder / "pubsub", identity),
        Workflows(
            folder / "workflows",
            {WORKFLOW: source},
            identity,
            SETTINGS.project,
            SETTINGS.region,
            {},
            "workflow@turnout-test.iam.gserviceaccount.com",
            WorkflowsClock(advancing=False),
        ),
        # The last one: it refuses what the others do not answer.
        CloudRun(
            folder / "run",
            Listeners(folder),
            {"serving": Image([sys.executable, "-S", str(container)], folder)},
            lambda _: {},
            SETTINGS.project,
            loop,
        ),
    )
    for service in made:
        service.start()
        stack.callback(service.stop)
    return made


def _serve(services: Sequence[Any], stack: ExitStack) -> int:
    server = grpc.server(ThreadPoolExecutor(max_workers=32))
    for service in services:
        server.add_generic_rpc_handlers(tuple(service.grpc_handlers()))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    stack.callback(lambda: server.stop(None).wait())
    return int(port)


def _client(kind: Any, channel: grpc.Channel) -> Any:
    return kind(transport=kind.get_transport_class("grpc")(channel=channel))
