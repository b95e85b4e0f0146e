"""What the local cloud declares of a file of models, through Google's clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore

from localcloud import project
from localcloud.storage import Storage
from shared import wiring
from shared.config import Settings
from tests.contract.firestore_backends import connected, local_firestore
from tests.contract.listener import listening
from tests.contract.pubsub_backends import local_pubsub
from tests.contract.run_world import PARENT, PROJECT, REGION, World, world

ELSEWHERE = f"projects/{PROJECT}/locations/us-east1"


class Declared:
    """A local cloud's parts, and the file of models that is declared in it."""

    def __init__(self, run: World, documents: firestore.Client, file: Path) -> None:
        self.run = run
        self._documents = documents
        self._file = file
        self._settings = Settings(
            PROJECT, REGION, "serving", frozenset({"training"}), "http://127.0.0.1:9", run.target
        )

    def declare(self, **models: dict[str, Any]) -> None:
        described = {name: {"image": "images/server", **model} for name, model in models.items()}
        self._file.write_text(json.dumps({"models": described}))
        project.declare(self._settings, project.read_models(self._file, PROJECT))

    def declaration(self, model_id: str) -> dict[str, Any]:
        return self._documents.document(f"model_configs/{model_id}").get().to_dict() or {}

    def names(self, parent: str) -> list[str]:
        """Return the names of the services and jobs of a region."""
        services = self.run.services.list_services(parent=parent)
        jobs = self.run.jobs.list_jobs(parent=parent)
        return [one.name.removeprefix(f"{parent}/") for one in (*services, *jobs)]


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Declared]:
    storage = Storage(tmp_path / "storage")
    storage.start()
    with (
        world(tmp_path) as run,
        local_pubsub(tmp_path) as pubsub,
        listening(storage.app()) as origin,
        local_firestore(tmp_path / "firestore") as address,
        connected(address, PROJECT, monkeypatch) as documents,
    ):
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{origin}")
        made = Declared(run, documents, tmp_path / "models.json")
        monkeypatch.setattr(wiring, "settings", lambda: made._settings)
        yield made
    storage.stop()


def test_model_is_made_in_the_region_that_it_is_declared_in(declared: Declared) -> None:
    for _ in range(2):
        declared.declare(movies={"region": "us-east1"}, books={})

        assert declared.names(ELSEWHERE) == ["services/model-serving-movies", "jobs/prepare-movies"]
        assert declared.names(PARENT) == ["services/model-serving-books", "jobs/prepare-books"]
        assert declared.declaration("movies")["region"] == "us-east1"
        assert declared.declaration("books")["region"] == ""


def test_model_declared_in_another_region_later_is_refused_and_stays_where_it_is(
    declared: Declared,
) -> None:
    declared.declare(movies={"region": "us-east1"})

    with pytest.raises(exceptions.MethodNotImplemented, match="two regions"):
        declared.declare(movies={"region": "us-west1"})

    assert declared.declaration("movies")["region"] == "us-east1"
    assert declared.names(ELSEWHERE) == ["services/model-serving-movies", "jobs/prepare-movies"]


def test_declaration_of_what_is_no_region_is_refused(declared: Declared) -> None:
    with pytest.raises(ValueError, match="region"):
        declared.declare(movies={"region": "europe"})
