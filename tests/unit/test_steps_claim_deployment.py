"""One execution takes the deployment; the others are told, and end."""

from __future__ import annotations

import pytest

from shared.errors import NotFound, Superseded
from tests.unit.stepping import MODEL, V0, V1, new_world, publish, roll_out, step


def test_first_execution_gets_the_stages_and_the_traffic_is_remembered() -> None:
    world = new_world(policy={"strategy": "gradual", "steps_percent": [10], "over": "1m"})
    name = publish(world)
    answer = step(world, "claim", name)
    assert answer == {
        "deployment_id": name,
        "claimed": True,
        "stages": [{"percent": 10, "bake_s": 60}, {"percent": 100, "bake_s": 0}],
    }
    assert world.state.deployment(name).snapshot == {V0: 100}
    assert world.state.model(MODEL).desired == {V0: 100}


def test_repeat_answers_the_same_and_keeps_the_first_snapshot() -> None:
    world = new_world()
    roll_out(world, 1)
    name = publish(world, 2)
    first = step(world, "claim", name)
    world.cloud_run.by_hand("model-serving-movies", {V0: 50, V1: 50})
    assert step(world, "claim", name) == first
    assert world.state.deployment(name).snapshot == {V1: 100}


def test_second_execution_is_not_given_it() -> None:
    world = new_world()
    name = publish(world)
    step(world, "claim", name)
    assert not step(world, "claim", name, execution="executions/other")["claimed"]
    assert world.state.deployment(name).execution == "executions/1"


def test_waiting_run_cannot_be_claimed() -> None:
    world = new_world()
    publish(world, 1)
    waiting = publish(world, 2)
    with pytest.raises(Superseded):
        step(world, "claim", waiting, execution="executions/by-hand")


def test_unknown_deployment_is_not_found() -> None:
    with pytest.raises(NotFound, match="movies-9"):
        step(new_world(), "claim", "movies-9-auto", execution="e")
