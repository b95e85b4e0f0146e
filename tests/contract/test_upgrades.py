"""Documents, requests and messages of another release: read, or refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.cloud import firestore
from pydantic import ValidationError

from shared.domain.deployment import Deployment, Status
from shared.domain.model import Book, roll_back
from shared.gcp.firestore import FirestoreState
from shared.messages import (
    AbortDeployment,
    CheckHealth,
    ClaimDeployment,
    CopyArtifacts,
    CreateRevision,
    FinishDeployment,
    JudgeCanary,
    Message,
    PrepareModel,
    Reconcile,
    RollBack,
    ShiftTraffic,
    parse,
)
from tests.contract.firestore_backends import connected, local_firestore

AT = datetime(2026, 11, 24, 14, tzinfo=UTC)

# As the first release wrote them: what came later is not there.
FIRST_DEPLOYMENT: dict[str, Any] = {
    "id": "movies-1-auto",
    "model_id": "movies",
    "version": 1,
    "training_run": 1,
    "request_id": "auto",
    "artifact_uri": "gs://training/run-1",
    "config": {"model_id": "movies", "image": "serving", "service_account": "s@example.com"},
    "plan": {"strategy": "immediate", "stages": [{"percent": 100, "bake_s": 0}]},
    "deployed_by": "training",
    "created_at": AT,
    "status": "inactive",
    "token": 1,
    "cloud_run_revision": "model-serving-movies-v1-1",
    "deployed_at": AT,
    "steps": {"copy_artifacts": {"state": "done", "started_at": AT, "ended_at": AT}},
}
FIRST_MODEL: dict[str, Any] = {"id": "movies", "next_version": 2, "token": 1, "desired": {}}
FIRST_EVENT: dict[str, Any] = {
    "deployment_id": "movies-1-auto",
    "model_id": "movies",
    "at": AT,
    "actor": "training",
    "action": "requested",
    "reason": "",
}
FIRST_DECLARATION: dict[str, Any] = {
    "model_id": "movies",
    "image": "serving",
    "service_account": "s@example.com",
}


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[firestore.Client]:
    with (
        local_firestore(tmp_path) as address,
        connected(address, "test-upgrades", monkeypatch) as client,
    ):
        client.document("deployments/movies-1-auto").set(FIRST_DEPLOYMENT)
        client.document("deployments/movies-1-auto/events/1").set(FIRST_EVENT)
        client.document("models/movies").set(FIRST_MODEL)
        client.document("model_configs/movies").set(FIRST_DECLARATION)
        yield client


@pytest.fixture
def state(db: firestore.Client) -> FirestoreState:
    return FirestoreState(db)


def go_back(state: FirestoreState) -> Deployment:
    def move(book: Book) -> Deployment:
        return roll_back(book, "movies-1-auto", AT, "ops", "a test's")

    return state.change("movies", move)


def test_documents_of_the_first_release_are_read_and_can_be_gone_on_from(
    state: FirestoreState,
) -> None:
    found = state.deployment("movies-1-auto")
    assert (found.name, found.status, found.redeploys) == ("v1", Status.INACTIVE, None)
    assert state.model("movies").next_version == 2
    assert [one.action for one in state.events("movies-1-auto")] == ["requested"]
    assert state.declaration("movies")
    assert go_back(state).status is Status.ACTIVE
    assert state.model("movies").desired == {"model-serving-movies-v1-1": 100}


def test_field_of_a_later_release_is_passed_over_and_dropped_by_the_next_write(
    db: firestore.Client, state: FirestoreState
) -> None:
    for path in ("deployments/movies-1-auto", "models/movies"):
        db.document(path).update({"later": {"n": 1}})
    assert state.deployment("movies-1-auto").name == "v1"
    go_back(state)
    for path in ("deployments/movies-1-auto", "models/movies"):
        assert "later" not in (db.document(path).get().to_dict() or {})


def test_status_of_a_later_release_is_refused_by_name(
    db: firestore.Client, state: FirestoreState
) -> None:
    db.document("deployments/movies-1-auto").update({"status": "shadowing"})
    with pytest.raises(ValidationError, match="shadowing"):
        state.deployment("movies-1-auto")


def test_declaration_with_a_field_of_a_later_release_is_refused_by_name(
    db: firestore.Client, state: FirestoreState
) -> None:
    db.document("model_configs/movies").update({"warm_up": True})
    with pytest.raises(ValidationError, match="warm_up"):
        state.declaration("movies")


STEP = {"deployment_id": "movies-1-auto", "execution": "projects/p/executions/1"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ClaimDeployment, STEP),
        (CopyArtifacts, STEP),
        (PrepareModel, STEP),
        (CreateRevision, STEP),
        (CheckHealth, STEP),
        (ShiftTraffic, {**STEP, "percent": 10}),
        (JudgeCanary, STEP),
        (FinishDeployment, STEP),
        (AbortDeployment, {**STEP, "error": {"message": "why"}}),
        (RollBack, {"model_id": "movies"}),
        (Reconcile, {}),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_function_takes_what_executions_of_the_first_workflow_send(
    kind: type[Message], body: dict[str, Any]
) -> None:
    """A running execution keeps its definition while the functions are replaced below it."""
    assert parse(kind, body)
