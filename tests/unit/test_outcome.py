"""How rollouts end, how long steps take, who is waited for: in the log, where alerts read it."""

from __future__ import annotations

from typing import Any

import pytest

from functions.outcome import GAVE_UP, code_of
from tests.terraform.stories import LIMIT_S, tell


def said(story: str, message: str) -> list[dict[str, Any]]:
    """Return the fields of a story's lines with this message."""
    lines = (entry["jsonPayload"] for entry in tell(story))
    return [dict(line) for line in lines if line["message"] == message]


@pytest.mark.parametrize(
    ("story", "code", "fault"),
    [
        ("pipeline_fails", "unavailable", "pipeline"),
        ("workflow_loses_a_function", "ConnectionError", "pipeline"),
        ("execution_dies", "execution_ended", "pipeline"),
        ("candidate_is_unhealthy", "health_check_failed", "candidate"),
        ("judge_gives_up", GAVE_UP, "candidate"),
    ],
)
def test_failed_rollout_says_once_why_and_whose_fault_it_is(
    story: str, code: str, fault: str
) -> None:
    [line] = said(story, "rollout ended")
    assert (line["outcome"], line["code"], line["fault"]) == ("failed", code, fault)


def test_rollout_that_went_well_is_nobodys_fault() -> None:
    assert [
        (line["deployment_id"], line["fault"]) for line in said("good_rollout", "rollout ended")
    ] == [
        ("movies-1-auto", "none"),
        ("movies-2-auto", "none"),
    ]


@pytest.mark.parametrize(
    ("error", "body", "code"),
    [
        ({"code": 503, "tags": ["HttpError"]}, {"detail": "upstream"}, "http_503"),
        ({"tags": ["TimeoutError"]}, None, "TimeoutError"),
        ({"message": "memory limit"}, None, "workflow"),
        ({"code": 422}, {"code": "model_refused"}, "model_refused"),
        ("canary at 10 %", None, GAVE_UP),
    ],
    ids=["not ours", "no answer", "nothing known", "a problem", "raised by the workflow"],
)
def test_code_is_the_nearest_to_the_cause(error: Any, body: Any, code: str) -> None:
    assert code_of(error, body) == code


def test_transitions_are_told_with_who_and_why() -> None:
    [line] = [one for one in said("person_rolls_back", "transition") if one["action"] == "rollback"]
    assert line["actor"] == "ops@example.com"
    assert line["why"] == "odd answers"
    assert line["model_id"] == "movies"


def test_transition_waits_until_its_event_was_announced() -> None:
    assert said("pubsub_is_down", "transition") == []


def test_each_step_says_how_long_it_took() -> None:
    steps = [line["step"] for line in said("good_rollout", "step ended")]
    assert len(steps) == len(set(steps)) * 2
    assert {"copy_artifacts", "health_checks", "switch_traffic"} <= set(steps)


def test_approval_is_due_only_when_most_of_its_time_is_over() -> None:
    assert said("stage_holds", "approval is due") == []
    [line] = said("nobody_approves", "approval is due")
    assert line["left_s"] == pytest.approx(0.2 * LIMIT_S)
