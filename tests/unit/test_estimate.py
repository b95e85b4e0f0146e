"""How far a deployment is, and how long it will take."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.domain.deployment import Deployment, Status, Step, StepName, StepState
from shared.domain.estimate import GUESS_S, expected_s, progress
from shared.domain.rollout import Strategy, plan_rollout
from tests.unit.stepping import NOW, deployment


def lasted(seconds: float, status: Status = Status.INACTIVE, bake_s: int = 0) -> Deployment:
    """A deployment whose every step lasted so long."""
    step = Step(StepState.DONE, NOW, NOW + timedelta(seconds=seconds))
    plan = plan_rollout(Strategy.GRADUAL, (10,), bake_s)
    return deployment(
        id=f"movies-{seconds}-{status}",
        status=status,
        plan=plan,
        steps={name.value: step for name in StepName},
    )


def test_step_that_was_never_measured_is_guessed() -> None:
    assert expected_s(deployment(), StepName.DEPLOY_REVISION, []) == 30


def test_step_is_expected_to_last_the_median_of_those_that_succeeded() -> None:
    earlier = [lasted(2), lasted(4), lasted(90), lasted(500, Status.FAILED)]
    assert expected_s(deployment(), StepName.DEPLOY_REVISION, earlier) == 4


def test_own_earlier_tries_do_not_count() -> None:
    itself = lasted(3)
    assert expected_s(itself, StepName.HEALTH_CHECKS, [itself]) == GUESS_S[StepName.HEALTH_CHECKS]


def test_bake_time_is_the_plans_own_and_taken_out_of_what_others_lasted() -> None:
    baking = deployment(plan=plan_rollout(Strategy.GRADUAL, (10, 50), 3600))
    earlier = [lasted(67, bake_s=60)]
    assert expected_s(baking, StepName.SWITCH_TRAFFIC, earlier) == 3607


def test_nothing_done_is_0_with_all_of_the_time_left() -> None:
    assert progress(deployment(), [], NOW) == (0.0, sum(GUESS_S.values()))


def test_steps_count_by_their_time() -> None:
    steps = {
        StepName.COPY_ARTIFACTS.value: Step(StepState.DONE, NOW, NOW),
        StepName.PREPARE_MODEL.value: Step(StepState.DONE, NOW, NOW),
        StepName.CONFIGURE_SERVICE.value: Step(StepState.DONE, NOW, NOW),
        StepName.DEPLOY_REVISION.value: Step(StepState.RUNNING, NOW),
    }
    share, left_s = progress(deployment(steps=steps), [], NOW + timedelta(seconds=15))
    assert left_s == 15 + 5 + 5
    assert share == pytest.approx((5 + 20 + 3 + 15) / 68)


def test_step_that_takes_longer_than_expected_is_almost_done_and_never_more() -> None:
    steps = {StepName.COPY_ARTIFACTS.value: Step(StepState.RUNNING, NOW)}
    late = progress(deployment(steps=steps), [], NOW + timedelta(days=1))
    assert late == progress(deployment(steps=steps), [], NOW + timedelta(seconds=4.75))


@pytest.mark.parametrize(
    ("status", "deployed", "share"),
    [(Status.ACTIVE, True, 1.0), (Status.INACTIVE, True, 1.0), (Status.FAILED, False, 0.0)],
)
def test_ended_deployment_is_all_or_nothing_with_no_time_left(
    status: Status, deployed: bool, share: float
) -> None:
    ended = deployment(status=status, deployed_at=NOW if deployed else None)
    assert progress(ended, [], NOW) == (share, 0.0)
