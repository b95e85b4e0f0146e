"""While a stage bakes the workflow asks, and a person's word counts at the next answer."""

from __future__ import annotations

from typing import Any

import pytest

from functions.cancel import stop
from functions.judge_canary import look
from shared.domain.model import approve, pause, resume
from shared.errors import Conflict, Superseded
from shared.messages import Cancel, JudgeCanary
from tests.fakes import World
from tests.unit.stepping import MODEL, advance, new_world, publish, roll_out, step

NAME = "movies-2-auto"


@pytest.fixture
def world() -> World:
    """v2 is at 10 percent, which bakes for a minute."""
    made = new_world()
    roll_out(made, 1)
    publish(made, 2, strategy="gradual", steps_percent=[10], over="1m")
    advance(made, NAME, "check")
    step(made, "shift", NAME, percent=10)
    return made


def ask(world: World, execution: str = "executions/2") -> Any:
    return look(JudgeCanary(deployment_id=NAME, execution=execution), world.ports())


def say(world: World, word: Any) -> None:
    now = world.clock.now()
    world.state.change(MODEL, lambda book: word(book, NAME, now, "ops", "to see"))


def test_stage_bakes_as_long_as_planned_and_is_asked_about_meanwhile(world: World) -> None:
    waited_s = 0.0
    while (answer := ask(world))["answer"] == "wait":
        assert answer["wait_s"] > 0
        world.clock.sleep(answer["wait_s"])
        waited_s += answer["wait_s"]
    assert answer["answer"] == "advance"
    assert waited_s == pytest.approx(60)


def test_pause_holds_the_stage_until_it_is_resumed(world: World) -> None:
    say(world, pause)
    world.clock.sleep(3600)
    assert ask(world)["answer"] == "wait"
    assert ask(world)["why"] == "paused by a person"
    say(world, resume)
    assert ask(world)["answer"] == "advance"


def test_approval_ends_the_stage_at_once(world: World) -> None:
    say(world, pause)
    say(world, approve)
    assert ask(world)["why"] == "approved by a person"


def test_late_repeat_of_the_shift_does_not_begin_the_bake_again(world: World) -> None:
    world.clock.sleep(60)
    step(world, "shift", NAME, percent=10)
    assert ask(world)["answer"] == "advance"


def test_overtaken_rollout_is_told_so_and_another_execution_too(world: World) -> None:
    with pytest.raises(Conflict):
        ask(world, "executions/other")
    stop(Cancel(deployment_id=NAME), "ops", world.ports())
    with pytest.raises(Superseded):
        ask(world)
