"""The command line against a running cloud: JSON for programs, exit codes, keys, predictions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.world import TRAINING, World, message, run_turnout, until
from tests.models import CUSTOMERS, PRODUCTS

REVOKED_WITHIN_S = 30.0
"""How long a serving container may go on to accept a revoked key."""
POLLING_S = 2.0


@pytest.fixture(scope="module")
def live(world: World, artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a version of `console` that was deployed with `publish --file --watch`."""
    body = message("console", 1, world.upload(artifacts["good"], "console", 1))
    file = tmp_path_factory.mktemp("message") / "message.json"
    file.write_text(json.dumps(body))
    watched = world.turnout("publish", "--file", str(file), "--watch")
    assert "deployment console-1-auto" in watched.stdout
    for line in ("✓ Run health checks", "✓ Switch traffic"):
        assert line in watched.stdout
    return "console-1-auto"


@pytest.fixture(scope="module")
def revoked(world: World, live: str) -> tuple[str, float]:
    """A key that the container knows as good, revoked; and when the command returned."""
    assert live
    made = world.turnout_json("keys", "create", "console", "--name", "soon revoked")
    predicted = world.turnout_json(
        "predict", "C000", "--model", "console", "--key", made["key"], "--top-k", "3"
    )
    assert predicted["results"][0]["customer_id"] == "C000"
    assert world.turnout_json("keys", "revoke", made["id"]) == {
        "id": made["id"],
        "is_active": False,
    }
    return made["key"], time.monotonic()


@pytest.mark.usefixtures("revoked")
def test_keys_are_listed_without_their_secret(world: World) -> None:
    made = world.turnout_json("keys", "create", "console", "--name", "the shop", "--days", "7")
    keys = {key["id"]: key for key in world.turnout_json("keys", "list", "console")}
    listed = keys[made["id"]]
    assert made["key"].startswith(listed["key_prefix"])
    assert (listed["name"], listed["is_active"]) == ("the shop", True)
    assert listed["created_by"] == "tester@example.com"
    assert listed["expires_at"] is not None
    assert made["key"] not in json.dumps(keys)
    assert {key["name"]: key["is_active"] for key in keys.values()} == {
        "the shop": True,
        "soon revoked": False,
        "health check of v1": False,
    }
    table = world.turnout("keys", "list", "console").stdout
    assert "the shop" in table
    assert "revoked" in table


def test_predictions_are_those_of_the_api(world: World, live: str) -> None:
    assert live
    key = world.key("console")
    body = world.turnout_json(
        "predict", *CUSTOMERS[:2], "nobody", "--model", "console", "--key", key, "--top-k", "4"
    )
    assert body["model_version"] == "v1"
    assert [one["customer_id"] for one in body["results"]] == [*CUSTOMERS[:2], "nobody"]
    assert [one.get("known", True) for one in body["results"]] == [True, True, False]
    for one in body["results"]:
        products = [found["product_id"] for found in one["recommendations"]]
        assert len(products) == 4
        assert set(products) <= set(PRODUCTS)
    asked = requests.post(
        f"{world.service('console').uri}/recommend-batch",
        json={"customer_ids": [*CUSTOMERS[:2], "nobody"], "top_k": 4},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    ).json()
    assert asked["results"] == body["results"]
    table = world.turnout("predict", "nobody", "--model", "console", "--key", key).stdout
    assert "nobody (unknown)" in table


def test_what_is_live_is_listed(world: World, live: str) -> None:
    (deployment,) = world.turnout_json("deployments", "console")
    assert (deployment["id"], deployment["status"], deployment["version"]) == (live, "active", 1)
    assert deployment["traffic_percent"] == 100
    (run,) = world.turnout_json("runs", "console")
    assert (run["run_number"], run["metrics"]["recall_at_100"]) == (1, 0.47)
    assert run["decisions"]["auto"]["deploy"] is True
    (model,) = [one for one in world.turnout_json("models") if one["model_id"] == "console"]
    assert (model["live"], model["under_way"]) == ("v1", "-")
    assert model["url"] == world.service("console").uri
    for command, cell in (
        (("deployments", "console"), "active"),
        (("runs", "console"), "47.0 %"),
        (("models",), "model-serving-console-v1-1 100 %"),
    ):
        assert cell in world.turnout(*command).stdout


def test_a_known_run_is_published_again_under_a_fresh_request(world: World, live: str) -> None:
    assert live
    first = ("publish", "console", "--run", "1", "--when", "if_better", "--request-id", "again")
    asked = world.turnout_json(*first)
    assert asked["deployment_id"] == "console-1-again"
    assert world.outcome(asked["message_id"]) == "listed"
    (run,) = world.turnout_json("runs", "console")
    assert run["decisions"]["again"]["why"].startswith("not better by 0: recall_at_100 0.4700")
    sent = [world.turnout_json("publish", "console", "--run", "1", "--when", "off") for _ in "ab"]
    assert len({one["deployment_id"] for one in sent}) == 2


def test_a_plan_says_what_would_become_of_a_message_and_does_nothing(
    world: World, live: str
) -> None:
    assert live
    before = world.turnout_json("deployments", "console"), world.turnout_json("runs", "console")
    known = ("--model", "console", "--run", "1", "--request-id", "planned")
    planned = world.turnout_json("plan", *known, "--when", "if_better")
    assert (planned["outcome"], planned["version"]) == ("listed", "")
    assert planned["gate"]["compared"][0]["gain"] == 0
    shown = world.turnout("plan", *known, "--strategy", "gradual", "--over", "10m").stdout
    assert "It would be deployed at once" in shown
    assert "10 % for 300 s, then 50 % for 300 s, then 100 %" in shown
    wrong = json.dumps(message("nobody", 1, f"gs://{TRAINING}/nobody/run-1"))
    refused = world.turnout("plan", "-", exits=1, text=wrong).stdout
    assert "there is no model 'nobody'" in refused
    after = world.turnout_json("deployments", "console"), world.turnout_json("runs", "console")
    assert after == before


def test_a_message_from_standard_input_is_sent_as_it_is(world: World) -> None:
    body = message("console", 50, f"gs://{TRAINING}/console/run-50", when="off", request_id="piped")
    sent = json.loads(
        world.turnout("publish", "--file", "-", "--json", text=json.dumps(body)).stdout
    )
    assert sent["deployment_id"] == "console-50-piped"
    assert world.outcome(sent["message_id"]) == "listed"


def test_a_deployment_that_fails_ends_the_watch_with_4(
    world: World, artifacts: dict[str, Path]
) -> None:
    body = message("console", 60, world.upload(artifacts["missing"], "console", 60), when="always")
    watched = world.turnout(
        "publish", "--file", "-", "--watch", "--json", exits=4, text=json.dumps(body)
    )
    lines = [json.loads(line) for line in watched.stdout.splitlines()]
    assert lines[-1] == {"status": "failed", "traffic": 0}
    shown = world.turnout("watch", "console-60-auto", exits=4).stdout
    assert "holds no saved_model/saved_model.pb" in shown
    assert "✗ failed" in shown


def test_a_live_deployment_ends_the_watch_with_0(world: World, live: str) -> None:
    watched = world.turnout("watch", live, "--json")
    assert json.loads(watched.stdout) == {"status": "active", "traffic": 100}


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown deployment": (("watch", "console-99-auto"), "console-99-auto"),
    "an unknown model's keys": (("keys", "create", "nobody"), "there is no model 'nobody'"),
    "an unknown key": (("keys", "revoke", "0" * 64), "there is no API key"),
    "an unknown run": (("publish", "console", "--run", "77"), "no training run 77"),
    "no model among many": (("runs",), "name a model: "),
    "a version in words": (("rollback", "console", "--to", "last"), "--to looks like v2"),
    "a version that never was": (("rollback", "console", "--to", "v9"), "has no version 9"),
    "a cancelled nothing": (("cancel", "console-99-auto"), "console-99-auto"),
    "a prediction without a key": (("predict", "C000", "--model", "console"), "API key"),
    "a prediction with a wrong key": (
        ("predict", "C000", "--model", "console", "--key", "wrong"),
        "key",
    ),
    "too many products": (
        ("predict", "C000", "--model", "console", "--key", "KEY", "--top-k", "51"),
        "50",
    ),
    "neither run nor file": (("publish", "console"), "either --run N or the file"),
}


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_refused_exits_with_1_and_a_problem_document(
    world: World, arguments: tuple[str, ...], says: str
) -> None:
    if "KEY" in arguments:
        key = world.key("console")
        arguments = tuple(key if argument == "KEY" else argument for argument in arguments)
    problem = world.turnout_json(*arguments, exits=1)
    assert says in problem["detail"]
    assert problem["code"]
    assert problem["status"] >= 400


def test_a_refusal_is_one_sentence_for_people(world: World) -> None:
    done = world.turnout("keys", "revoke", "0" * 64, exits=1)
    assert done.stdout == ""
    assert " ".join(done.stderr.split()).startswith("turnout: there is no API key")


def test_wrong_usage_exits_with_2(world: World) -> None:
    world.turnout("publish", "--run", "seven", exits=2)
    world.turnout("no-such-command", exits=2)


def test_without_a_cloud_the_exit_code_is_3_and_says_how_to_start_one(tmp_path: Path) -> None:
    done = run_turnout(tmp_path, "deployments", "console", "--json")
    assert done.returncode == 3
    problem: dict[str, Any] = json.loads(done.stdout)
    assert problem["code"] == "local_cloud_not_running"
    assert "turnout up" in problem["detail"]


def test_a_second_cloud_on_the_same_folder_is_refused(world: World) -> None:
    done = run_turnout(world.data, "up")
    assert done.returncode == 1
    assert "a local cloud already runs from" in " ".join(done.stderr.split())
    assert world.turnout_json("models")


def test_a_revoked_key_is_refused_within_its_bound(
    world: World, revoked: tuple[str, float]
) -> None:
    key, revoked_at = revoked
    url = f"{world.service('console').uri}/recommend"

    def refused() -> bool:
        answer = requests.post(
            url,
            json={"customer_id": "C000", "top_k": 3},
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )
        assert answer.status_code in (200, 401)
        return answer.status_code == 401

    left_s = max(0.0, revoked_at + REVOKED_WITHIN_S - time.monotonic())
    until(refused, "the revoked key is refused", left_s + POLLING_S)
    problem = world.turnout_json("predict", "C000", "--model", "console", "--key", key, exits=1)
    assert problem["status"] == 401


@pytest.mark.usefixtures("live")
def test_calls_are_listed_by_the_part_that_made_them(world: World) -> None:
    found = world.turnout_json("calls")
    made = {(one["caller"], one["method"], one["detail"]): one["count"] for one in found}
    copied = ("copy_artifacts", "storage.objects.rewrite to", "turnout-local-serving/models (new)")
    # Copied by a pool of threads, and from a client that all functions of the process share.
    assert made[copied] > 1
    assert ("workflow", "run.routes.invoke", "shift_traffic") in made
    assert (
        "create_revision",
        "google.cloud.run.v2.Services/UpdateService",
        "scaling,template",
    ) in made
    assert ("serving", "storage.objects.get", "turnout-local-serving/models") in made
    published = {detail for caller, method, detail in made if method.endswith("/Publish")}
    assert {"training-completed", "deployment-events"} <= published
    assert "no function" not in {one["caller"] for one in found}
    assert "copy_artifacts" in world.turnout("calls").stdout
