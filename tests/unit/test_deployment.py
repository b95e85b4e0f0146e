"""The state machine of a deployment: every pair of statuses, and what a transition leaves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from shared.domain.deployment import TRANSITIONS, Status, Step, StepName, StepState
from shared.errors import TransitionRefused
from tests.unit.stepping import NOW, deployment

LATER = NOW + timedelta(minutes=5)
ALLOWED = {
    ("deploying", "active"),
    ("deploying", "failed"),
    ("deploying", "cancelled"),
    ("active", "inactive"),
    ("active", "rolled_back"),
    ("inactive", "active"),
    ("rolled_back", "active"),
}


@pytest.mark.parametrize("before", Status)
@pytest.mark.parametrize("after", Status)
def test_transition_is_made_or_refused_by_name(before: Status, after: Status) -> None:
    found = deployment(status=before)
    if (before.value, after.value) in ALLOWED:
        assert found.become(after, LATER, "why").status is after
    else:
        with pytest.raises(TransitionRefused, match=f"{before}; it cannot become {after}"):
            found.become(after, LATER, "why")


def test_every_status_has_its_line_in_the_machine() -> None:
    assert set(TRANSITIONS) == set(Status)


def test_active_deployment_has_all_traffic_and_its_time() -> None:
    left = deployment(status=Status.INACTIVE, deactivated_at=NOW)
    active = left.become(Status.ACTIVE, LATER, "back again")
    assert (active.deployed_at, active.deactivated_at) == (LATER, None)
    assert (active.traffic_percent, active.reason) == (100, "back again")


@pytest.mark.parametrize("after", [Status.FAILED, Status.CANCELLED])
def test_ended_rollout_has_no_traffic_and_its_running_step_failed_with_the_reason(
    after: Status,
) -> None:
    copied = Step(StepState.DONE, NOW, NOW, "3 files")
    rolling = deployment(
        traffic_percent=50,
        steps={
            StepName.COPY_ARTIFACTS.value: copied,
            StepName.SWITCH_TRAFFIC.value: Step(StepState.RUNNING, NOW),
        },
    )
    ended = rolling.become(after, LATER, "too slow")
    assert (ended.traffic_percent, ended.deactivated_at, ended.deployed_at) == (0, LATER, None)
    assert ended.steps[StepName.COPY_ARTIFACTS.value] == copied
    assert ended.steps[StepName.SWITCH_TRAFFIC.value] == Step(
        StepState.FAILED, NOW, LATER, error="too slow"
    )


def test_steps_own_error_is_kept_over_the_reason() -> None:
    step = Step(StepState.RUNNING, NOW, error="NaN")
    rolling = deployment(steps={StepName.HEALTH_CHECKS.value: step})
    ended = rolling.become(Status.FAILED, LATER, "gave up")
    assert ended.steps[StepName.HEALTH_CHECKS.value].error == "NaN"


def test_names_follow_from_model_and_version() -> None:
    found = deployment(version=12)
    assert (found.name, found.tag) == ("v12", "ver-12")
    assert found.revision_of_attempt(2) == "model-serving-movies-v12-2"
    assert found.config.service == "model-serving-movies"


def test_longest_names_stay_within_cloud_runs_limits() -> None:
    model_id = "a" * 24
    found = deployment(version=9999, model_id=model_id)
    found = replace(found, config=replace(found.config, model_id=model_id))
    assert len(found.config.service) < 50
    assert len(found.revision_of_attempt(99)) <= 63
    assert len(found.tag) >= 3
    assert len(found.tag) + len(found.config.service) <= 46


def test_deployment_waits_while_it_has_no_token() -> None:
    assert deployment().waiting
    assert not deployment(token=1).waiting
    assert not deployment(status=Status.CANCELLED).waiting
