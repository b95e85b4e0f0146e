"""Rollout plans: stages that ascend to 100, and how the bake time is shared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.rollout import (
    LONGEST_ROLLOUT_S,
    RolloutPlan,
    Stage,
    Strategy,
    parse_duration,
    plan_rollout,
)


def stages(*pairs: tuple[int, int]) -> tuple[Stage, ...]:
    return tuple(Stage(percent, bake_s) for percent, bake_s in pairs)


@pytest.mark.parametrize(
    ("steps", "over_s", "expected"),
    [
        pytest.param((10, 50, 100), 3600, stages((10, 1800), (50, 1800), (100, 0)), id="shared"),
        pytest.param((10, 50), 3600, stages((10, 1800), (50, 1800), (100, 0)), id="100 is added"),
        pytest.param((10, 20, 30), 8, stages((10, 3), (20, 3), (30, 2), (100, 0)), id="odd rest"),
        pytest.param((50,), 0, stages((50, 0), (100, 0)), id="no bake time"),
        pytest.param((1, 99), 2, stages((1, 1), (99, 1), (100, 0)), id="the outermost steps"),
    ],
)
def test_gradual_rollout_bakes_below_100(
    steps: tuple[int, ...], over_s: int, expected: tuple[Stage, ...]
) -> None:
    assert plan_rollout(Strategy.GRADUAL, steps, over_s) == RolloutPlan(Strategy.GRADUAL, expected)


def test_immediate_rollout_is_one_stage_whatever_else_is_asked() -> None:
    plan = plan_rollout(Strategy.IMMEDIATE, (10, 50), 3600)
    assert plan == RolloutPlan(Strategy.IMMEDIATE, stages((100, 0)))


@pytest.mark.parametrize(
    ("steps", "over_s"),
    [
        pytest.param((), 60, id="no step"),
        pytest.param((100,), 60, id="no step below 100"),
        pytest.param((50, 10), 60, id="descending"),
        pytest.param((10, 10), 60, id="the same twice"),
        pytest.param((10, 100, 50), 60, id="100 in the middle"),
        pytest.param((10, 100, 100), 60, id="100 twice"),
        pytest.param((0, 50), 60, id="zero"),
        pytest.param((10, 101), 60, id="above 100"),
        pytest.param((10,), -1, id="negative time"),
        pytest.param((10,), LONGEST_ROLLOUT_S + 1, id="too long"),
    ],
)
def test_impossible_plan_is_refused(steps: tuple[int, ...], over_s: int) -> None:
    with pytest.raises(ValueError, match="rollout"):
        plan_rollout(Strategy.GRADUAL, steps, over_s)


@given(
    st.lists(st.integers(1, 99), min_size=1, max_size=20, unique=True),
    st.integers(0, LONGEST_ROLLOUT_S),
)
def test_any_gradual_plan_bakes_exactly_as_long_as_asked(steps: list[int], over_s: int) -> None:
    plan = plan_rollout(Strategy.GRADUAL, sorted(steps), over_s)
    bakes = [stage.bake_s for stage in plan.stages]
    assert sum(bakes) == over_s
    assert bakes[-1] == 0
    assert max(bakes[:-1]) - min(bakes[:-1]) <= 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("30m", 1800), ("90s", 90), ("1h30m", 5400), ("2h0m5s", 7205), (" 0s ", 0)],
)
def test_duration_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1d", "-1h", "1.5h", "30m1h", "1 h"])
def test_text_that_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(text)
