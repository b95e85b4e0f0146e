"""A finished run goes to real listeners of Storage and Pub/Sub through Google's own clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.cloud import storage
from google.pubsub_v1.types import Encoding

from examples.movielens.message import Deploy
from examples.movielens.publish import NotPublishable, Published, Target, publish_run
from examples.movielens.report import Report
from examples.movielens.upload import ArtifactConflict
from localcloud.storage import Storage
from shared.messages import TrainingCompleted, parse
from tests.contract.listener import listening
from tests.contract.pubsub_backends import local_pubsub
from tests.contract.pubsub_cloud import Cloud, connected

TARGET = Target("turnout-local", "turnout-local-training", "movies", "training-completed")
SCHEMA = Path(__file__).parents[2] / "shared/training_completed.proto"
REPORT = Report(
    run_number=7,
    fold="held_out",
    settings={"id": "movielens-small", "name": "Small embeddings"},
    dataset={"name": "MovieLens latest-small (dslabs)", "version": 1},
    counts={},
    metrics={"recall_at_10": 0.03, "recall_at_50": 0.13, "recall_at_100": 0.22},
    comparison={},
    against_item_knn={},
    training_seconds=3.0,
    completed_at="2026-11-24T14:00:00Z",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run as training leaves it, with little in its files."""
    folder = tmp_path / "run-7"
    (folder / "saved_model/variables").mkdir(parents=True)
    (folder / "saved_model/saved_model.pb").write_bytes(b"graph")
    (folder / "saved_model/variables/variables.index").write_bytes(b"")
    (folder / "customers.txt").write_text("1\n2\n")
    REPORT.write(folder)
    return folder


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[storage.Client]:
    service = Storage(tmp_path / "storage")
    service.start()
    with listening(service.app()) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")
        client = storage.Client(project=TARGET.project)
        client.create_bucket(TARGET.bucket)
        yield client
    service.stop()


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Pub/Sub with the topic, its schema attached as in production, and one subscription."""
    with (
        local_pubsub(tmp_path) as address,
        connected(address, TARGET.project, monkeypatch) as cloud,
    ):
        schema = cloud.schemas.create_schema(
            request={
                "parent": f"projects/{TARGET.project}",
                "schema_id": "training-completed",
                "schema": {"type_": "PROTOCOL_BUFFER", "definition": SCHEMA.read_text("utf-8")},
            }
        )
        settings = {"schema": schema.name, "encoding": Encoding.JSON}
        cloud.make_topic(TARGET.topic, schema_settings=settings)
        cloud.make_subscription(topic=TARGET.topic)
        yield cloud


@pytest.mark.usefixtures("client")
def test_without_a_project_the_local_cloud_that_runs_is_told(
    folder: Path, cloud: Cloud, tmp_path: Path
) -> None:
    told = ("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST")
    local = {
        **{name: os.environ[name] for name in told},
        "TURNOUT_PROJECT": TARGET.project,
        "TURNOUT_TRAINING_BUCKETS": f"{TARGET.bucket},another",
    }
    written = {"pid": os.getpid(), "environment": local}
    (tmp_path / "cloud.json").write_text(json.dumps(written))
    published = run_command(folder, TURNOUT_DATA=str(tmp_path))
    assert published.returncode == 0, published.stderr
    assert f"gs://{TARGET.bucket}/movies/run-7" in published.stdout
    assert received(cloud)["run_number"] == 7

    (tmp_path / "cloud.json").unlink()
    alone = run_command(folder, TURNOUT_DATA=str(tmp_path))
    assert alone.returncode == 2
    assert "turnout up" in alone.stderr


def run_command(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Publish a run as somebody does whose shell says nothing of a cloud."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "examples.movielens.publish"),
            *("--run", "7", "--output", str(folder.parent)),
        ],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def publish(
    folder: Path, client: storage.Client, cloud: Cloud, deploy: Deploy | None = None
) -> Published:
    return publish_run(
        folder, TARGET, deploy or Deploy(), storage_client=client, publisher=cloud.publisher
    )


def stored(client: storage.Client) -> dict[str, bytes]:
    return {blob.name: blob.download_as_bytes() for blob in client.list_blobs(TARGET.bucket)}


def received(cloud: Cloud) -> dict[str, Any]:
    (message,) = cloud.pull()
    cloud.acknowledge(message)
    decoded: dict[str, Any] = json.loads(message.message.data)
    return decoded


def test_published_run_is_in_the_bucket_and_its_message_passes_the_topics_schema(
    folder: Path, client: storage.Client, cloud: Cloud
) -> None:
    published = publish(folder, client, cloud)
    assert stored(client) == {
        f"movies/run-7/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    message = received(cloud)
    assert message == published.message
    assert message == {
        "schema_version": 1,
        "model_id": "movies",
        "run_number": 7,
        "artifact_uri": "gs://turnout-local-training/movies/run-7",
        "feature_config": {"id": "movielens-small", "name": "Small embeddings"},
        "dataset": {"name": "MovieLens latest-small (dslabs)", "version": 1},
        "metrics": {"recall_at_10": 0.03, "recall_at_50": 0.13, "recall_at_100": 0.22},
        "completed_at": "2026-11-24T14:00:00Z",
    }
    assert parse(TrainingCompleted, message).deploy is None


def test_message_carries_only_what_was_asked_of_the_deployment(
    folder: Path, client: storage.Client, cloud: Cloud
) -> None:
    deploy = Deploy(
        when="always",
        strategy="gradual",
        steps_percent=[10, 50, 100],
        over="1m",
        requested_by="ops@example.com",
    )
    publish(folder, client, cloud, deploy)
    message = received(cloud)
    assert message["deploy"] == {
        "when": "always",
        "strategy": "gradual",
        "steps_percent": [10, 50, 100],
        "over": "1m",
        "requested_by": "ops@example.com",
    }
    understood = parse(TrainingCompleted, message).deploy
    assert understood is not None
    assert understood.request_id == "auto"


def test_run_published_again_changes_no_object_and_sends_the_same_message(
    folder: Path, client: storage.Client, cloud: Cloud
) -> None:
    first = publish(folder, client, cloud)
    generations = {blob.name: blob.generation for blob in client.list_blobs(TARGET.bucket)}
    second = publish(folder, client, cloud)
    assert second.message == first.message
    assert generations == {blob.name: blob.generation for blob in client.list_blobs(TARGET.bucket)}


def test_upload_that_was_cut_short_is_completed(
    folder: Path, client: storage.Client, cloud: Cloud
) -> None:
    client.bucket(TARGET.bucket).blob("movies/run-7/customers.txt").upload_from_string("1\n2\n")
    publish(folder, client, cloud)
    assert len(stored(client)) == 4


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("customers.txt", id="a file with other content"),
        pytest.param("saved_model/assets/more.txt", id="a file the run does not have"),
    ],
)
def test_other_run_under_the_same_number_is_refused_and_nothing_is_announced(
    folder: Path, client: storage.Client, cloud: Cloud, name: str
) -> None:
    client.bucket(TARGET.bucket).blob(f"movies/run-7/{name}").upload_from_string("other")
    before = stored(client)
    with pytest.raises(ArtifactConflict, match="under another --run number"):
        publish(folder, client, cloud)
    assert stored(client) == before
    assert cloud.pull_now() == []


def test_run_with_a_longer_number_is_not_mistaken_for_this_one(
    folder: Path, client: storage.Client, cloud: Cloud
) -> None:
    client.bucket(TARGET.bucket).blob("movies/run-71/customers.txt").upload_from_string("other")
    publish(folder, client, cloud)
    assert len(stored(client)) == 5


def test_run_that_tried_settings_is_not_announced(
    folder: Path, client: storage.Client, cloud: Cloud
) -> None:
    replace(REPORT, fold="validation").write(folder)
    with pytest.raises(NotPublishable, match="validation fold"):
        publish(folder, client, cloud)
    assert stored(client) == {}
    assert cloud.pull_now() == []


def publish_by_command(folder: Path, topic: str = TARGET.topic) -> subprocess.CompletedProcess[str]:
    """Publish in a process that finds both services through its environment."""
    options = {
        "run": 7,
        "output": folder.parent,
        "project": TARGET.project,
        "bucket": TARGET.bucket,
        "topic": topic,
        "when": "always",
        "strategy": "gradual",
        "steps": "25,100",
        "over": "10s",
        "request-id": "again-1",
    }
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "examples.movielens.publish",
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_says_what_it_published(folder: Path, client: storage.Client, cloud: Cloud) -> None:
    finished = publish_by_command(folder)
    assert finished.returncode == 0, finished.stderr
    assert "Uploaded to gs://turnout-local-training/movies/run-7" in finished.stdout
    assert len(stored(client)) == 4
    assert received(cloud)["deploy"] == {
        "when": "always",
        "strategy": "gradual",
        "steps_percent": [25, 100],
        "over": "10s",
        "request_id": "again-1",
    }


@pytest.mark.usefixtures("client", "cloud")
def test_command_for_a_topic_that_is_not_there_fails_with_the_reason(folder: Path) -> None:
    finished = publish_by_command(folder, topic="not-there")
    assert finished.returncode == 1
    assert finished.stderr.startswith("Error: 404")
    assert "not-there" in finished.stderr
