"""The candidate is asked before any user sees it; every wrong answer has its own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from functions.check_health import check_answer
from shared.domain.deployment import StepName, StepState
from shared.errors import Conflict, HealthCheckFailed, Unavailable
from tests.fakes import Behaviour, World
from tests.unit.stepping import SERVICE, advance, new_world, publish, step

NAME = "movies-1-auto"


@pytest.fixture
def world() -> World:
    made = new_world()
    publish(made)
    advance(made, NAME, "create")
    return made


def test_healthy_candidate_may_have_traffic_from_now_on(world: World) -> None:
    answer = step(world, "check", NAME)
    assert answer == {"deployment_id": NAME, "healthy": True, "golden_customers": 2}
    assert world.state.deployment(NAME).healthy


def test_key_of_the_check_lasts_an_hour_and_is_revoked(world: World) -> None:
    step(world, "check", NAME)
    assert list(world.keys.active.values()) == [False]
    assert list(world.keys.lifetimes_s.values()) == [3600]


def test_key_is_revoked_when_the_check_fails_too(world: World) -> None:
    world.predictions.behaviours[1] = Behaviour(status=500)
    with pytest.raises(HealthCheckFailed):
        step(world, "check", NAME)
    assert list(world.keys.active.values()) == [False]


def test_model_that_is_still_loading_is_waited_for(world: World) -> None:
    world.predictions.behaviours[1] = Behaviour(healthy_after=20)
    step(world, "check", NAME)
    assert sum(world.clock.slept_s) == pytest.approx(20)


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        pytest.param(
            lambda: Behaviour(health_status=503, health={"status": "unhealthy", "reason": "OOM"}),
            "503 after 240 s: OOM",
            id="never healthy",
        ),
        pytest.param(
            lambda: Behaviour(
                health={"status": "loading", "paths": {"prepared": "ready", "model": "loading"}}
            ),
            "200 after 240 s: prepared: ready, model: loading",
            id="prepared answers only",
        ),
        pytest.param(
            lambda: Behaviour(health={"artifact_digest": "sha256:other"}),
            "another model answers",
            id="wrong digest",
        ),
        pytest.param(
            lambda: Behaviour(health={"model_version": "v9"}), "model_version", id="wrong version"
        ),
        pytest.param(lambda: Behaviour(health={"training_run": 9}), "training_run", id="wrong run"),
        pytest.param(lambda: Behaviour(health={"model_id": "books"}), "model_id", id="wrong model"),
        pytest.param(lambda: Behaviour(status=500), "answers 500", id="an error"),
        pytest.param(
            lambda: Behaviour(results=lambda results: results[1:]),
            "3 customers, 2 answered",
            id="a customer missing",
        ),
        pytest.param(
            lambda: Behaviour(results=lambda results: results[::-1]), "answered", id="mixed up"
        ),
        pytest.param(
            lambda: Behaviour(scores=lambda _: float("nan")), "not a finite number", id="NaN"
        ),
        pytest.param(lambda: Behaviour(scores=float), "not in order of score", id="ascending"),
    ],
)
def test_wrong_answer_fails_the_check_with_what_was_wrong(
    world: World, behaviour: Callable[[], Behaviour], why: str
) -> None:
    world.predictions.behaviours[1] = behaviour()
    with pytest.raises(HealthCheckFailed, match=why):
        step(world, "check", NAME)
    found = world.state.deployment(NAME)
    assert not found.healthy
    assert found.steps[StepName.HEALTH_CHECKS.value].state is StepState.FAILED
    assert why in found.steps[StepName.HEALTH_CHECKS.value].error


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_passing_fault_may_be_tried_again(world: World, status: int) -> None:
    world.predictions.behaviours[1] = Behaviour(status=status)
    with pytest.raises(Unavailable, match=str(status)):
        step(world, "check", NAME)
    found = world.state.deployment(NAME)
    assert found.steps[StepName.HEALTH_CHECKS.value].state is StepState.RUNNING
    world.predictions.behaviours[1] = Behaviour()
    step(world, "check", NAME)


def test_candidate_whose_tag_is_gone_cannot_be_asked(world: World) -> None:
    world.cloud_run.services[SERVICE].tags.clear()
    with pytest.raises(Conflict, match="removed the tag"):
        step(world, "check", NAME)
    assert not world.state.deployment(NAME).healthy


def test_model_with_few_products_is_asked_for_no_more_than_it_has(world: World) -> None:
    world.predictions.behaviours[1] = Behaviour(products=3)
    assert step(world, "check", NAME)["healthy"]


def item(product: Any, score: Any) -> dict[str, Any]:
    return {"product_id": product, "score": score}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(None, "got no recommendations", id="none"),
        pytest.param([item("a", 1)], "got 1 recommendations, expected 2", id="too few"),
        pytest.param([item("a", 2), item("", 1)], "without a product id", id="an empty id"),
        pytest.param([item("a", 2), item(7, 1)], "without a product id", id="no text"),
        pytest.param([item("a", 2), item("a", 1)], "same product twice", id="twice"),
        pytest.param([item("a", 2), item("b", None)], "not a finite number", id="no score"),
        pytest.param([item("a", float("inf")), item("b", 1)], "not a finite", id="infinite"),
        pytest.param([item("a", 1), item("b", 2)], "not in order", id="ascending"),
    ],
)
def test_answer_of_a_customer_is_refused_with_its_fault(answer: Any, why: str) -> None:
    with pytest.raises(HealthCheckFailed, match=f"customer '15' .*{why}"):
        check_answer("15", answer, 2)


def test_equal_scores_are_in_order() -> None:
    check_answer("15", [item("a", 1.0), item("b", 1.0)], 2)
