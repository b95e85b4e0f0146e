"""What a training-completed message becomes: one deployment, a place in the queue, a refusal."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import InvalidArgument
from google.cloud.workflows import executions_v1

from tests.e2e.world import PARENT, TRAINING, World, message, until

WORKFLOW = f"{PARENT}/workflows/deploy-model"


def executions_of(world: World, deployment_id: str) -> list[executions_v1.Execution]:
    """Return the ended workflow executions of a deployment, once all have ended."""

    def ended() -> list[executions_v1.Execution] | None:
        request = {"parent": WORKFLOW, "view": executions_v1.ExecutionView.FULL}
        found = [
            execution
            for execution in world.executions.list_executions(request=request)
            if json.loads(execution.argument)["deployment_id"] == deployment_id
        ]
        return found if found and all(one.state.name != "ACTIVE" for one in found) else None

    return until(ended, f"the executions of {deployment_id} end")


@pytest.fixture(scope="module")
def published(world: World, artifacts: dict[str, Path]) -> dict[str, Any]:
    """Three times at once, then once more, when the version is live."""
    body = message("once", 1, world.upload(artifacts["good"], "once", 1))
    ids = [world.publish(body) for _ in range(3)]
    world.ended("once-1-auto", "active")
    ids.append(world.publish(body))
    for number in ids:
        world.outcome(number)
    return {"body": body, "ids": ids}


class TestTheSameMessage:
    """However often a message arrives, its run is deployed once."""

    @pytest.mark.usefixtures("published")
    def test_published_four_times_deploys_once(self, world: World) -> None:
        (deployment,) = world.deployments("once")
        assert (deployment["version"], deployment["status"]) == (1, "active")
        assert deployment["training_run"] == 1
        assert world.document("models/once")["next_version"] == 2  # type: ignore[index]
        assert world.revision_names("once") == [
            "model-serving-once-v0-1",
            "model-serving-once-v1-1",
        ]
        world.serves("once", v1=100)

    @pytest.mark.usefixtures("published")
    def test_its_history_tells_of_one_rollout(self, world: World) -> None:
        events = world.events("once-1-auto")
        assert [event["action"] for event in events] == [
            "requested",
            "started",
            "traffic wanted",
            "active",
        ]
        assert events[0]["actor"] == "training"
        assert events[0]["reason"] == "no version is active yet"
        assert events[2]["traffic"] == {"model-serving-once-v1-1": 100}
        assert all(event["at"] and event["actor"] and event["reason"] for event in events)

    @pytest.mark.usefixtures("published")
    def test_one_execution_did_the_work(self, world: World) -> None:
        results = [
            json.loads(execution.result) for execution in executions_of(world, "once-1-auto")
        ]
        assert results.count("once-1-auto is active") == 1
        assert set(results) <= {
            "once-1-auto is active",
            "once-1-auto belongs to another execution, or has ended",
        }

    def test_redelivered_under_its_old_id_changes_nothing(
        self, world: World, published: dict[str, Any]
    ) -> None:
        before = (world.deployments("once"), world.service("once").etag)
        data = base64.b64encode(json.dumps(published["body"]).encode()).decode()
        delivery = {
            "subscription": "projects/turnout-local/subscriptions/training-completed",
            "message": {
                "data": data,
                "messageId": published["ids"][0],
                "publishTime": "2026-11-24T14:00:00Z",
                "attributes": {},
            },
        }
        for _ in range(2):
            assert world.call("on_training_completed", delivery).ok
        assert (world.deployments("once"), world.service("once").etag) == before


BREAKS_THE_SCHEMA = {
    "not JSON": b"run 7 is done",
    "a field that the schema does not name": {"model": "untouched"},
    "a run number that is a word": {"run_number": "seven"},
    "metrics that are a list": {"metrics": [0.4]},
    "a deploy block with a field of its own": {"deploy": {"now": True}},
}


@pytest.mark.parametrize("wrong", BREAKS_THE_SCHEMA.values(), ids=BREAKS_THE_SCHEMA)
def test_a_message_that_breaks_the_schema_is_refused_at_publish(
    world: World, wrong: bytes | dict[str, Any]
) -> None:
    if isinstance(wrong, dict):
        wrong = json.dumps(message("untouched", 7, f"gs://{TRAINING}/u/run-7") | wrong).encode()
    with pytest.raises(InvalidArgument):
        world.publish(wrong)
    assert world.document("training_runs/untouched-7") is None


CANNOT_BE_RIGHT = {
    "unknown model": ({"model_id": "nobody"}, "there is no model 'nobody'"),
    "a model id that no service could have": ({"model_id": "No Such"}, "model_id"),
    "unknown schema version": ({"schema_version": 2}, "schema version 2 is unknown; send 1"),
    "no schema version": ({"schema_version": None}, "schema_version"),
    "a path with ..": (
        {"artifact_uri": f"gs://{TRAINING}/untouched/../../etc"},
        "artifact_uri must not contain empty parts, '.' or '..'",
    ),
    "no bucket": ({"artifact_uri": "/home/me/run-7"}, "artifact_uri looks like gs://BUCKET/FOLDER"),
    "a bucket that is not a training bucket": (
        {"artifact_uri": "gs://turnout-local-serving/models/once/v1"},
        "bucket 'turnout-local-serving' is not a training bucket (turnout-local-training)",
    ),
    "somebody else's bucket": (
        {"artifact_uri": "gs://stranger/untouched/run-7"},
        "bucket 'stranger' is not a training bucket",
    ),
    "other artifacts under a known run number": (
        {"run_number": 1, "artifact_uri": f"gs://{TRAINING}/untouched/elsewhere"},
        "run 1 of 'untouched' is known with the artifacts "
        f"'gs://{TRAINING}/untouched/run-1'; give the new ones another run number",
    ),
    "steps that go down": (
        {"deploy": {"when": "always", "strategy": "gradual", "steps_percent": [50, 10]}},
        "a rollout's steps ascend from 1 or more to 100",
    ),
    "a step of 0 percent": (
        {"deploy": {"when": "always", "strategy": "gradual", "steps_percent": [0, 50]}},
        "a rollout's steps ascend from 1 or more to 100",
    ),
    "a duration in words": ({"deploy": {"over": "an hour"}}, "a duration looks like 1h"),
    "a strategy that nobody knows": ({"deploy": {"strategy": "sudden"}}, "deploy.strategy"),
    "a request id that is a sentence": ({"deploy": {"request_id": "please, now!"}}, "request_id"),
    "a metric that is not a number": ({"metrics": {"recall_at_100": "NaN"}}, "recall_at_100"),
    "a time without a zone": ({"completed_at": "2026-11-24T14:00:00"}, "needs a time zone"),
}


@pytest.fixture(scope="module")
def listed_run(world: World) -> str:
    """Run 1 of `untouched` is known, and was not deployed."""
    uri = f"gs://{TRAINING}/untouched/run-1"
    assert world.outcome(world.publish(message("untouched", 1, uri, when="off"))) == "listed"
    return uri


@pytest.mark.usefixtures("listed_run")
@pytest.mark.parametrize(("wrong", "reason"), CANNOT_BE_RIGHT.values(), ids=list(CANNOT_BE_RIGHT))
def test_a_message_that_cannot_be_right_is_recorded_and_touches_nothing(
    world: World, wrong: dict[str, Any], reason: str
) -> None:
    def state() -> Any:
        return (
            world.service("untouched").etag,
            world.document("models/untouched"),
            world.deployments("untouched"),
            world.document("training_runs/untouched-1"),
            world.document("training_runs/untouched-7"),
            sorted(ref.id for ref in world.documents.collection("models").list_documents()),
        )

    before = state()
    body = message("untouched", 7, f"gs://{TRAINING}/untouched/run-7", request_id="mine") | wrong
    body = {name: value for name, value in body.items() if value is not None}
    message_id = world.publish(body)

    dead = world.dead_letter(message_id)
    assert json.loads(dead.data) == body
    assert dead.attributes["code"] == "message_refused"
    assert reason in dead.attributes["reason"]
    recorded = world.document(f"refused_messages/{message_id}")
    assert recorded is not None
    assert recorded["reason"] == dead.attributes["reason"]
    assert json.loads(recorded["data"]) == body
    assert recorded["at"]
    assert state() == before


@pytest.fixture(scope="module")
def queued(world: World, artifacts: dict[str, Path]) -> None:
    """While run 1 bakes, runs 2 and 4 arrive, and run 3 too late."""
    uris = {run: world.upload(artifacts["good"], "queue", run) for run in (1, 2, 3, 4)}
    slow = {"strategy": "gradual", "steps_percent": [50], "over": "6s"}
    world.publish(message("queue", 1, uris[1], **slow))
    until(lambda: world.deployment("queue-1-auto"), "run 1 is being deployed")
    for run in (2, 4, 3):
        world.outcome(world.publish(message("queue", run, uris[run], strategy="immediate")))


class TestTheQueue:
    """One rollout at a time; who comes meanwhile waits, and the quality gate judges everybody."""

    @pytest.mark.usefixtures("queued")
    def test_a_newer_run_waits_and_starts_after_the_rollout(self, world: World) -> None:
        waiting = world.deployment("queue-4-auto")
        first = world.deployment("queue-1-auto")
        assert waiting is not None
        assert first is not None
        assert (first["status"], waiting["status"], waiting["token"]) == (
            "deploying",
            "deploying",
            None,
        )
        last = world.ended("queue-4-auto", "active")
        first = world.ended("queue-1-auto", "inactive")
        assert first["deployed_at"] is not None
        claims = [event for event in world.events("queue-4-auto") if event["action"] == "started"]
        assert len(claims) == 1
        assert claims[0]["at"] >= first["deployed_at"]
        assert last["token"] > first["token"]
        world.unlocked("queue")
        world.serves("queue", **{f"v{last['version']}": 100})

    @pytest.mark.usefixtures("queued")
    def test_of_the_waiting_runs_the_newest_stays(self, world: World) -> None:
        for run in (2, 3):
            passed = world.ended(f"queue-{run}-auto", "cancelled")
            assert passed["reason"] == "run 4 is newer and takes the next turn"
        versions = [one["version"] for one in world.deployments("queue")]
        assert versions == [1, 2, 3, 4]

    @pytest.mark.usefixtures("queued")
    def test_a_run_that_is_not_better_is_listed_only(self, world: World) -> None:
        world.ended("queue-4-auto", "active")
        before = (world.deployments("queue"), world.service("queue").etag)
        worse = message("queue", 5, f"gs://{TRAINING}/queue/run-5")
        worse["metrics"]["recall_at_100"] = 0.31
        assert world.outcome(world.publish(worse)) == "listed"

        (run,) = [one for one in world.turnout_json("runs", "queue") if one["run_number"] == 5]
        decision = run["decisions"]["auto"]
        assert decision["deploy"] is False
        assert decision["why"] == (
            "not better by 0: recall_at_100 0.3100 against 0.4700 live (-0.1600)"
        )
        assert (world.deployments("queue"), world.service("queue").etag) == before

    @pytest.mark.usefixtures("queued")
    def test_a_better_run_is_deployed_by_its_own_metrics(
        self, world: World, artifacts: dict[str, Path]
    ) -> None:
        world.ended("queue-4-auto", "active")
        better = message("queue", 6, world.upload(artifacts["better"], "queue", 6))
        better["metrics"]["recall_at_100"] = 0.48
        world.publish(better)
        world.ended("queue-6-auto", "active")
        reason = world.events("queue-6-auto")[0]["reason"]
        assert reason == "better: recall_at_100 0.4800 against 0.4700 live (+0.0100)"
