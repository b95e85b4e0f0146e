"""Three disasters rehearsed under prediction traffic: documents restored, documents lost, a
service lost. `pytest -s tests/e2e/test_disaster.py` prints the figures.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.cloud import firestore
from google.cloud.firestore_admin_v1 import FirestoreAdminClient

from tests.e2e.traffic import SplitWatch, Traffic
from tests.e2e.world import PARENT, PROJECT, ROOT, World, clean_environment, message, until

MODEL = "rescued"
DATABASE = f"projects/{PROJECT}/databases/(default)"
BACKUPS = f"{PROJECT}-backups"
ENOUGH = 50
DECLARE = """
import sys
from pathlib import Path
from localcloud import project
from shared.config import Settings
settings = Settings.from_environment()
project.declare(settings, project.read_models(Path(sys.argv[1]), settings.project))
"""


class Disaster:
    """One model under traffic, and what befalls it."""

    def __init__(self, world: World, artifacts: dict[str, Path]) -> None:
        self.world = world
        self._artifacts = artifacts
        self._admin = world.client(FirestoreAdminClient)
        if not world.storage.bucket(BACKUPS).exists():
            world.storage.create_bucket(BACKUPS)

    def deploy(self, run: int, kind: str) -> None:
        """Bring a run to live, as training does."""
        uri = self.world.upload(self._artifacts[kind], MODEL, run)
        self.world.publish(message(MODEL, run, uri, strategy="immediate"))
        self.world.ended(f"{MODEL}-{run}-auto", "active")
        self.world.unlocked(MODEL)

    def export(self, *collections: str) -> str:
        """Export all documents, or some collections, as `gcloud` does; return where to."""
        request = {
            "name": DATABASE,
            "output_uri_prefix": f"gs://{BACKUPS}",
            "collection_ids": list(collections),
        }
        made = self._admin.export_documents(request=request).result(timeout=60)
        return str(made.output_uri_prefix)

    def bring_back(self, uri: str) -> None:
        """Import an export, as `gcloud firestore import` does."""
        request = {"name": DATABASE, "input_uri_prefix": uri}
        self._admin.import_documents(request=request).result(timeout=60)

    def lose(self) -> None:
        """Delete every document about the model, its API keys and its configuration too."""
        documents = self.world.documents
        for collection in ("deployments", "training_runs", "api_keys", "serving_metrics"):
            about = firestore.FieldFilter("model_id", "==", MODEL)
            for one in documents.collection(collection).where(filter=about).stream():
                documents.recursive_delete(one.reference)
        for collection in ("models", "model_configs"):
            documents.recursive_delete(documents.document(f"{collection}/{MODEL}"))

    def declare(self) -> None:
        """Apply the declaration again, as Terraform does."""
        world = self.world
        subprocess.run(
            [sys.executable, "-c", DECLARE, str(world.data.parent / "models.json")],
            cwd=ROOT,
            env={**clean_environment(), **world.environment},
            check=True,
            timeout=60,
        )

    def roll_back(self, version: int) -> None:
        """Go back to a version whose revision is there."""
        done = self.world.call("roll_back", {"model_id": MODEL, "version": version})
        assert done.status_code == 200, done.text
        self.world.unlocked(MODEL)

    def recover(self, *options: str) -> dict[str, Any]:
        """Run `turnout recover`; return what it said of the model."""
        said = self.world.turnout_json("recover", MODEL, *options)
        [found] = said["models"]
        return dict(found)

    def status(self) -> dict[str, str]:
        """Return the status of each version."""
        found = self.world.deployments(MODEL)
        return {f"v{one['version']}": str(one["status"]) for one in found}


@pytest.fixture(scope="module")
def disaster(world: World, artifacts: dict[str, Path]) -> Disaster:
    """Version 1 is live."""
    made = Disaster(world, artifacts)
    made.deploy(1, "good")
    return made


@pytest.fixture(scope="module")
def key(disaster: Disaster) -> str:
    """An API key that is older than every export."""
    return disaster.world.key(MODEL)


@contextmanager
def rehearsed(disaster: Disaster, key: str, what: str) -> Iterator[Traffic]:
    """Ask all the while, print the figures, and fail where a request did or traffic moved."""
    world = disaster.world
    with (
        SplitWatch(lambda: world.service(MODEL)) as watch,
        Traffic(world.service(MODEL).uri, key) as traffic,
    ):
        until(lambda: traffic.versions().total() > ENOUGH, "the model answers")
        began = time.monotonic()
        yield traffic
        recovered_s = time.monotonic() - began
        asked = traffic.versions().total()
        until(lambda: traffic.versions().total() > asked + ENOUGH, "the model still answers")
    failures = traffic.failures()
    print(
        f"\n{what}: {len(traffic.answers)} requests, {len(failures)} failed, "
        f"recovered after {recovered_s:.1f} s",
        flush=True,
    )
    assert failures == []
    assert len(watch.splits()) == 1, watch.splits()


def test_documents_of_an_earlier_time_are_corrected_and_no_request_notices(
    disaster: Disaster, key: str
) -> None:
    world = disaster.world
    exported = disaster.export()
    disaster.deploy(2, "better")
    disaster.roll_back(1)
    disaster.roll_back(2)
    with rehearsed(disaster, key, "documents restored to an earlier time"):
        disaster.lose()
        disaster.bring_back(exported)
        assert disaster.status() == {"v1": "active"}
        for function, more in (("reconcile", {}), ("roll_back", {"version": 1})):
            refused = world.call(function, {"model_id": MODEL, **more})
            assert (refused.status_code, refused.json()["code"]) == (409, "state_is_older")
            assert f"turnout recover {MODEL}" in refused.json()["detail"]

        would = disaster.recover("--dry-run")["done"]
        assert disaster.status() == {"v1": "active"}
        assert disaster.recover()["done"] == would
        assert disaster.recover()["done"] == []
    assert disaster.status() == {"v1": "inactive", "v2": "active"}
    assert world.unlocked(MODEL)["next_version"] == 3
    assert world.reconcile(MODEL) == {}
    world.serves(MODEL, v2=100)


def test_documents_lost_altogether_are_told_from_what_serves_and_no_request_notices(
    disaster: Disaster, key: str
) -> None:
    world = disaster.world
    exported = disaster.export("api_keys")
    before = world.deployments(MODEL)
    with rehearsed(disaster, key, "all documents lost"):
        disaster.lose()
        disaster.declare()
        disaster.bring_back(exported)
        disaster.recover()
    assert disaster.status() == {"v1": "inactive", "v2": "active"}
    for old, new in zip(before, world.deployments(MODEL), strict=True):
        for name in ("id", "training_run", "artifact_uri", "artifact_digest", "metrics", "config"):
            assert new[name] == old[name], name
    assert world.reconcile(MODEL) == {}
    disaster.roll_back(1)
    world.serves(MODEL, v1=100)


def test_lost_service_serves_its_active_version_again_from_kept_artifacts(
    disaster: Disaster, key: str
) -> None:
    world = disaster.world
    began = time.monotonic()
    world.services.delete_service(name=f"{PARENT}/services/model-serving-{MODEL}").result(
        timeout=60
    )
    disaster.declare()
    world.serves(MODEL, v0=100)
    found = disaster.recover()
    assert "deploys its kept artifacts again" in found["done"][0]
    [made] = [one["id"] for one in world.deployments(MODEL) if one["status"] == "deploying"]
    world.ended(made, "active")
    took_s = time.monotonic() - began
    world.unlocked(MODEL)
    with Traffic(world.service(MODEL).uri, key) as traffic:
        until(lambda: traffic.versions()["v3"] > ENOUGH, "version 3 answers")
    print(f"\nservice lost: answers again after {took_s:.1f} s", flush=True)
    assert traffic.failures() == []
    assert disaster.recover()["done"] == []
    assert disaster.status() == {"v1": "inactive", "v2": "rolled_back", "v3": "active"}
    unknown = world.turnout_json("recover", "no-such-model", exits=1)
    assert unknown["failed"]["no-such-model"]["code"] == "not_found"
