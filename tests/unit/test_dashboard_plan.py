"""The endpoint behind `turnout plan`: over the real adapter of Firestore, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.cloud import firestore

from tests.dashboards import MODEL, Dashboard, firestore_here

MESSAGE: dict[str, Any] = {
    "schema_version": 1,
    "model_id": MODEL,
    "run_number": 50,
    "artifact_uri": f"gs://training/{MODEL}/run-50",
    "metrics": {"recall_at_100": 0.6, "recall_at_10": 0.1},
    "completed_at": "2026-11-24T14:00:00Z",
}


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        firestore_here(tmp_path_factory.mktemp("firestore"), monkeypatch) as client,
    ):
        made = Dashboard(client)
        made.declare(guard_metrics={"recall_at_10": 0.2})
        made.live(41)
        # Announces what the line above recorded, as every request that is no GET does.
        made.ask("POST", f"/api/models/{MODEL}/health-check/")
        yield made


def stored(client: firestore.Client) -> dict[str, Any]:
    """Every document, with when it was written last."""
    found: dict[str, Any] = {}

    def collect(collections: Any) -> None:
        for collection in collections:
            for document in collection.stream():
                found[document.reference.path] = (document.to_dict(), document.update_time)
                collect(document.reference.collections())

    collect(client.collections())
    return found


@pytest.mark.parametrize(
    ("changes", "outcome", "why"),
    [
        ({}, "started", "better: recall_at_100 0.6000 against 0.4680 live"),
        ({"metrics": {"recall_at_100": 0.1}}, "listed", "not better"),
        ({"model_id": "nobody"}, "refused", "there is no model 'nobody'"),
        ({"run_number": "seven"}, "refused", "run_number"),
        ({"unknown": 1}, "refused", "unknown"),
    ],
)
def test_plan_is_told_to_whoever_may_read_and_changes_no_document(
    dashboard: Dashboard, changes: dict[str, Any], outcome: str, why: str
) -> None:
    before = stored(dashboard.client)
    assert before
    answer = dashboard.ask("POST", "/api/plan/", "viewer", {**MESSAGE, **changes})
    assert answer.status_code == 200
    assert (answer.json["outcome"], why in answer.json["why"]) == (outcome, True)
    assert stored(dashboard.client) == before
    assert dashboard.topic.messages == []


def test_plan_holds_gate_steps_stages_and_checks(dashboard: Dashboard) -> None:
    found = dashboard.ask("POST", "/api/plan/", "viewer", MESSAGE).json
    assert (found["version"], found["deployment_id"]) == ("v2", "movies-50-auto")
    assert [one["metric"] for one in found["gate"]["compared"]] == ["recall_at_100", "recall_at_10"]
    assert "run-50/evaluation/results.jsonl" in found["gate"]["untested"]
    assert found["stages"] == [{"percent": 100, "bake_s": 0, "held": False}]
    assert found["steps"][0] == "copy_artifacts"
    assert {one["name"]: one["checking"] for one in found["checks"]} == {
        "model": "gate",
        "health": "gate",
        "skew": "report",
        "canary": "off",
    }


@pytest.mark.parametrize(("body", "status"), [("[1]", 400), ("nonsense", 400)])
def test_body_that_is_no_object_is_no_message(dashboard: Dashboard, body: str, status: int) -> None:
    answer = dashboard.ask(
        "POST", "/api/plan/", data=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
