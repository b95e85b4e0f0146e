"""Models and containers that are broken, each in its own way, in a real cloud.

All of them are published at once, each for a model of its own: first broken while nothing is
live, then a good run for each, then (for some) broken again under traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.containers import DEAF_REASON, LAST_WORDS, REPLACED_FILE
from tests.e2e.declarations import BROKEN_ARTIFACTS
from tests.e2e.traffic import Traffic
from tests.e2e.world import SERVING, World, message, version_of

STEPS = [
    "copy_artifacts",
    "prepare_model",
    "configure_service",
    "deploy_revision",
    "health_checks",
    "switch_traffic",
]


@dataclass(frozen=True)
class Expected:
    """In which step a fault is found, and what the reason must say for a person to act on it."""

    step: str
    says: tuple[str, ...]


EXPECTED = {
    "missing": Expected(
        "copy_artifacts",
        (
            "gs://turnout-local-training/missing/run-1 holds no saved_model/saved_model.pb",
            "export the model as a SavedModel and publish again",
        ),
    ),
    "occupied": Expected(
        "copy_artifacts",
        (
            f"gs://{SERVING}/models/occupied/v1/{REPLACED_FILE} differs from its source",
            "publish the run again with a new request id",
        ),
    ),
    "corrupt": Expected(
        "prepare_model",
        ("the SavedModel cannot be loaded", "saved_model.pb"),
    ),
    "unknown-signature": Expected(
        "prepare_model",
        (
            "it needs query_model and brute_force_index, or a serving_default signature; "
            "it offers embed, predict",
        ),
    ),
    "nan": Expected("prepare_model", ("a score that is not a finite number",)),
    "aborting": Expected("prepare_model", ("terminated on signal 6", "its logs: ")),
    "crash": Expected("deploy_revision", ("exited with code 3", LAST_WORDS)),
    "deaf": Expected(
        "deploy_revision",
        ("failed the configured startup probe checks (10 x 1 s)", "/health", DEAF_REASON),
    ),
    "replace": Expected(
        "deploy_revision",
        (
            f"gs://{SERVING}/models/replace/v1/{REPLACED_FILE} does not exist in generation",
            "deploy the training run again",
        ),
    ),
    "rewrite": Expected(
        "deploy_revision",
        ("manifest.json: digest of its files is sha256:", "deploy the training run again"),
    ),
    "wrong-recall": Expected(
        "health_checks",
        (
            "Recall@100 through the endpoint is 0.0000",
            "training reported 0.4700",
            "are these the artifacts of that run",
        ),
    ),
    "one-list": Expected(
        "health_checks",
        ("all 20 known held-out customers get the same products in the same order",),
    ),
    "nan-for-one": Expected(
        "health_checks", ("customer 'C-NAN'", "a score that is not a finite number")
    ),
}
HELD_OUT = ("wrong-recall", "one-list")
UNDER_TRAFFIC = ("missing", "nan", "nan-for-one", "crash")


@pytest.fixture(scope="module")
def failed(world: World, artifacts: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Run 1 of every model, ended."""
    occupied = world.storage.bucket(SERVING).blob(f"models/occupied/v1/{REPLACED_FILE}")
    occupied.upload_from_string(b"left by somebody", if_generation_match=0)
    for model, kind in BROKEN_ARTIFACTS.items():
        world.publish(message(model, 1, world.upload(artifacts[kind], model, 1)))
    return {model: world.ended(f"{model}-1-auto", "failed") for model in BROKEN_ARTIFACTS}


def test_every_broken_model_has_an_expectation() -> None:
    assert set(EXPECTED) == set(BROKEN_ARTIFACTS)


@pytest.mark.parametrize("model", EXPECTED)
class TestABrokenModel:
    def test_fails_with_a_reason_to_act_on(
        self, model: str, failed: dict[str, dict[str, Any]]
    ) -> None:
        for phrase in EXPECTED[model].says:
            assert phrase in failed[model]["reason"]

    def test_leaves_the_traffic_where_it_was(
        self, model: str, world: World, failed: dict[str, dict[str, Any]]
    ) -> None:
        world.serves(model, v0=100)
        assert failed[model]["traffic_percent"] == 0
        assert failed[model]["deployed_at"] is None
        answer = requests.get(f"{world.service(model).uri}/health", timeout=60)
        assert answer.status_code == 503
        assert "no model is deployed yet" in answer.json()["reason"]

    def test_is_told_by_its_history(
        self, model: str, world: World, failed: dict[str, dict[str, Any]]
    ) -> None:
        deployment = failed[model]
        found_in = EXPECTED[model].step
        reached = STEPS[: STEPS.index(found_in) + 1]
        states = {name: step["state"] for name, step in deployment["steps"].items()}
        assert states == {**dict.fromkeys(reached, "done"), found_in: "failed"}
        record = deployment["steps"][found_in]
        assert record["error"].startswith(deployment["reason"][:200])
        assert record["started_at"] <= record["ended_at"] <= deployment["deactivated_at"]

        # Reconcile may come by while the traffic goes back, and complete that as well.
        events = [one for one in world.events(deployment["id"]) if one["actor"] != "reconcile"]
        assert [event["action"] for event in events] == ["requested", "started", "failed"]
        requested, started, ended = events
        assert (requested["actor"], requested["after"]) == ("training", "deploying")
        assert started["traffic"] == {f"model-serving-{model}-v0-1": 100}
        assert (ended["actor"], ended["before"], ended["after"]) == (
            "pipeline",
            "deploying",
            "failed",
        )
        assert ended["reason"] == deployment["reason"]
        assert requested["at"] <= started["at"] <= ended["at"] == deployment["deactivated_at"]


@pytest.fixture(scope="module")
def recovered(
    world: World, artifacts: dict[str, Path], failed: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """A good run 2 of every model, live."""
    for model in failed:
        kind = "good-held-out" if model in HELD_OUT else "good"
        world.publish(message(model, 2, world.upload(artifacts[kind], model, 2)))
    return {model: world.ended(f"{model}-2-auto", "active") for model in failed}


@pytest.mark.parametrize("model", EXPECTED)
def test_a_good_run_is_deployed_after_the_broken_one(
    model: str, world: World, recovered: dict[str, dict[str, Any]]
) -> None:
    assert recovered[model]["version"] == 2
    assert [one["status"] for one in world.deployments(model)] == ["failed", "active"]
    assert world.unlocked(model)["active"] == f"{model}-2-auto"
    world.serves(model, v2=100)


@pytest.fixture(scope="module")
def failed_again(
    world: World, artifacts: dict[str, Path], recovered: dict[str, dict[str, Any]]
) -> dict[str, Traffic]:
    """Run 3 of some models, as broken as run 1, ended, while run 2 answered all the time."""
    load = {
        model: Traffic(world.service(model).uri, world.key(model), threads=1, per_second=10)
        for model in UNDER_TRAFFIC
    }
    for traffic in load.values():
        traffic.__enter__()
    try:
        for model in UNDER_TRAFFIC:
            kind = BROKEN_ARTIFACTS[model]
            uri = world.upload(artifacts[kind], model, 3)
            world.publish(message(model, 3, uri, requested_by="ann@example.com"))
        for model in UNDER_TRAFFIC:
            world.ended(f"{model}-3-auto", "failed")
            world.unlocked(model)
    finally:
        for traffic in load.values():
            traffic.__exit__(None, None, None)
    assert recovered
    return load


@pytest.mark.parametrize("model", UNDER_TRAFFIC)
def test_a_broken_run_does_not_disturb_the_live_version(
    model: str, world: World, failed_again: dict[str, Traffic]
) -> None:
    traffic = failed_again[model]
    assert traffic.failures() == []
    assert set(traffic.versions()) == {"v2"}
    world.serves(model, v2=100)
    statuses = [one["status"] for one in world.deployments(model)]
    assert statuses == ["failed", "active", "failed"]
    broken = world.deployments(model)[-1]
    for phrase in EXPECTED[model].says:
        assert phrase.replace("run-1", "run-3") in broken["reason"]
    assert {version_of(name) for name in broken["snapshot"]} == {"v2"}
    requested = world.events(broken["id"])[0]
    assert requested["actor"] == "ann@example.com"
