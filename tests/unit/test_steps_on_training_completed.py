"""A message comes in: deployed, listed, made to wait, or refused, and always once."""

from __future__ import annotations

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


def test_failed_run_is_deployed_again_by_a_new_request_under_a_new_version(world: World) -> None:
    train(world, 1)
    deliver(world, message(deploy={"request_id": "a"}))
    failed = world.state.deployment("movies-1-a")
    world.state.change(MODEL, lambda book: _fail(book, failed.id))
    assert deliver(world, message(deploy={"request_id": "b", "when": "always"})) == "started"
    assert world.state.deployment("movies-1-b").version == 2


def _forget_active(book: Book) -> None:
    book.model = replace(book.model, active=None)


def _fail(book: Book, deployment_id: str) -> None:
    now = book.deployment(deployment_id).created_at
    abort(book, deployment_id, Status.FAILED, now, "pipeline", "why")
    release(book, now)
