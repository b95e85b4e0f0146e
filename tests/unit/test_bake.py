"""A stage's bake: what the judge says, a person's word, and how long each is waited for."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain.bake import POLLS_A_STAGE, SLOWEST_POLL_S, Answer, decide
from shared.domain.canary import Judgement, Verdict
from shared.domain.deployment import Deployment, ModelConfig
from shared.domain.policy import (
    CanaryPolicy,
    Checking,
    HoldPolicy,
    OnInconclusive,
    RolloutPolicy,
)
from shared.domain.rollout import LONGEST_ROLLOUT_S, Strategy, plan_rollout

BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
STEPS_OF_AN_EXECUTION = 100_000
STEPS_EACH_POLL = 8
"""What one turn of the workflow's bake loop costs, its subworkflow included."""
LONGEST_WAIT_S = 30 * 24 * 3600
PASS, FAIL, UNSURE = (Judgement(verdict, f"it is {verdict}") for verdict in Verdict)
ANSWERS = {Answer.WAIT, Answer.HOLD}


def baking(
    over_s: int = 3600,
    steps: tuple[int, ...] = (10, 50, 100),
    canary: dict[str, Any] | None = None,
    hold: dict[str, Any] | None = None,
    **words: Any,
) -> Deployment:
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
        policy=RolloutPolicy(canary=CanaryPolicy(**canary or {}), hold=HoldPolicy(**hold or {})),
        **{"traffic_percent": steps[0], "stage_started_at": BEGAN, **words},
    )


def after(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


HELD = {"hold": {"at_percent": (10,), "limit_s": 600}}
ABORTING = {"canary": {"on_inconclusive": OnInconclusive.ABORT}}
REPORTING = {"canary": {"judge": Checking.REPORT}}


@pytest.mark.parametrize(
    ("fields", "judgement", "seconds", "answer"),
    [
        pytest.param({}, PASS, 0, Answer.WAIT, id="not baked"),
        pytest.param({}, PASS, 1799.9, Answer.WAIT, id="not quite baked"),
        pytest.param({}, PASS, 1800, Answer.ADVANCE, id="baked and passed"),
        pytest.param({}, None, 1800, Answer.ADVANCE, id="baked, and nobody judges"),
        pytest.param({}, FAIL, 1, Answer.ABORT, id="failed at once"),
        pytest.param({}, FAIL, 9999, Answer.ABORT, id="failed after it baked"),
        pytest.param({"paused": True}, FAIL, 1, Answer.ABORT, id="failed while paused"),
        pytest.param({"approved": True}, FAIL, 1, Answer.ABORT, id="failed after an approval"),
        pytest.param({"skipped": True}, FAIL, 1, Answer.ABORT, id="failed after a skip"),
        pytest.param(
            {**HELD, "holding_since": after(1800)}, FAIL, 1900, Answer.ABORT, id="failed in a hold"
        ),
        pytest.param({"paused": True}, PASS, 99_999, Answer.WAIT, id="paused"),
        pytest.param(
            {"paused": True, "approved": True}, PASS, 1, Answer.WAIT, id="paused after an approval"
        ),
        pytest.param(
            {"paused": True, "skipped": True}, PASS, 1, Answer.WAIT, id="paused after a skip"
        ),
        pytest.param({"approved": True}, UNSURE, 1, Answer.ADVANCE, id="approved before its time"),
        pytest.param({"skipped": True}, UNSURE, 1, Answer.ADVANCE, id="skipped before its time"),
        pytest.param({**HELD, "approved": True}, PASS, 1, Answer.ADVANCE, id="approved and held"),
        pytest.param({}, UNSURE, 1800, Answer.WAIT, id="baked and not judged"),
        pytest.param({}, UNSURE, 5399, Answer.WAIT, id="not judged for most of the extension"),
        pytest.param({}, UNSURE, 5400, Answer.HOLD, id="not judged in all of its time"),
        pytest.param(ABORTING, UNSURE, 5399, Answer.WAIT, id="not judged, abort not due"),
        pytest.param(ABORTING, UNSURE, 5400, Answer.ABORT, id="not judged, abort due"),
        pytest.param(
            {**ABORTING, "paused": True}, UNSURE, 9999, Answer.WAIT, id="not judged, paused"
        ),
        pytest.param(HELD, PASS, 1799, Answer.WAIT, id="held, not baked"),
        pytest.param(HELD, PASS, 1800, Answer.HOLD, id="held"),
        pytest.param(HELD, UNSURE, 1800, Answer.WAIT, id="held, not judged"),
        pytest.param(HELD, None, 1800, Answer.HOLD, id="held, and nobody judges"),
        pytest.param(
            {**HELD, "traffic_percent": 50}, PASS, 1800, Answer.ADVANCE, id="held elsewhere"
        ),
        pytest.param(
            {**HELD, "holding_since": after(1800)}, PASS, 2399, Answer.HOLD, id="hold not over"
        ),
        pytest.param(
            {**HELD, "holding_since": after(1800)}, PASS, 2400, Answer.ABORT, id="hold is over"
        ),
        pytest.param(REPORTING, FAIL, 1, Answer.WAIT, id="only reported, not baked"),
        pytest.param(REPORTING, FAIL, 1800, Answer.ADVANCE, id="only reported fail"),
        pytest.param(REPORTING, UNSURE, 1800, Answer.ADVANCE, id="only reported inconclusive"),
    ],
)
def test_decision(
    fields: dict[str, Any], judgement: Judgement | None, seconds: float, answer: Answer
) -> None:
    decision = decide(baking(**fields), judgement, after(seconds))

    assert decision.answer is answer
    assert decision.why
    assert (decision.wait_s > 0) == (answer in ANSWERS)


@pytest.mark.parametrize(
    ("fields", "judgement", "words"),
    [
        ({}, FAIL, ["canary at 10 %", FAIL.why]),
        ({**HELD, "holding_since": BEGAN}, PASS, ["nobody approved", "600 s"]),
        (ABORTING, UNSURE, ["9000 s", UNSURE.why]),
    ],
)
def test_abort_says_why(fields: dict[str, Any], judgement: Judgement, words: list[str]) -> None:
    why = decide(baking(**fields), judgement, after(9000)).why
    assert all(word in why for word in words), why


@pytest.mark.parametrize("seconds", [0, 900, 1799.9])
def test_wait_never_goes_past_the_end_of_the_bake(seconds: float) -> None:
    assert decide(baking(), PASS, after(seconds)).wait_s <= 1800 - seconds + 1e-6


@pytest.mark.parametrize("paused", [True, False])
def test_persons_word_counts_within_seconds_in_a_short_rollout(paused: bool) -> None:
    assert decide(baking(over_s=20, paused=paused), PASS, after(1)).wait_s <= 2


@pytest.mark.parametrize("hours", [1, 24])
def test_persons_word_counts_within_minutes_in_the_hold_of_a_usual_rollout(hours: float) -> None:
    deployment = baking(hold={"at_percent": (10,)}, holding_since=after(1800))
    assert decide(deployment, PASS, after(hours * 3600)).wait_s <= 300


@pytest.mark.parametrize(
    "steps", [(50, 100), (10, 50, 100), tuple(range(5, 100, 5)), tuple(range(1, 100))], ids=len
)
@pytest.mark.parametrize("over_s", [0, 60, 3600, LONGEST_ROLLOUT_S])
@pytest.mark.parametrize("waits_s", [1, 3600, LONGEST_WAIT_S])
def test_longest_rollout_stays_within_the_steps_of_an_execution(
    steps: tuple[int, ...], over_s: int, waits_s: int
) -> None:
    """Every stage is not judged in all of its extension, then held to the end of the limit."""
    made = baking(
        over_s, steps, {"inconclusive_for_s": waits_s}, {"limit_s": waits_s, "at_percent": steps}
    )
    polls = 0
    for stage in made.plan.stages[:-1]:
        deployment, seconds = replace(made, traffic_percent=stage.percent), 0.0
        for _ in itertools.count():
            decision = decide(deployment, UNSURE, after(seconds))
            if decision.answer is Answer.ABORT:
                break
            if decision.answer is Answer.HOLD and not deployment.holding_since:
                deployment = replace(deployment, holding_since=after(seconds))
            seconds += decision.wait_s
            polls += 1
    ten_days_of_pause = 10 * 24 * 3600 / SLOWEST_POLL_S
    assert (polls + ten_days_of_pause) * STEPS_EACH_POLL < STEPS_OF_AN_EXECUTION


def test_usual_stage_is_asked_about_as_often_as_the_budget_allows() -> None:
    deployment, seconds, polls = baking(over_s=36_000), 0.0, 0
    while (decision := decide(deployment, PASS, after(seconds))).answer is Answer.WAIT:
        seconds, polls = seconds + decision.wait_s, polls + 1
    assert polls == pytest.approx(POLLS_A_STAGE, abs=1)
