"""How far a deployment is, and how long the rest will take, from earlier deployments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import median

from shared.domain.deployment import Deployment, Status, Step, StepName, StepState

GUESS_S = {
    StepName.COPY_ARTIFACTS: 5.0,
    StepName.PREPARE_MODEL: 20.0,
    StepName.CONFIGURE_SERVICE: 3.0,
    StepName.DEPLOY_REVISION: 30.0,
    StepName.HEALTH_CHECKS: 5.0,
    StepName.SWITCH_TRAFFIC: 5.0,
}
"""Seconds a step is taken to last before any deployment of the model has been measured."""


def expected_s(deployment: Deployment, name: StepName, earlier: Sequence[Deployment]) -> float:
    """Return the seconds a step should last: the median of earlier ones, plus its bake time."""
    bake_s = _bake_s(deployment) if name is StepName.SWITCH_TRAFFIC else 0.0
    lasted = [
        duration_s - (_bake_s(other) if name is StepName.SWITCH_TRAFFIC else 0.0)
        for other in earlier
        if other.id != deployment.id
        and other.status in (Status.ACTIVE, Status.INACTIVE, Status.ROLLED_BACK)
        and (duration_s := _duration_s(other.steps.get(name.value))) is not None
    ]
    return max(median(lasted) if lasted else GUESS_S[name], 0.1) + bake_s


def progress(
    deployment: Deployment, earlier: Sequence[Deployment], now: datetime
) -> tuple[float, float]:
    """Return the share done (0-1) and the seconds left, by each step's expected time.

    A step that lasts longer than expected counts as almost done, never as more.
    """
    if deployment.status is not Status.DEPLOYING:
        return (1.0 if deployment.deployed_at else 0.0), 0.0
    done_s = left_s = 0.0
    for name in StepName:
        expected = expected_s(deployment, name, earlier)
        step = deployment.steps.get(name.value, Step())
        if step.state is StepState.DONE:
            done_s += expected
        elif step.state is StepState.RUNNING and step.started_at:
            spent = min((now - step.started_at).total_seconds(), 0.95 * expected)
            done_s += spent
            left_s += expected - spent
        else:
            left_s += expected
    return done_s / (done_s + left_s), left_s


def _bake_s(deployment: Deployment) -> float:
    return float(sum(stage.bake_s for stage in deployment.plan.stages))


def _duration_s(step: Step | None) -> float | None:
    if step is None or step.started_at is None or step.ended_at is None:
        return None
    return (step.ended_at - step.started_at).total_seconds()
