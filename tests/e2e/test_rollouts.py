"""Gradual rollouts under prediction traffic: finished, rolled back, interrupted, cancelled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from google.cloud.workflows import executions_v1

from tests.e2e.traffic import SplitWatch, Traffic, assert_fits
from tests.e2e.world import World, message, served, until

ENOUGH = 100
"""Requests that a stage must have been asked, before its split is judged."""
STEPS = [25, 60]
BAKE_S = 6


@pytest.fixture(scope="module")
def live(world: World, artifacts: dict[str, Path]) -> dict[str, str]:
    """Version 1 of three models, live; returns an API key for each."""
    models = ("steady", "back", "halt")
    for model in models:
        world.publish(message(model, 1, world.upload(artifacts["good"], model, 1)))
    keys = {model: world.key(model) for model in models}
    for model in models:
        world.ended(f"{model}-1-auto", "active")
        world.unlocked(model)
    return keys


def begin(world: World, artifacts: dict[str, Path], model: str) -> dict[str, Any]:
    """Publish run 2 as a gradual rollout; return its deployment once it has its first share."""
    uri = world.upload(artifacts["better"], model, 2)
    over = f"{BAKE_S * len(STEPS)}s"
    world.publish(
        message(model, 2, uri, strategy="gradual", steps_percent=[*STEPS, 100], over=over)
    )
    first = {"v1": 100 - STEPS[0], "v2": STEPS[0]}
    until(lambda: served(world.service(model)) == first, f"{model} serves {first}")
    deployment = world.deployment(f"{model}-2-auto")
    assert deployment is not None
    return deployment


def execution_ends(world: World, deployment: dict[str, Any]) -> str:
    """Return the state in which a deployment's workflow execution ended."""

    def ended() -> str:
        state = world.executions.get_execution(name=deployment["execution"]).state
        active = executions_v1.Execution.State.ACTIVE
        return "" if state == active else str(state.name)

    return until(ended, f"{deployment['execution']} ends")


def assert_one_trace(world: World, deployment_id: str, root_name: str) -> None:
    """Fail unless the trace holds message, steps and first request, all below one root."""

    def told() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = world.turnout_json("trace", deployment_id)
        names = {span["name"] for span in found}
        # The root is told when the rollout has ended, the request by a process of its own.
        return found if {root_name, "first request /recommend"} <= names else []

    spans = until(told, f"the trace of {deployment_id} is whole")
    [root] = [span for span in spans if not span["parent"]]
    assert root["name"] == root_name
    assert {span["parent"] for span in spans if span is not root} == {root["id"]}
    assert {span["name"] for span in spans} == {
        root_name,
        "on_training_completed",
        "claim_deployment",
        "copy_artifacts",
        "prepare_model",
        "create_revision",
        "check_health",
        "shift_traffic",
        "judge_canary",
        "finish_deployment",
        "start steady v2",
        "first request /recommend",
    }


def test_a_gradual_rollout_and_its_rollback_fail_no_request(
    world: World, artifacts: dict[str, Path], live: dict[str, str]
) -> None:
    with (
        SplitWatch(lambda: world.service("steady")) as watch,
        Traffic(world.service("steady").uri, live["steady"]) as traffic,
    ):
        until(lambda: traffic.versions()["v1"] > ENOUGH, "version 1 answers")
        begin(world, artifacts, "steady")
        finished = world.ended("steady-2-auto", "active")
        world.unlocked("steady")
        after = time.monotonic()
        until(lambda: traffic.versions(after)["v2"] > ENOUGH, "version 2 answers alone")

        back = world.turnout_json("rollback", "steady", "--reason", "the pages look odd")
        returned = time.monotonic()
        until(lambda: traffic.versions(returned)["v1"] > ENOUGH, "version 1 answers again")

    assert traffic.failures() == []
    assert set(traffic.versions(returned)) == {"v1"}
    expected = [
        {"v1": 100},
        *({"v1": 100 - percent, "v2": percent} for percent in STEPS),
        {"v2": 100},
        {"v1": 100},
    ]
    assert watch.splits() == expected
    for period in watch.periods:
        counts = traffic.versions(period.since, period.to)
        assert sum(counts.values()) >= ENOUGH
        assert_fits(counts, period.split)

    assert finished["traffic_percent"] == 100
    assert back == {
        "deployment_id": "steady-1-auto",
        "version": "v1",
        "traffic": {"model-serving-steady-v1-1": 100},
        "said": "v1 has the traffic again: model-serving-steady-v1-1 100 %",
        "under_way": False,
    }
    assert [one["status"] for one in world.deployments("steady")] == ["active", "rolled_back"]
    left = world.events("steady-2-auto")[-1]
    assert (left["actor"], left["before"], left["after"], left["reason"]) == (
        "tester@example.com",
        "active",
        "rolled_back",
        "to v1: the pages look odd",
    )
    wanted = [
        event["traffic"]
        for event in world.events("steady-2-auto")
        if event["action"] == "traffic wanted"
    ]
    assert [split["model-serving-steady-v2-1"] for split in wanted] == [*STEPS, 100]
    world.serves("steady", v1=100)
    assert_one_trace(world, "steady-2-auto", "deploy steady v2")

    # What was rolled back from is known to be bad: only by its name.
    refused = world.turnout_json("rollback", "steady", exits=1)
    assert refused["code"] == "conflict"
    assert "no version earlier than v1 is left" in refused["detail"]
    assert "name one of v2 with --to" in refused["detail"]
    world.turnout("rollback", "steady", "--to", "v2", "--reason", "it was the network")
    world.serves("steady", v2=100)
    assert [one["status"] for one in world.deployments("steady")] == ["rolled_back", "active"]


def test_a_rollback_between_two_steps_keeps_the_traffic_for_good(
    world: World, artifacts: dict[str, Path], live: dict[str, str]
) -> None:
    with Traffic(world.service("back").uri, live["back"]) as traffic:
        rollout = begin(world, artifacts, "back")
        begun = time.monotonic()
        world.publish(message("back", 3, rollout["artifact_uri"], request_id="next"))
        until(lambda: world.deployment("back-3-next"), "run 3 waits")

        back = world.turnout_json("rollback", "back", "--reason", "worse at a glance")
        returned = time.monotonic()
        assert back["traffic"] == {"model-serving-back-v1-1": 100}
        token = world.service("back").annotations["turnout/fencing-token"]

        with SplitWatch(lambda: world.service("back")) as watch:
            assert execution_ends(world, rollout) == "CANCELLED"
            # Both further steps would have come within this time.
            over = begun + BAKE_S * (len(STEPS) + 1)
            until(lambda: time.monotonic() > over, "the rollout's time is over")

    assert watch.splits() == [{"v1": 100}]
    assert world.service("back").annotations["turnout/fencing-token"] == token
    assert set(traffic.versions(returned)) == {"v1"}
    assert traffic.failures() == []
    stopped = world.ended("back-2-auto", "cancelled")
    assert stopped["reason"] == "rolled back to v1 by tester@example.com: worse at a glance"
    assert stopped["traffic_percent"] == 0
    assert stopped["steps"]["switch_traffic"]["state"] == "failed"
    assert world.ended("back-3-next", "cancelled")["execution"] == ""
    model = world.unlocked("back")
    assert (model["active"], model["waiting"]) == ("back-1-auto", None)
    assert [one["status"] for one in world.deployments("back")] == [
        "active",
        "cancelled",
        "cancelled",
    ]
    assert world.events("back-1-auto")[-1]["action"] == "rollback"
    world.serves("back", v1=100)

    again = world.turnout("rollback", "back", exits=1)
    assert "'back' has no earlier version to go back to" in " ".join(again.stderr.split())
    world.serves("back", v1=100)


def test_a_cancelled_rollout_gives_the_traffic_back(
    world: World, artifacts: dict[str, Path], live: dict[str, str]
) -> None:
    with Traffic(world.service("halt").uri, live["halt"]) as traffic:
        rollout = begin(world, artifacts, "halt")
        begun = time.monotonic()
        done = world.turnout_json("cancel", "halt-2-auto", "--reason", "wrong data")
        assert done == {"deployment_id": "halt-2-auto", "status": "cancelled"}
        world.serves("halt", v1=100)
        returned = time.monotonic()
        with SplitWatch(lambda: world.service("halt")) as watch:
            assert execution_ends(world, rollout) == "CANCELLED"
            over = begun + BAKE_S * 1.5
            until(lambda: time.monotonic() > over, "the next step's time is over")

    assert watch.splits() == [{"v1": 100}]
    assert set(traffic.versions(returned)) == {"v1"}
    assert traffic.failures() == []
    stopped = world.ended("halt-2-auto", "cancelled")
    assert stopped["reason"] == "cancelled by tester@example.com: wrong data"
    assert stopped["snapshot"] == {"model-serving-halt-v1-1": 100}
    assert world.unlocked("halt")["active"] == "halt-1-auto"

    # Cancelling it again changes nothing; what is not a rollout cannot be cancelled.
    assert world.turnout_json("cancel", "halt-2-auto")["status"] == "cancelled"
    refused = world.turnout_json("cancel", "halt-1-auto", exits=1)
    assert refused["detail"] == "'halt-1-auto' is active: only a rollout can be cancelled"
    world.serves("halt", v1=100)


def test_a_first_rollout_can_only_be_cancelled_and_leaves_the_empty_service(
    world: World, artifacts: dict[str, Path]
) -> None:
    uri = world.upload(artifacts["good"], "first", 1)
    world.publish(message("first", 1, uri, strategy="gradual", steps_percent=[40], over="10m"))
    until(lambda: served(world.service("first")) == {"v0": 60, "v1": 40}, "the first step")
    refused = world.turnout_json("rollback", "first", exits=1)
    assert refused["code"] == "nothing_to_roll_back_to"
    assert "cancel the rollout if one is running" in refused["detail"]
    world.serves("first", v0=60, v1=40)

    world.turnout("cancel", "first-1-auto")
    world.serves("first", v0=100)
    assert world.unlocked("first")["active"] is None
    assert world.ended("first-1-auto", "cancelled")["snapshot"] == {"model-serving-first-v0-1": 100}
