"""A stage's bake time, and a person's word about it."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.bake import SLOWEST_POLL_S, Answer, judge
from shared.domain.deployment import Deployment, ModelConfig
from shared.domain.rollout import LONGEST_ROLLOUT_S, Strategy, plan_rollout

BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
STEPS_OF_AN_EXECUTION = 100_000
STEPS_EACH_POLL = 8
"""What one turn of the workflow's bake loop costs, its subworkflow included."""


def baking(over_s: int = 3600, steps: tuple[int, ...] = (10, 50, 100), **words: bool) -> Deployment:
    return Deployment(
        id="movies-2-auto",
        model_id="movies",
        version=2,
        training_run=2,
        request_id="auto",
        artifact_uri="gs://training/movies/run-2",
        config=ModelConfig("movies", "serving", "serving@example.com"),
        plan=plan_rollout(Strategy.GRADUAL, steps, over_s),
        deployed_by="ops@example.com",
        created_at=BEGAN,
        traffic_percent=steps[0],
        stage_started_at=BEGAN,
        **words,
    )


def after(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


@pytest.mark.parametrize("seconds", [0, 900, 1799.9])
def test_stage_that_has_not_baked_waits_and_never_past_its_end(seconds: float) -> None:
    verdict = judge(baking(), after(seconds))

    assert verdict.answer is Answer.WAIT
    assert 0 < verdict.wait_s <= 1800 - seconds


@pytest.mark.parametrize("seconds", [1800, 1801, 9999])
def test_stage_that_has_baked_advances(seconds: float) -> None:
    assert judge(baking(), after(seconds)).answer is Answer.ADVANCE


def test_paused_stage_waits_however_long_it_has_baked() -> None:
    verdict = judge(baking(paused=True), after(99_999))

    assert verdict.answer is Answer.WAIT
    assert verdict.wait_s > 0


def test_approved_stage_advances_before_its_time() -> None:
    assert judge(baking(approved=True), after(1)).answer is Answer.ADVANCE


def test_pause_after_an_approval_wins() -> None:
    assert judge(baking(approved=True, paused=True), after(1)).answer is Answer.WAIT


def test_persons_word_counts_within_seconds_in_a_short_rollout() -> None:
    assert judge(baking(over_s=20), after(1)).wait_s <= 2


@pytest.mark.parametrize("steps", [(50, 100), tuple(range(5, 100, 5))], ids=["one", "nineteen"])
def test_longest_rollout_stays_within_the_steps_of_an_execution(steps: tuple[int, ...]) -> None:
    deployment = baking(LONGEST_ROLLOUT_S, steps)
    seconds, polls = 0.0, 0
    while (verdict := judge(deployment, after(seconds))).answer is Answer.WAIT:
        seconds += verdict.wait_s
        polls += 1

    bakes = len(deployment.plan.stages) - 1
    ten_days_of_pause = 10 * 24 * 3600 / SLOWEST_POLL_S
    assert (polls * bakes + ten_days_of_pause) * STEPS_EACH_POLL < STEPS_OF_AN_EXECUTION
