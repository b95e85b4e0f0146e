"""The serving container as a process: real storage, real Firestore, real models, real signals."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.cloud import firestore, storage

from localcloud.firestore import Firestore
from localcloud.run.process import free_port
from localcloud.storage import Storage
from serving.artifacts import ManifestFile, digest_of
from serving.cpus import cpus_given
from shared.sketches import count_distinct
from tests import models
from tests.serving_answers import assert_documented

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
PROJECT = "turnout-test"
BUCKET = "turnout-test-serving"
# Another interpreter brings the packages of the image: `make image-check` tries a trimmed one.
PYTHON = os.environ.get("SERVING_PYTHON", sys.executable)


def eventually(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true value of `condition`; fails when none comes in time."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {deadline_s} s")


class StorageServer:
    """The local cloud's storage on a loopback port, in a thread."""

    def __init__(self, folder: Path) -> None:
        self._service = Storage(folder)
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._service.start()
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._service.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._service.app())
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.SockSite(runner, self._socket).start())
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()


class FirestoreServer:
    """The local cloud's Firestore on a loopback port that stays the same over a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.target = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        self._service = Firestore(self._folder)
        self._service.start()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=32))
        self._server.add_generic_rpc_handlers(tuple(self._service.grpc_handlers()))
        self._server.add_insecure_port(self.target)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()
        self._service.stop()


class Cloud:
    """Storage with one bucket, Firestore with API keys, and what a container is told of them."""

    def __init__(self, folder: Path) -> None:
        self.storage = StorageServer(folder / "storage")
        self.firestore = FirestoreServer(folder / "firestore")
        self._folder = folder
        self._versions = 0

    def start(self) -> None:
        self.storage.start()
        self.firestore.start()
        os.environ["STORAGE_EMULATOR_HOST"] = self.storage.url
        os.environ["FIRESTORE_EMULATOR_HOST"] = self.firestore.target
        self._documents = firestore.Client(project=PROJECT)
        self.bucket = storage.Client(project=PROJECT).create_bucket(BUCKET)

    def stop(self) -> None:
        self.firestore.stop()
        self.storage.stop()
        del os.environ["STORAGE_EMULATOR_HOST"], os.environ["FIRESTORE_EMULATOR_HOST"]

    def deploy(self, write: Callable[[Path], None], extra_ops: str = "") -> dict[str, str]:
        """Store a model as a version of its own; returns its revision's environment."""
        self._versions += 1
        folder = self._folder / f"artifact-{self._versions}"
        folder.mkdir()
        write(folder)
        prefix = f"models/movies/v{self._versions}/"
        files = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            blob = self.bucket.blob(prefix + str(path.relative_to(folder)))
            blob.upload_from_filename(str(path))
            files.append(
                {
                    "path": str(path.relative_to(folder)),
                    "size": blob.size,
                    "crc32c": blob.crc32c,
                    "generation": int(blob.generation),
                }
            )
        manifest = {
            "schema_version": 1,
            "model_id": "movies",
            "version": self._versions,
            "training_run": 40 + self._versions,
            "source": f"gs://training/movies/run-{40 + self._versions}",
            "files": files,
            "digest": digest_of(ManifestFile(**file) for file in files),
        }
        self.bucket.blob(prefix + "manifest.json").upload_from_string(json.dumps(manifest))
        return {
            "MODEL_ID": "movies",
            "MODEL_PATH": f"gs://{BUCKET}/{prefix}",
            "MODEL_VERSION": f"v{self._versions}",
            "MODEL_DIGEST": str(manifest["digest"]),
            "TRAINING_RUN": str(manifest["training_run"]),
            "MODEL_EXTRA_OPS": extra_ops,
        }

    def prepare(self, environment: dict[str, str], tasks: int = 1) -> dict[str, str]:
        """Prepare a version's answers, with every task at once and the first one twice.

        Returns the revision's environment with what they have prepared.
        """
        numbers = [*range(tasks), 0]
        running = [start_task(environment, number, tasks) for number in numbers]
        for process in running:
            output, _ = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, output
        prefix = _name(environment, "prepared/")
        verdicts = [
            json.loads(blob.download_as_bytes())
            for blob in self.bucket.list_blobs(prefix=prefix + "task-")
        ]
        assert len(verdicts) == tasks
        files = [file for verdict in verdicts for file in verdict["files"]]
        manifest = {
            "schema_version": 1,
            "model_digest": environment["MODEL_DIGEST"],
            "top_k": verdicts[0]["top_k"],
            "customers": sum(verdict["customers"] for verdict in verdicts),
            "products": verdicts[0]["products"],
            "tasks": tasks,
            "recall": None,
            "files": files,
            "digest": digest_of(ManifestFile(**file) for file in files),
        }
        self.bucket.blob(prefix + "manifest.json").upload_from_string(json.dumps(manifest))
        return {**environment, "PREPARED_DIGEST": str(manifest["digest"])}

    def create_key(self, **changes: object) -> str:
        """Store an API key as the pipeline does; returns the plain key."""
        key = secrets.token_urlsafe(32)
        key_hash = hashlib.sha256(key.encode()).hexdigest()
        fields = {
            "model_id": "movies",
            "name": "a test's",
            "key_hash": key_hash,
            "key_prefix": key[:8],
            "is_active": True,
            "created_at": datetime.now(UTC),
            "created_by": "test@example.com",
            "expires_at": None,
            "last_used_at": None,
        }
        self._documents.collection("api_keys").document(key_hash).create({**fields, **changes})
        return key

    def revoke(self, key: str) -> None:
        self._key(key).update({"is_active": False})

    def delete_key(self, key: str) -> None:
        self._key(key).delete()

    def stored_key(self, key: str) -> dict[str, Any] | None:
        return self._key(key).get().to_dict()

    def _key(self, key: str) -> firestore.DocumentReference:
        key_hash = hashlib.sha256(key.encode()).hexdigest()
        return self._documents.collection("api_keys").document(key_hash)

    def sketches(self, environment: dict[str, str]) -> list[dict[str, Any]]:
        """Return the sketches of customers that a revision's instances wrote."""
        version = int(environment["MODEL_VERSION"].removeprefix("v"))
        found = self._documents.collection("customer_sketches").where(
            filter=firestore.FieldFilter("version", "==", version)
        )
        return [one.to_dict() for one in found.stream()]


def start_task(
    environment: dict[str, str], number: int = 0, tasks: int = 1
) -> subprocess.Popen[str]:
    """Start one task of the job that prepares a version's answers."""
    return subprocess.Popen(
        [PYTHON, "-m", "serving", "prepare"],
        cwd=ROOT,
        env={
            **os.environ,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "TURNOUT_PROJECT": PROJECT,
            "CLOUD_RUN_TASK_INDEX": str(number),
            "CLOUD_RUN_TASK_COUNT": str(tasks),
            "PREPARED_TOP_K": "20",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


class Answer:
    """One HTTP answer, its JSON parsed."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()
        self.json = json.loads(self.text)


class Container:
    """`python -m serving`, its log lines, and a client that checks every answer it gets."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.logs: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [PYTHON, "-m", "serving"],
            cwd=ROOT,
            env={
                **os.environ,
                "GOOGLE_CLOUD_PROJECT": PROJECT,
                "TURNOUT_PROJECT": PROJECT,
                "PORT": str(self.port),
                "PYTHONUNBUFFERED": "1",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_logs, daemon=True)
        self._reader.start()
        self._document: dict[str, Any] | None = None

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        connection = self.connect()
        content = None if body is None else json.dumps(body)
        if content is not None:
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, content, headers)
            answer = Answer(connection.getresponse())
        finally:
            connection.close()
        if path != "/openapi.json":
            kind = answer.headers.get_content_type()
            assert_documented(self.document, path, method, answer.status, kind, answer.json)
        return answer

    def recommend(self, customer_id: str, key: str, **fields: object) -> Answer:
        body = {"customer_id": customer_id, **fields}
        return self.request("POST", "/recommend", body, Authorization=f"Bearer {key}")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)

    @property
    def document(self) -> dict[str, Any]:
        if self._document is None:
            self._document = self.request("GET", "/openapi.json").json
        return self._document

    def wait_until_listening(self) -> None:
        eventually(lambda: self.logged("listening"), "listening")

    def wait_until_healthy(self) -> None:
        eventually(lambda: self.logged_by_every_worker("healthy"), "healthy")
        assert self.request("GET", "/health").status == 200

    def wait_for_exit(self) -> int:
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def logged(self, message: str) -> dict[str, Any] | None:
        return next((line for line in self.logs if line["message"] == message), None)

    def logged_by_every_worker(self, message: str) -> bool:
        """Tell whether a line was logged so often; fails where the process has ended."""
        assert self.process.poll() is None, self.logs
        lines = [line for line in self.logs if line["message"] == message]
        return len(lines) >= cpus_given()

    def stop(self) -> None:
        """End the process, however a test left it."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait_for_exit()

    def _read_logs(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.logs.append(json.loads(line))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def run() -> Iterator[Callable[..., Container]]:
    """Start containers that end with the test."""
    started: list[Container] = []

    def start(environment: dict[str, str]) -> Container:
        started.append(Container(environment))
        return started[-1]

    yield start
    for container in started:
        container.stop()


@pytest.fixture(scope="module")
def healthy(cloud: Cloud) -> Iterator[Container]:
    """One container with the good model, for every test that leaves it as it was."""
    container = Container(cloud.deploy(models.write_good))
    try:
        container.wait_until_healthy()
        yield container
    finally:
        container.stop()


@pytest.fixture(scope="module")
def key(cloud: Cloud) -> str:
    return cloud.create_key()


def test_started_container_tells_what_it_serves(healthy: Container) -> None:
    answer = healthy.request("GET", "/health")
    assert answer.json["status"] == "healthy"
    assert answer.json["products"] == len(models.PRODUCTS)
    assert answer.json["customers"] == len(models.CUSTOMERS)
    assert answer.json["artifact_digest"].startswith("sha256:")
    assert answer.json["paths"] == {"prepared": "none", "model": "ready"}
    assert answer.json["retrieval"] == "exact"


def test_start_is_measured_in_its_parts(healthy: Container) -> None:
    listening, loaded = healthy.logged("listening"), healthy.logged("model loaded")
    ready = healthy.logged("healthy")
    assert listening is not None
    assert loaded is not None
    assert ready is not None
    assert listening["listening_ms"] < ready["ready_ms"]
    assert {"import_ms", "download_ms", "load_ms", "warm_up_ms"} <= loaded.keys()


def test_known_customer_is_answered_as_specified(healthy: Container, key: str) -> None:
    answer = healthy.recommend("C001", key, top_k=3)
    assert answer.status == 200
    assert answer.json["customer_id"] == "C001"
    scores = [item["score"] for item in answer.json["recommendations"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert "known" not in answer.json


def test_unknown_customer_is_answered_and_marked(healthy: Container, key: str) -> None:
    answer = healthy.recommend("somebody else", key)
    assert answer.json["known"] is False
    assert len(answer.json["recommendations"]) == 10


def test_full_batch_is_answered_in_order(healthy: Container, key: str) -> None:
    asked = [models.CUSTOMERS[number % 20] for number in range(1_000)]
    body = {"customer_ids": asked, "top_k": len(models.PRODUCTS)}
    answer = healthy.request("POST", "/recommend-batch", body, Authorization=f"Bearer {key}")
    assert [result["customer_id"] for result in answer.json["results"]] == asked


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/recommend", {"customer_id": "C1", "top_k": 51}, 400, "top_k_out_of_range"),
        ("/recommend", {"customer": "C1"}, 400, "missing_field"),
        ("/recommend-batch", {"customer_ids": ["C"] * 1_001}, 400, "too_many_customers"),
        # More than the sockets hold: who sends it still learns why it was refused.
        ("/recommend", {"customer_id": "C" * (6 << 20)}, 413, "request_entity_too_large"),
        ("/elsewhere", {"customer_id": "C" * (6 << 20)}, 404, "not_found"),
        ("/elsewhere", {}, 404, "not_found"),
        ("/health", {}, 405, "method_not_allowed"),
    ],
)
def test_request_outside_the_limits_is_a_problem(
    healthy: Container, key: str, path: str, body: object, status: int, code: str
) -> None:
    answer = healthy.request("POST", path, body, Authorization=f"Bearer {key}")
    assert (answer.status, answer.json["code"]) == (status, code)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"is_active": False}, id="revoked"),
        pytest.param({"model_id": "books"}, id="another model's"),
        pytest.param({"expires_at": datetime.now(UTC) - timedelta(hours=1)}, id="expired"),
        pytest.param({"is_active": "yes"}, id="malformed"),
    ],
)
def test_key_that_must_not_open_is_refused(
    cloud: Cloud, healthy: Container, changes: dict[str, object]
) -> None:
    answer = healthy.recommend("C001", cloud.create_key(**changes))
    assert (answer.status, answer.json["code"]) == (401, "invalid_api_key")


def test_key_of_one_hour_opens(cloud: Cloud, healthy: Container) -> None:
    key = cloud.create_key(expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert healthy.recommend("C001", key).status == 200


def test_no_log_line_contains_a_key_or_a_customer(healthy: Container, key: str) -> None:
    healthy.recommend("C-secret-customer", key)
    healthy.recommend("C-secret-customer", key, top_k=10**9)
    healthy.request("POST", "/recommend", {"customer_id": 1}, Authorization=f"Bearer {key}")
    assert key not in str(healthy.logs)
    assert "C-secret-customer" not in str(healthy.logs)


def test_firestore_away_known_keys_open_and_others_are_asked_to_wait(
    cloud: Cloud, healthy: Container, key: str
) -> None:
    unseen = cloud.create_key()
    for _ in range(20):  # Each worker has looked it up then.
        assert healthy.recommend("C001", key).status == 200
    cloud.firestore.stop()
    try:
        assert healthy.recommend("C001", key).status == 200
        answer = healthy.recommend("C001", unseen)
        assert (answer.status, answer.json["code"]) == (503, "keys_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        eventually(lambda: healthy.logged("API keys cannot be looked up"), "the log of it")
    finally:
        cloud.firestore.start()
    eventually(lambda: healthy.recommend("C001", unseen).status == 200, "the unseen key's opening")


def test_empty_v0_stays_up_and_says_that_there_is_no_model(run: Callable[..., Container]) -> None:
    container = run({"MODEL_ID": "movies"})
    container.wait_until_listening()
    health = container.request("GET", "/health")
    assert (health.status, health.json["status"]) == (503, "unhealthy")
    assert health.json["model_version"] == "v0"
    assert "no model is deployed yet" in health.json["reason"]
    answer = container.recommend("C001", "any key")
    assert (answer.status, answer.json["code"]) == (503, "model_not_ready")
    assert "no model is deployed yet" in answer.json["detail"]
    container.process.send_signal(signal.SIGTERM)
    assert container.wait_for_exit() == 0


def test_model_that_never_answers_keeps_starting_and_can_be_stopped(
    cloud: Cloud, run: Callable[..., Container]
) -> None:
    container = run(cloud.deploy(models.write_never_healthy, models.WAITING_OPS))
    container.wait_until_listening()
    health = container.request("GET", "/health")
    assert (health.status, health.json["status"]) == (503, "starting")
    container.process.send_signal(signal.SIGTERM)
    assert container.wait_for_exit() == 0
    assert container.logged("healthy") is None


@pytest.mark.parametrize(
    ("write", "code", "reason"),
    [
        (models.write_nan_scores, "model_warm_up", "not a finite number"),
        (models.write_unordered_scores, "model_warm_up", "not in descending order"),
        (models.write_without_saved_model, "model_contract", "not a SavedModel"),
        (models.write_no_known_signature, "model_contract", "no form that can be asked"),
        (models.write_holding, "model_contract", "MatchingFiles in"),
    ],
)
def test_broken_model_ends_the_process_with_the_reason(
    cloud: Cloud,
    run: Callable[..., Container],
    write: Callable[[Path], None],
    code: str,
    reason: str,
) -> None:
    container = run(cloud.deploy(write))
    assert container.wait_for_exit() == 1
    line = container.logged("model failed to load")
    assert line is not None
    assert (line["severity"], line["code"]) == ("ERROR", code)
    assert reason in line["reason"]


def test_model_that_crashes_the_process_ends_it_with_code_1(
    cloud: Cloud, run: Callable[..., Container]
) -> None:
    container = run(cloud.deploy(models.write_crashing))
    assert container.wait_for_exit() == 1
    assert container.logged("healthy") is None


def _wrong_digest(_: Cloud, environment: dict[str, str]) -> None:
    environment["MODEL_DIGEST"] = "sha256:" + "0" * 64


def _edited_manifest(cloud: Cloud, environment: dict[str, str]) -> None:
    blob = cloud.bucket.blob(_name(environment, "manifest.json"))
    manifest = json.loads(blob.download_as_bytes())
    manifest["files"][0]["crc32c"] = base64.b64encode(b"\0\0\0\0").decode()
    blob.upload_from_string(json.dumps(manifest))


def _removed_object(cloud: Cloud, environment: dict[str, str]) -> None:
    cloud.bucket.blob(_name(environment, "saved_model/saved_model.pb")).delete()


def _overwritten_object(cloud: Cloud, environment: dict[str, str]) -> None:
    blob = cloud.bucket.blob(_name(environment, "saved_model/saved_model.pb"))
    blob.upload_from_string(b"another graph")


def _other_content_of_the_right_generation(cloud: Cloud, environment: dict[str, str]) -> None:
    # A manifest that is consistent in itself, with the checksum of other bytes.
    blob = cloud.bucket.blob(_name(environment, "manifest.json"))
    manifest = json.loads(blob.download_as_bytes())
    file = next(f for f in manifest["files"] if f["path"] == "saved_model/saved_model.pb")
    file["crc32c"] = base64.b64encode(b"\0\0\0\0").decode()
    manifest["digest"] = digest_of(ManifestFile(**file) for file in manifest["files"])
    blob.upload_from_string(json.dumps(manifest))
    environment["MODEL_DIGEST"] = manifest["digest"]


def _name(environment: dict[str, str], path: str) -> str:
    return environment["MODEL_PATH"].removeprefix(f"gs://{BUCKET}/") + path


@pytest.mark.parametrize(
    ("tamper", "code", "reason"),
    [
        (_wrong_digest, "artifact_mismatch", "manifest.json: digest is"),
        (_edited_manifest, "artifact_mismatch", "manifest.json: digest of its files"),
        (_removed_object, "artifact_unavailable", "saved_model/saved_model.pb does not exist"),
        (_overwritten_object, "artifact_unavailable", "saved_model/saved_model.pb does not exist"),
        (
            _other_content_of_the_right_generation,
            "artifact_mismatch",
            "saved_model/saved_model.pb: crc32c is",
        ),
    ],
)
def test_artifact_that_is_not_the_deployed_one_is_not_served(
    cloud: Cloud,
    run: Callable[..., Container],
    tamper: Callable[[Cloud, dict[str, str]], None],
    code: str,
    reason: str,
) -> None:
    environment = cloud.deploy(models.write_good)
    tamper(cloud, environment)
    container = run(environment)
    assert container.wait_for_exit() == 1
    line = container.logged("model failed to load")
    assert line is not None
    assert line["code"] == code
    assert reason in line["reason"]


def test_missing_variable_ends_the_process_naming_it(run: Callable[..., Container]) -> None:
    container = run({"MODEL_ID": "movies", "MODEL_PATH": f"gs://{BUCKET}/models/movies/v1/"})
    assert container.wait_for_exit() == 1
    line = container.logged("container failed to start")
    assert line is not None
    assert "MODEL_VERSION is not set" in line["reason"]


def test_port_of_another_container_is_not_shared(run: Callable[..., Container]) -> None:
    first = run({"MODEL_ID": "movies"})
    first.wait_until_listening()
    second = run({"MODEL_ID": "movies", "PORT": str(first.port)})
    assert second.wait_for_exit() == 1
    line = second.logged("container failed to start")
    assert line is not None
    assert f"cannot listen on 127.0.0.1:{first.port}" in line["reason"]


def test_sigterm_requests_in_flight_and_those_that_wait_for_the_engine_are_finished(
    cloud: Cloud, run: Callable[..., Container], key: str, tmp_path: Path
) -> None:
    container = run(cloud.deploy(models.write_holding, models.WAITING_OPS))
    container.wait_until_healthy()
    held, others = tmp_path / "held", 8
    connections = [container.connect() for _ in range(others)]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(container.recommend, f"{models.HOLD}{held}", key, top_k=2)
        eventually(held.with_suffix(".started").exists, "the request's start")
        # Sent before the signal, so they must be answered; the engine has no time for them yet.
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        for connection in connections:
            connection.request("POST", "/recommend", '{"customer_id": "C001"}', headers)
        container.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refuses(container.port), "the end of listening")
        assert container.process.poll() is None
        held.with_suffix(".release").touch()
        answer = asked.result(DEADLINE_S)
        waited = [Answer(connection.getresponse()) for connection in connections]
    assert answer.status == 200
    assert len(answer.json["recommendations"]) == 2
    assert [(one.status, one.json["customer_id"]) for one in waited] == [(200, "C001")] * others
    assert container.wait_for_exit() == 0


def test_sigterm_under_load_on_kept_connections_loses_no_request(
    cloud: Cloud, run: Callable[..., Container], key: str
) -> None:
    container = run(cloud.deploy(models.write_good))
    container.wait_until_healthy()
    threads = 6
    began = threading.Barrier(threads + 1)

    def ask_until_told_to_reconnect() -> int:
        connection = container.connect()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answered = 0
        while True:
            connection.request("POST", "/recommend", '{"customer_id": "C001"}', headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            answered += 1
            if answered == 1:
                began.wait(DEADLINE_S)
            if response.headers.get("Connection") == "close":
                return answered

    with ThreadPoolExecutor(threads) as pool:
        clients = [pool.submit(ask_until_told_to_reconnect) for _ in range(threads)]
        began.wait(DEADLINE_S)
        container.process.send_signal(signal.SIGTERM)
        assert all(client.result(DEADLINE_S) >= 1 for client in clients)
    assert container.wait_for_exit() == 0


def test_sigterm_writes_who_was_answered_and_which_keys_were_used(
    cloud: Cloud, run: Callable[..., Container]
) -> None:
    environment = cloud.deploy(models.write_good)
    container = run(environment)
    container.wait_until_healthy()
    used, revoked, deleted, unused = (cloud.create_key() for _ in range(4))
    batch = {"customer_ids": ["C002", "C003", "a stranger"]}
    headers = {"Authorization": f"Bearer {used}"}
    began = datetime.now(UTC)
    assert container.recommend("C001", revoked).status == 200
    assert container.recommend("C002", deleted).status == 200
    assert container.recommend("C004", used, top_k=0).status == 400
    assert container.request("POST", "/recommend-batch", batch, **headers).status == 200
    cloud.revoke(revoked)
    cloud.delete_key(deleted)
    assert cloud.sketches(environment) == []
    container.process.send_signal(signal.SIGTERM)
    assert container.wait_for_exit() == 0

    sketches = cloud.sketches(environment)
    assert count_distinct([one["sketch"] for one in sketches]) == 4
    for one in sketches:
        assert one["model_id"] == "movies"
        assert one["hour"] <= datetime.now(UTC) < one["expires_at"]
    for key in (used, revoked):
        stored = cloud.stored_key(key)
        assert stored is not None
        assert began <= stored["last_used_at"] <= datetime.now(UTC)
        assert stored["is_active"] is (key == used)
    assert cloud.stored_key(deleted) is None
    assert (cloud.stored_key(unused) or {})["last_used_at"] is None


def test_kill_keeps_what_was_flushed_and_the_next_instance_counts_nobody_twice(
    cloud: Cloud, run: Callable[..., Container], key: str
) -> None:
    environment = {**cloud.deploy(models.write_good), "USAGE_FLUSH_S": "1"}
    killed = run(environment)
    killed.wait_until_healthy()
    assert killed.recommend("C001", key).status == 200
    assert killed.recommend("C002", key).status == 200

    def counted() -> int:
        return count_distinct([one["sketch"] for one in cloud.sketches(environment)])

    eventually(lambda: counted() == 2, "the flush")
    killed.process.kill()
    killed.wait_for_exit()
    after = run(environment)
    after.wait_until_healthy()
    assert after.recommend("C002", key).status == 200
    assert after.recommend("C003", key).status == 200
    eventually(lambda: counted() == 3, "the next instance's flush")


def test_firestore_away_requests_are_answered_and_usage_is_written_later(
    cloud: Cloud, run: Callable[..., Container]
) -> None:
    environment = {**cloud.deploy(models.write_good), "USAGE_FLUSH_S": "1"}
    container, key = run(environment), cloud.create_key()
    container.wait_until_healthy()
    for _ in range(20):  # Each worker has looked up the key then.
        assert container.recommend("C001", key).status == 200
    eventually(lambda: cloud.sketches(environment), "the first flush")
    cloud.firestore.stop()
    try:
        assert container.recommend("C002", key).status == 200
        eventually(lambda: container.logged("usage cannot be written"), "the flush's failure")
        assert container.recommend("C003", key).status == 200
    finally:
        cloud.firestore.start()
    eventually(
        lambda: count_distinct([one["sketch"] for one in cloud.sketches(environment)]) == 3,
        "the flush after the outage",
    )
    eventually(lambda: container.logged("usage can be written again"), "the log of it")


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_files_of_a_loaded_model_are_given_back_and_a_killed_container_leaves_none(
    cloud: Cloud, run: Callable[..., Container], tmp_path: Path
) -> None:
    container = run({**cloud.deploy(models.write_good), "TMPDIR": str(tmp_path)})
    container.wait_until_healthy()
    assert list(tmp_path.glob("model-*"))
    assert not list(tmp_path.rglob("saved_model.pb"))
    container.process.kill()
    eventually(lambda: not list(tmp_path.glob("model-*")), "the folder's end")
