"""The pages' words: numbers with signs and units, times, and the sentence about traffic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from functions.dashboard import presenting
from functions.dashboard.deploy_form import read_form
from functions.dashboard.schemas import ModelView, StageView, Today
from shared.domain.rollout import Strategy

NOW = datetime(2026, 11, 24, 14, tzinfo=UTC)
STAGES = [StageView(percent=10, bake_s=1800), StageView(percent=50, bake_s=1800)]
MODEL = ModelView(
    model_id="movies",
    service="model-serving-movies",
    endpoint_url="https://model.example",
    live=None,
    live_run=None,
    under_way=None,
    waiting=None,
    rollback_target=None,
    traffic=[],
    today=Today(requests=0, errors=0, avg_latency_ms=None),
    default_strategy=Strategy.GRADUAL,
    default_steps_percent=[10, 50, 100],
    default_over="1h",
)


@pytest.mark.parametrize(
    ("metric", "change", "words"),
    [
        pytest.param("recall_at_100", 0.004, "↑ +0.4\u00a0points", id="share up"),
        pytest.param("recall_at_100", -0.016, "↓ \u22121.6\u00a0points", id="share down"),
        pytest.param("recall_at_100", 0.0001, "↑ +0.01\u00a0points", id="share hardly"),
        pytest.param("recall_at_100", 0.0, "= 0\u00a0points", id="equal"),
        pytest.param("loss", -0.25, "↓ \u22120.25", id="no share"),
        pytest.param("recall_at_100", None, "not comparable", id="missing"),
    ],
)
def test_difference_has_direction_sign_and_unit(
    metric: str, change: float | None, words: str
) -> None:
    assert presenting.difference(metric, change) == words


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (timedelta(seconds=20), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(hours=6), "6 hours ago"),
        (timedelta(hours=47), "47 hours ago"),
        (timedelta(days=3), "3 days ago"),
        (timedelta(days=-90), "in 90 days"),
    ],
)
def test_age_is_said_in_one_unit(before: timedelta, words: str) -> None:
    assert presenting.age(NOW - before, NOW) == words


def test_sentence_says_what_traffic_will_do_and_when() -> None:
    stages = [*STAGES, StageView(percent=100, bake_s=0)]
    said = presenting.traffic_sentence("v4", "v3", stages).replace("\u00a0", " ")
    assert (
        "it takes 10 % of the traffic at once, 50 % after 30 minutes and 100 % after 1 hour."
        in said
    )
    assert said.endswith("v3 stays ready, one click away.")


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        pytest.param({"steps": "50, 10"}, "must be larger", id="falling"),
        pytest.param({"steps": "ten"}, "whole numbers from 1 to 100", id="no numbers"),
        pytest.param({"steps": "100"}, "at least one step below 100", id="no step"),
        pytest.param({"over": "soon"}, "looks like 1h", id="no duration"),
        pytest.param({"over": "999h"}, "takes at most", id="too long"),
    ],
)
def test_plan_that_cannot_be_carried_out_is_explained(typed: dict[str, str], error: str) -> None:
    form = read_form({"strategy": "gradual", **typed}, MODEL, "v1")
    assert error in form.error
    assert form.sentence == ""


def test_untouched_form_follows_the_models_policy() -> None:
    form = read_form({}, MODEL, "v1")
    asked = form.request(47)
    assert (asked.strategy, asked.steps_percent, asked.over) == ("gradual", [10, 50, 100], "1h")


@pytest.mark.parametrize(
    ("requests", "errors", "begins", "mood"),
    [
        (0, 0, "No predictions", "quiet"),
        (1000, 0, "Well: no errors", "good"),
        (12_450, 3, "Well: 99.98\u00a0%", "good"),
        (1000, 5, "Look closer: 0.50\u00a0%", "warning"),
        (1000, 42, "Not well: 4.20\u00a0%", "bad"),
    ],
)
def test_is_it_well_is_answered_in_words(
    requests: int, errors: int, begins: str, mood: str
) -> None:
    today = Today(requests=requests, errors=errors, avg_latency_ms=2.0)
    words, found = presenting.wellbeing(MODEL.model_copy(update={"live": "v3", "today": today}))
    assert words.startswith(begins)
    assert found == mood
