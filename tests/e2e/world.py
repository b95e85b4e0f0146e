"""One local cloud as a process, and everything a test does with it: only through public seams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
import pytest
import requests
from google.api_core.exceptions import DeadlineExceeded
from google.cloud import firestore, run_v2
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
from google.cloud.storage import Client as StorageClient
from google.cloud.workflows import executions_v1

from tests.e2e import declarations

ROOT = Path(__file__).parents[2]
PROJECT, REGION = "turnout-local", "europe-central2"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
TOPIC = f"projects/{PROJECT}/topics/training-completed"
DEAD_LETTERS = f"projects/{PROJECT}/subscriptions/training-completed-dead-letter"
TRAINING, SERVING = f"{PROJECT}-training", f"{PROJECT}-serving"
DEADLINE_S = 150.0
ENDED = frozenset({"active", "inactive", "failed", "rolled_back", "cancelled"})
# A project or an emulator that was set outside must not reach the command line under test.
_FOREIGN = ("TURNOUT_", "GOOGLE_", "GCE_METADATA")

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Return the first true value of `condition`; fails with its last one when none comes."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s:g} s; last seen: {value!r}")
        time.sleep(0.05)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would point elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and not name.endswith("_EMULATOR_HOST")
    }


class Cloud:
    """`turnout up` in a process of its own, its data in `folder/data`."""

    def __init__(self, folder: Path, models: Path, **environment: str) -> None:
        self.data = folder / "data"
        self._environment = environment
        self._models = models
        self._output = folder / "cloud.out"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, models: Path) -> list[str]:
        """Return the command line that starts it."""
        where = ("--data", str(self.data), "up", "--models", str(models))
        return [sys.executable, "-m", "turnout", *where]

    def start(self) -> World:
        """Start it, wait until it is up, and return a client of it."""
        file = self.data / "cloud.json"
        file.unlink(missing_ok=True)
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(self._models),
                cwd=ROOT,
                env={**clean_environment(), **self._environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def is_up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self._output.read_text()[-4000:]
            return file.exists()

        until(is_up, "the local cloud is up")
        return World(self.data, json.loads(file.read_text())["environment"])

    def kill(self) -> None:
        """`kill -9` the process; returns when it and all that it started are gone."""
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        _, left = psutil.wait_procs(family, timeout=30)
        assert not left, f"outlived the cloud: {left}"

    def stop(self) -> None:
        """End it as Ctrl-C does; its exit code must be 0."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=90) == 0, self._output.read_text()[-4000:]


class World:
    """Google's clients, the functions' URLs, the prediction API and the command line."""

    def __init__(self, data: Path, environment: Mapping[str, str]) -> None:
        self.data = data
        self.environment = dict(environment)
        with _in_environment(environment):
            self.publisher = PublisherClient()
            self.subscriber = SubscriberClient()
            self.documents = firestore.Client(project=PROJECT)
            self.storage = StorageClient(project=PROJECT)
        address = environment["TURNOUT_GRPC_EMULATOR_HOST"]
        self._channel = grpc.insecure_channel(address)
        self.services = self.client(run_v2.ServicesClient)
        self.revisions = self.client(run_v2.RevisionsClient)
        self.executions = self.client(executions_v1.ExecutionsClient)
        self._dead: dict[str, Any] = {}

    def close(self) -> None:
        """Let go of all connections."""
        self.publisher.stop()
        self.publisher.transport.close()
        self.subscriber.close()
        self.documents.close()  # type: ignore[no-untyped-call]
        self._channel.close()

    def client(self, kind: Any) -> Any:
        """Return a client of one of the cloud's plaintext gRPC services."""
        return kind(transport=kind.get_transport_class("grpc")(channel=self._channel))

    # -- training

    def upload(self, source: Path, model: str, run: int) -> str:
        """Put artifacts where training would; return their URI."""
        folder = f"{model}/run-{run}"
        bucket = self.storage.bucket(TRAINING)
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            name = f"{folder}/{file.relative_to(source).as_posix()}"
            bucket.blob(name).upload_from_filename(str(file))
        return f"gs://{TRAINING}/{folder}"

    def publish(self, message: Mapping[str, Any] | bytes) -> str:
        """Publish a training-completed message; return its id."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        return str(self.publisher.publish(TOPIC, data).result(timeout=30))

    # -- what became of it

    def outcome(self, message_id: str) -> str:
        """Return what the function's log says became of a message, once it was handled."""
        log = self.data / "functions" / "functions.log"

        def handled() -> str:
            for line in log.read_text(errors="replace").splitlines():
                if message_id in line and '"message handled"' in line:
                    return str(json.loads(line)["outcome"])
            return ""

        return until(handled, f"message {message_id} is handled")

    def document(self, path: str) -> dict[str, Any] | None:
        """Return a document's fields, or None."""
        return self.documents.document(path).get().to_dict()

    def deployment(self, deployment_id: str) -> dict[str, Any] | None:
        """Return a deployment's fields, or None."""
        return self.document(f"deployments/{deployment_id}")

    def deployments(self, model: str) -> list[dict[str, Any]]:
        """Return a model's deployments, oldest version first."""
        found = self.documents.collection("deployments").where(
            filter=firestore.FieldFilter("model_id", "==", model)
        )
        known = [one.to_dict() or {} for one in found.stream()]
        return sorted(known, key=lambda one: int(one["version"]))

    def events(self, deployment_id: str) -> list[dict[str, Any]]:
        """Return a deployment's history, oldest first."""
        found = self.documents.collection(f"deployments/{deployment_id}/events")
        return [event.to_dict() or {} for event in found.order_by("__name__").stream()]

    def ended(self, deployment_id: str, status: str) -> dict[str, Any]:
        """Return a deployment once its rollout has ended; fails unless it is `status`."""

        def found() -> dict[str, Any] | None:
            one = self.deployment(deployment_id)
            return one if one and one["status"] in ENDED else None

        one = until(found, f"{deployment_id} ends")
        assert one["status"] == status, f"{deployment_id} is {one['status']}: {one['reason']}"
        return one

    def dead_letter(self, message_id: str) -> Any:
        """Return the dead letter of a message that was refused, once it is there."""

        def found() -> Any:
            if message_id in self._dead:
                return self._dead[message_id]
            try:
                pulled = self.subscriber.pull(
                    subscription=DEAD_LETTERS, max_messages=100, timeout=5, retry=None
                )
            except DeadlineExceeded:
                return None
            for received in pulled.received_messages:
                self._dead[received.message.attributes["message_id"]] = received.message
            self.subscriber.acknowledge(
                subscription=DEAD_LETTERS,
                ack_ids=[received.ack_id for received in pulled.received_messages],
            )
            return self._dead.get(message_id)

        return until(found, f"the dead letter of message {message_id}")

    def unlocked(self, model: str) -> dict[str, Any]:
        """Return the model's document once no rollout, abort or rollback holds its lock."""

        def found() -> dict[str, Any] | None:
            document = self.document(f"models/{model}")
            return document if document and document["lock"] is None else None

        return until(found, f"the lock of {model} is free")

    def key_hashes(self) -> set[str]:
        """Return the SHA-256 (hex) of every API key that was ever made, health checks' too."""
        return {found.id for found in self.documents.collection("api_keys").stream()}

    # -- Cloud Run

    def service(self, model: str) -> run_v2.Service:
        """Return the model's Cloud Run service."""
        found: run_v2.Service = self.services.get_service(name=_service_name(model))
        return found

    def revision_names(self, model: str) -> list[str]:
        """Return the names of all revisions of the model's service."""
        listed = self.revisions.list_revisions(parent=_service_name(model))
        return sorted(one.name.split("/")[-1] for one in listed)

    def serves(self, model: str, **split: int) -> None:
        """Fail unless exactly that split (version to percent) is written and served."""
        service = self.service(model)
        assert served(service) == split
        assert specified(service) == split

    # -- the functions, as Google's own callers call them

    def call(self, function: str, body: Mapping[str, Any]) -> requests.Response:
        """POST to a function with an ID token of this machine's account."""
        url = f"{self.environment['TURNOUT_FUNCTIONS_URL']}/{function}"
        token = requests.get(
            f"http://{self.environment['GCE_METADATA_HOST']}/computeMetadata/v1/instance/"
            "service-accounts/default/identity",
            params={"audience": url, "format": "full"},
            headers={"Metadata-Flavor": "Google"},
            timeout=30,
        )
        token.raise_for_status()
        return requests.post(
            url,
            json=dict(body),
            headers={"Authorization": f"Bearer {token.text}"},
            timeout=120,
        )

    def reconcile(self, model: str | None = None) -> dict[str, list[str]]:
        """Run the function that Cloud Scheduler runs; return its findings by model."""
        answer = self.call("reconcile", {"model_id": model} if model else {})
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["findings"])

    # -- the command line

    def turnout(
        self, *arguments: str, exits: int = 0, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of `turnout`; fails unless it exits with `exits`."""
        done = run_turnout(self.data, *arguments, text=text)
        assert done.returncode == exits, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def turnout_json(self, *arguments: str, exits: int = 0) -> Any:
        """Run a command with `--json`; return what it printed."""
        return json.loads(self.turnout(*arguments, "--json", exits=exits).stdout)

    def key(self, model: str) -> str:
        """Create an API key."""
        return str(self.turnout_json("keys", "create", model, "--name", "a test's")["key"])


def run_turnout(
    data: Path, *arguments: str, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `turnout --data DATA ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", "turnout", "--data", str(data), *arguments],
        cwd=ROOT,
        env={**clean_environment(), "TURNOUT_USER": "tester@example.com"},
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def message(model: str, run: int, uri: str, **deploy: Any) -> dict[str, Any]:
    """Return a training-completed message; `deploy` is its deploy block, none without any."""
    body: dict[str, Any] = {
        "schema_version": 1,
        "model_id": model,
        "run_number": run,
        "artifact_uri": uri,
        "feature_config": {"id": "config-042", "name": "Large embeddings"},
        "dataset": {"name": "Q4 2024", "version": 3},
        "metrics": {"recall_at_10": 0.19, "recall_at_50": 0.4, "recall_at_100": 0.47},
        "completed_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }
    return {**body, "deploy": {"when": "always", **deploy}} if deploy else body


def _service_name(model: str) -> str:
    region = declarations.MODELS.get(model, {}).get("region", REGION)
    return f"projects/{PROJECT}/locations/{region}/services/model-serving-{model}"


def version_of(revision: str) -> str:
    """`model-serving-once-v3-1` → `v3`."""
    return revision.rsplit("-", 2)[-2]


def served(service: run_v2.Service) -> dict[str, int]:
    """Return the split that is served, by version."""
    return _split(service.traffic_statuses, service)


def specified(service: run_v2.Service) -> dict[str, int]:
    """Return the split that is written, by version."""
    return _split(service.traffic, service)


def _split(targets: Any, service: run_v2.Service) -> dict[str, int]:
    latest = service.latest_ready_revision.split("/")[-1]
    shares: dict[str, int] = {}
    for target in targets:
        if target.percent:
            version = version_of(target.revision or latest)
            shares[version] = shares.get(version, 0) + target.percent
    return shares


@contextmanager
def _in_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Let Google's clients find the cloud; they read the environment when they are made."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield
