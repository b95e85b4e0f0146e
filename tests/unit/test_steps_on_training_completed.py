"""A message comes in: deployed, listed, made to wait, or refused, and always once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from functions.on_training_completed import receive
from shared.domain.deployment import Status
from shared.domain.model import Book, abort, release
from tests.fakes import World
from tests.unit.stepping import MODEL, NOW, advance, message, new_world, publish, roll_out, train


@pytest.fixture
def world() -> World:
    return new_world()


def deliver(world: World, data: bytes, message_id: str = "m") -> str:
    return receive(data, message_id, world.ports())


def test_first_run_is_deployed_as_its_model_is_declared(world: World) -> None:
    assert deliver(world, message()) == "started"
    made = world.state.deployment("movies-1-auto")
    assert (made.version, made.training_run, made.deployed_by) == (1, 1, "training")
    assert made.config.golden_customers == ("15", "73")
    assert made.recall_at_100 == pytest.approx(0.41)
    assert list(world.executions.deployments.values()) == ["movies-1-auto"]
    run = world.state.run("movies-1")
    assert run
    assert run["artifact_uri"] == "gs://training/run-1"
    assert run["decisions"]["auto"]["deploy"]


def test_message_says_how_it_is_deployed(world: World) -> None:
    deploy = {
        "strategy": "gradual",
        "steps_percent": [5],
        "over": "10m",
        "requested_by": "ops@example.com",
        "request_id": "7f3a",
    }
    assert deliver(world, message(deploy=deploy)) == "started"
    made = world.state.deployment("movies-1-7f3a")
    assert [(stage.percent, stage.bake_s) for stage in made.plan.stages] == [(5, 600), (100, 0)]
    assert made.deployed_by == "ops@example.com"


def test_same_message_again_deploys_nothing_more(world: World) -> None:
    for message_id in ("m", "m", "another id"):
        deliver(world, message(), message_id)
    assert [found.id for found in world.state.deployments(MODEL)] == ["movies-1-auto"]
    train(world, 1)
    advance(world, "movies-1-auto")
    assert deliver(world, message()) == "known"
    assert world.dead_letters.messages == []


def test_redelivery_starts_the_execution_that_the_first_delivery_did_not(world: World) -> None:
    class Down:
        def start(self, _: object) -> str:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        receive(message(), "m", world.ports(executions=Down()))
    assert deliver(world, message()) == "started"
    assert list(world.executions.deployments.values()) == ["movies-1-auto"]


def test_run_that_is_not_better_is_listed_and_stays_so_whatever_goes_live_later(
    world: World,
) -> None:
    roll_out(world, 1)
    worse = message(2, metrics={"recall_at_100": 0.1})
    assert deliver(world, worse) == "listed"
    world.state.change(MODEL, _forget_active)
    assert deliver(world, worse) == "listed"
    assert [found.training_run for found in world.state.deployments(MODEL)] == [1]
    run = world.state.run("movies-2")
    assert run
    assert "0.1000 against 0.4100 live" in run["decisions"]["auto"]["why"]


def test_delivery_that_decides_at_the_same_time_obeys_the_first_decision(world: World) -> None:
    class Slower:
        """State in which another delivery of the message decides right before this one."""

        def __getattr__(self, name: str) -> object:
            if name == "decide":
                no = {"deploy": False, "why": "not better", "at": NOW}
                world.state.decide("movies-1", "auto", no)
            return getattr(world.state, name)

    assert receive(message(), "m", world.ports(state=Slower())) == "listed"
    assert world.state.deployments(MODEL) == []


def test_listed_run_is_deployed_by_another_request(world: World) -> None:
    roll_out(world, 1)
    deliver(world, message(2, metrics={"recall_at_100": 0.1}))
    asked = message(2, {"when": "always", "request_id": "b1"}, metrics={"recall_at_100": 0.1})
    assert deliver(world, asked) == "started"


def test_policy_that_is_off_lists_the_run() -> None:
    world = new_world(policy={"when": "off"})
    assert deliver(world, message()) == "listed"


def test_run_that_arrives_during_a_rollout_waits(world: World) -> None:
    publish(world, 1)
    assert deliver(world, message(2)) == "waiting"
    assert world.state.model(MODEL).waiting == "movies-2-auto"
    assert len(world.executions.states) == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(b"no json", "not JSON", id="no JSON"),
        pytest.param(b"\xff\xfe", "not JSON", id="no text"),
        pytest.param(b"[1]", "body", id="no object"),
        pytest.param(message(schema_version=2), "schema version 2", id="unknown version"),
        pytest.param(message(model_id="books"), "no model 'books'", id="unknown model"),
        pytest.param(
            message(artifact_uri="gs://elsewhere/run-1"), "only listed buckets", id="bucket"
        ),
        pytest.param(message(artifact_uri="gs://training/../x"), "'..'", id="path"),
        pytest.param(
            message(deploy={"strategy": "gradual", "steps_percent": [50, 10]}),
            "ascend",
            id="steps",
        ),
    ],
)
def test_message_that_cannot_be_right_is_recorded_and_goes_to_the_dead_letters(
    world: World, data: bytes, why: str
) -> None:
    assert deliver(world, data, "message-7") == "refused"
    refusal = world.state.refusals["message-7"]
    assert why in refusal["reason"]
    [(dead, attributes)] = world.dead_letters.messages
    assert dead == data
    assert why in attributes["reason"]
    assert attributes["message_id"] == "message-7"
    assert world.state.deployments(MODEL) == []
    assert world.executions.states == {}


def test_other_artifacts_under_a_known_run_number_are_refused(world: World) -> None:
    deliver(world, message())
    other = message(artifact_uri="gs://training/other")
    assert deliver(world, other, "second") == "refused"
    assert "another run number" in world.state.refusals["second"]["reason"]


RESULTS = "evaluation/results.jsonl"
BEFORE = {f"c{number}": 0.3 + (number % 7) / 20 for number in range(100)}
BETTER = {name: value + 0.02 + (int(name[1:]) % 3) / 100 for name, value in BEFORE.items()}
NOISE = {name: value + (int(name[1:]) % 2 - 0.49) / 5 for name, value in BEFORE.items()}


def results(values: Mapping[str, object]) -> bytes:
    lines = [json.dumps({"customer_id": one, "recall_at_100": v}) for one, v in values.items()]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome", "why"),
    [
        pytest.param(results(BETTER), results(BEFORE), "started", "100 customers", id="a gain"),
        pytest.param(results(NOISE), results(BEFORE), "listed", "may be chance", id="chance"),
        pytest.param(results(BEFORE), results(BETTER), "listed", "may be chance", id="worse"),
        pytest.param(None, results(BEFORE), "listed", "run-2/evaluation/results", id="no results"),
        pytest.param(
            results(BETTER), None, "listed", "movies/v1/evaluation/results", id="live has none"
        ),
        pytest.param(
            results(BETTER),
            results({"c1": 0.1}),
            "listed",
            "fewer than 30 customers",
            id="few in common",
        ),
        pytest.param(
            results({**BETTER, "c7": float("nan")}),
            results(BEFORE),
            "listed",
            "line 8 .*not a finite number",
            id="NaN",
        ),
        pytest.param(
            results({**BETTER, "c7": "0.5"}), results(BEFORE), "listed", "line 8", id="a text"
        ),
        pytest.param(
            results({**BETTER, "c7": 10**400}), results(BEFORE), "listed", "line 8", id="huge"
        ),
        pytest.param(
            results({**BETTER, "c7": None}), results(BEFORE), "started", "99 customers", id="a gap"
        ),
    ],
)
def test_gain_has_to_be_significant_over_the_same_customers(
    ours: bytes | None, theirs: bytes | None, outcome: str, why: str
) -> None:
    world = new_world(policy={"significance": 0.05})
    roll_out(world, 1)
    if theirs is not None:
        world.objects.put("serving", f"models/movies/v1/{RESULTS}", theirs)
    if ours is not None:
        world.objects.put("training", f"run-2/{RESULTS}", ours)
    assert deliver(world, message(2)) == outcome
    run = world.state.run("movies-2")
    assert run
    decision = run["decisions"]["auto"]
    assert re.search(why, decision["why"])
    assert json.dumps(decision["comparison"], allow_nan=False)


def test_numbers_of_the_decision_are_kept_and_a_redelivery_does_not_compare_again(
    world: World,
) -> None:
    roll_out(world, 1)
    world.objects.put("serving", f"models/movies/v1/{RESULTS}", results(BEFORE))
    world.objects.put("training", f"run-2/{RESULTS}", results(BETTER))
    assert deliver(world, message(2)) == "started"
    first = world.state.run("movies-2")
    world.objects.put("training", f"run-2/{RESULTS}", results(NOISE))
    assert deliver(world, message(2)) == "started"
    assert world.state.run("movies-2") == first
    assert first
    numbers = first["decisions"]["auto"]["comparison"]
    assert (numbers["metric"], numbers["by_customer"]["n"]) == ("recall_at_100", 100)
    assert numbers["gain"] == pytest.approx(0.01)


def test_guarded_metric_that_fell_keeps_a_better_run_from_being_deployed() -> None:
    world = new_world(policy={"guard_metrics": {"recall_at_10": 0.01}})
    publish(world, 1)
    train(world, 2)
    advance(world, "movies-1-auto")
    guarded = {"recall_at_100": 0.9, "recall_at_10": 0.1}
    world.state.change(MODEL, lambda book: _measured(book, {"recall_at_10": 0.2, **METRICS}))
    assert deliver(world, message(2, metrics=guarded)) == "listed"
    run = world.state.run("movies-2")
    assert run
    assert "recall_at_10 falls by more than 0.01" in run["decisions"]["auto"]["why"]


def test_failed_run_is_deployed_again_by_a_new_request_under_a_new_version(world: World) -> None:
    train(world, 1)
    deliver(world, message(deploy={"request_id": "a"}))
    failed = world.state.deployment("movies-1-a")
    world.state.change(MODEL, lambda book: _fail(book, failed.id))
    assert deliver(world, message(deploy={"request_id": "b", "when": "always"})) == "started"
    assert world.state.deployment("movies-1-b").version == 2


METRICS = {"recall_at_100": 0.41}


def _measured(book: Book, metrics: dict[str, float]) -> None:
    book.put(replace(book.deployment("movies-1-auto"), metrics=metrics))


def _forget_active(book: Book) -> None:
    book.model = replace(book.model, active=None)


def _fail(book: Book, deployment_id: str) -> None:
    now = book.deployment(deployment_id).created_at
    abort(book, deployment_id, Status.FAILED, now, "pipeline", "why")
    release(book, now)
