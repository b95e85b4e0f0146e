"""Prepared answers in a real container: the job that writes them, and who serves what meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.artifacts import ManifestFile, digest_of
from tests import models
from tests.e2e.test_serving_container import (
    DEADLINE_S,
    ROOT,
    Cloud,
    Container,
    eventually,
    start_task,
)

TOP_K = 20


@dataclass(frozen=True)
class World:
    """A cloud with a prepared version, whose model loads once the file `gate` exists."""

    cloud: Cloud
    key: str
    revision: dict[str, str]
    gate: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cloud")
    gate = folder / "gate"
    cloud = Cloud(folder)
    cloud.start()
    gate.touch()
    revision = cloud.prepare(
        cloud.deploy(partial(models.write_gated, gate=gate), models.WAITING_OPS), tasks=2
    )
    gate.unlink()
    yield World(cloud, cloud.create_key(), revision, gate)
    cloud.stop()


@pytest.fixture
def run() -> Iterator[Callable[[dict[str, str]], Container]]:
    """Start containers that end with the test."""
    started: list[Container] = []

    def start(environment: dict[str, str]) -> Container:
        started.append(Container(environment))
        return started[-1]

    yield start
    for container in started:
        container.stop()


@pytest.fixture(scope="module")
def loading(world: World) -> Iterator[Container]:
    """A container that serves prepared answers, and whose model loads until the gate opens."""
    container = Container(world.revision)
    try:
        wait_until_prepared(container)
        yield container
    finally:
        container.stop()


@pytest.fixture(scope="module")
def both(world: World, loading: Container) -> Iterator[tuple[Container, Container]]:
    """The same container with its model, and one that has the model alone."""
    world.gate.touch()
    model_alone = Container({**world.revision, "PREPARED_DIGEST": ""})
    try:
        loading.wait_until_healthy()
        model_alone.wait_until_healthy()
        yield loading, model_alone
    finally:
        model_alone.stop()
        world.gate.unlink(missing_ok=True)


def wait_until_prepared(container: Container) -> None:
    """Wait until the port listens and every worker serves prepared answers, whichever is asked."""
    container.wait_until_listening()
    eventually(lambda: container.logged_by_every_worker("prepared answers served"), "the tables")


def ask(container: Container, key: str, customers: list[str], k: int) -> list[dict[str, Any]]:
    body = {"customer_ids": customers, "top_k": k}
    answer = container.request("POST", "/recommend-batch", body, Authorization=f"Bearer {key}")
    assert answer.status == 200, answer.text
    results: list[dict[str, Any]] = answer.json["results"]
    return results


def test_prepared_answers_are_served_before_the_model_is_loaded(
    world: World, loading: Container
) -> None:
    health = loading.request("GET", "/health")
    assert (health.status, health.json["status"]) == (200, "loading")
    assert health.json["paths"] == {"prepared": "ready", "model": "loading"}
    assert health.json["prepared_customers"] == len(models.CUSTOMERS)
    assert health.json["prepared_top_k"] == TOP_K
    answer = loading.recommend("C001", world.key, top_k=TOP_K)
    assert (answer.status, len(answer.json["recommendations"])) == (200, TOP_K)
    assert len(ask(loading, world.key, models.CUSTOMERS, 3)) == len(models.CUSTOMERS)
    too_many = loading.recommend("C001", world.key, top_k=len(models.PRODUCTS) + 1)
    assert (too_many.status, too_many.json["code"]) == (400, "top_k_out_of_range")
    assert loading.logged("model loaded") is None


def test_model_loaded_both_paths_are_ready(both: tuple[Container, Container]) -> None:
    prepared, model_alone = both
    health = prepared.request("GET", "/health").json
    assert (health["status"], health["customers"]) == ("healthy", len(models.CUSTOMERS))
    assert health["paths"] == {"prepared": "ready", "model": "ready"}
    assert model_alone.request("GET", "/health").json["paths"]["prepared"] == "none"


def test_table_answers_as_the_model_for_every_customer_and_every_k(
    world: World, both: tuple[Container, Container]
) -> None:
    for k in range(1, TOP_K + 1):
        assert_same(*(ask(one, world.key, models.CUSTOMERS, k) for one in both))


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Fail unless customers and products are the same, and scores but for rounding."""
    for one, other in zip(found, expected, strict=True):
        names, scores = parts(one)
        expected_names, expected_scores = parts(other)
        assert names == expected_names
        # A sum near zero has the rounding of its parts, which are as large as the best.
        near = 1e-6 * max(map(abs, expected_scores))
        assert scores == pytest.approx(expected_scores, rel=1e-6, abs=near)


def parts(result: dict[str, Any]) -> tuple[list[Any], list[float]]:
    items = result["recommendations"]
    names = [result["customer_id"], result.get("known"), *(item["product_id"] for item in items)]
    return names, [item["score"] for item in items]


@pytest.mark.parametrize(
    ("customers", "k"),
    [
        pytest.param(["nobody"], 3, id="unknown customer"),
        pytest.param(["C001"], TOP_K + 1, id="more than prepared"),
        pytest.param(["C001"], len(models.PRODUCTS), id="all products"),
        pytest.param(["C005", "nobody", "C001", "C005", "somebody"], 3, id="mixed batch"),
        pytest.param(["x", *models.CUSTOMERS] * 40, 7, id="large mixed batch"),
    ],
)
def test_what_is_not_prepared_is_the_models_answer(
    world: World, both: tuple[Container, Container], customers: list[str], k: int
) -> None:
    found, expected = (ask(one, world.key, customers, k) for one in both)
    assert_same(found, expected)
    unknown = [result["customer_id"] for result in found if "known" in result]
    assert unknown == [id_ for id_ in customers if id_ not in models.CUSTOMERS]


def _wrong_digest(_: World, environment: dict[str, str]) -> None:
    environment["PREPARED_DIGEST"] = "sha256:" + "0" * 64


def _changed_table(world: World, environment: dict[str, str]) -> None:
    path = _manifest(world, environment)["files"][0]["path"]
    blob = world.cloud.bucket.blob(_name(environment, path))
    blob.upload_from_string(blob.download_as_bytes()[:-1] + b"!")


def _tables_of_another_model(world: World, environment: dict[str, str]) -> None:
    # The manifest is consistent in itself; what it names was prepared from other artifacts.
    files = []
    for number, file in enumerate(_manifest(world, world.revision)["files"]):
        content = world.cloud.bucket.blob(_name(world.revision, file["path"])).download_as_bytes()
        path = f"prepared/foreign-{number}.table"
        blob = world.cloud.bucket.blob(_name(environment, path))
        blob.upload_from_string(content)
        files.append({**file, "path": path, "generation": int(blob.generation)})
    digest = digest_of(ManifestFile(**file) for file in files)
    changed = {**_manifest(world, environment), "files": files, "digest": digest}
    _put_manifest(world, environment, changed)
    environment["PREPARED_DIGEST"] = digest


def _one_shard_left_out(world: World, environment: dict[str, str]) -> None:
    manifest = _manifest(world, environment)
    manifest["files"].pop()
    manifest["digest"] = digest_of(ManifestFile(**file) for file in manifest["files"])
    _put_manifest(world, environment, manifest)
    environment["PREPARED_DIGEST"] = manifest["digest"]


def _manifest(world: World, environment: dict[str, str]) -> dict[str, Any]:
    blob = world.cloud.bucket.blob(_name(environment, "prepared/manifest.json"))
    manifest: dict[str, Any] = json.loads(blob.download_as_bytes())
    return manifest


def _put_manifest(world: World, environment: dict[str, str], manifest: dict[str, Any]) -> None:
    blob = world.cloud.bucket.blob(_name(environment, "prepared/manifest.json"))
    blob.upload_from_string(json.dumps(manifest))


def _name(environment: dict[str, str], path: str) -> str:
    return environment["MODEL_PATH"].split("/", 3)[3] + path


@pytest.fixture(scope="module")
def other(world: World) -> dict[str, str]:
    """A prepared version that may be tampered with, one after the other."""
    world.gate.touch()
    return world.cloud.prepare(world.cloud.deploy(models.write_good), tasks=2)


@pytest.mark.parametrize(
    ("tamper", "code", "reason"),
    [
        (_wrong_digest, "artifact_mismatch", "prepared/manifest.json: digest is"),
        (_one_shard_left_out, "artifact_mismatch", "not one whole set"),
        (_tables_of_another_model, "artifact_mismatch", "another model's"),
        (_changed_table, "artifact_unavailable", "table does not exist in generation"),
    ],
)
def test_prepared_answers_that_are_not_the_deployed_ones_are_not_served(
    world: World,
    other: dict[str, str],
    run: Callable[[dict[str, str]], Container],
    tamper: Callable[[World, dict[str, str]], None],
    code: str,
    reason: str,
) -> None:
    environment = dict(other)
    before = _manifest(world, environment)
    tamper(world, environment)
    container = run(environment)
    assert container.wait_for_exit() == 1
    _put_manifest(world, environment, before)
    line = container.logged("model failed to load")
    assert line is not None
    assert line["code"] == code
    assert reason in line["reason"]
    assert container.logged("healthy") is None


def engine_of(container: Container) -> psutil.Process:
    """Return the process that holds the model."""
    main = psutil.Process(container.process.pid)
    [engine] = [child for child in main.children() if "serving.engine" in child.cmdline()]
    return engine


def test_engine_killed_those_who_wait_are_told_and_the_container_ends_with_1(
    world: World, run: Callable[[dict[str, str]], Container], tmp_path: Path
) -> None:
    container = run(world.cloud.deploy(models.write_holding, models.WAITING_OPS))
    container.wait_until_healthy()
    held = tmp_path / "held"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(container.recommend, f"{models.HOLD}{held}", world.key)
        eventually(held.with_suffix(".started").exists, "the request's start")
        engine_of(container).kill()
        answer = asked.result(DEADLINE_S)
    assert (answer.status, answer.json.get("code")) == (503, "model_not_ready"), answer.text
    assert "has ended" in answer.json["detail"]
    assert container.wait_for_exit() == 1
    assert container.logged("the model's process ended")


@pytest.mark.parametrize("victim", ["main", "worker", "engine"])
def test_process_killed_while_the_model_loads_leaves_none_behind(
    world: World, run: Callable[[dict[str, str]], Container], victim: str
) -> None:
    world.gate.unlink(missing_ok=True)
    container = run(world.revision)
    wait_until_prepared(container)
    main, engine = psutil.Process(container.process.pid), engine_of(container)
    others = main.children(recursive=True)
    workers = [child for child in main.children() if child.pid != engine.pid]
    {"main": main, "worker": workers[0], "engine": engine}[victim].kill()
    code = container.wait_for_exit()
    _, alive = psutil.wait_procs(others, timeout=DEADLINE_S)
    assert not alive
    assert code == (-signal.SIGKILL if victim == "main" else 1)


def finish(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]]]:
    """Wait for a task; return its exit code and its log lines."""
    output, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, [json.loads(line) for line in output.splitlines()]


def verdict_of(world: World, environment: dict[str, str]) -> dict[str, Any] | None:
    blob = world.cloud.bucket.get_blob(_name(environment, "prepared/task-00000-of-00001.json"))
    return json.loads(blob.download_as_bytes()) if blob else None


def test_task_done_before_is_done_again_and_changes_nothing(world: World) -> None:
    prefix = _name(world.revision, "prepared/")

    def there() -> list[tuple[str, int]]:
        blobs = world.cloud.bucket.list_blobs(prefix=prefix)
        return [(blob.name, int(blob.generation)) for blob in blobs]

    before = there()
    code, lines = finish(start_task(world.revision, 1, 2))
    assert (code, lines[-1]["message"]) == (0, "prepared")
    assert there() == before


def test_task_with_a_model_that_cannot_be_served_ends_with_1_and_a_verdict(world: World) -> None:
    environment = world.cloud.deploy(models.write_nan_scores)
    code, lines = finish(start_task(environment))
    assert (code, lines[-1]["message"]) == (1, "model refused")
    verdict = verdict_of(world, environment)
    assert verdict is not None
    assert verdict["code"] == "model_warm_up"
    assert verdict["refused"] == lines[-1]["reason"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"MODEL_PATH": "gs://no-such-bucket/x/"}, "artifact_unavailable", id="away"),
        pytest.param({"PREPARED_TOP_K": "many"}, "invalid_configuration", id="environment"),
        pytest.param({"MODEL_PATH": ""}, "invalid_configuration", id="no model"),
    ],
)
def test_task_that_may_go_better_next_time_ends_with_1_and_no_verdict(
    world: World, changes: dict[str, str], code: str
) -> None:
    environment = {**world.revision, "MODEL_VERSION": "v99", **changes}
    exit_code, lines = finish(start_task(environment))
    assert (exit_code, lines[-1]["message"], lines[-1]["code"]) == (1, "preparing failed", code)
    assert verdict_of(world, world.revision) is None


def test_argument_that_means_nothing_is_refused() -> None:
    command = [sys.executable, "-m", "serving", "prepared"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "prepare" in ended.stderr
