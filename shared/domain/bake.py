"""A stage's bake time: how long the rollout stays there, and a person's word about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shared.domain.deployment import Deployment

HOUR_S, DAY_S = 3600.0, 86_400.0
QUICKEST_POLL_S = 2.0
POLL_S = {HOUR_S: 20.0, DAY_S: 120.0}
SLOWEST_POLL_S = 300.0
"""Ever slower, so that 30 days of baking stay within the 100,000 steps of an execution."""


class Answer(StrEnum):
    """What the workflow does next."""

    WAIT = "wait"
    ADVANCE = "advance"


@dataclass(frozen=True)
class Verdict:
    """The answer, for how long to wait before asking again (seconds), and why."""

    answer: Answer
    wait_s: float
    why: str


def judge(deployment: Deployment, now: datetime) -> Verdict:
    """Return whether the stage that the deployment is in has baked.

    A pause holds it for as long as it lasts, an approval ends it at once; both are read
    here, so a person's word counts before the next step whatever the workflow is doing.
    """
    bake_s = next(
        (s.bake_s for s in deployment.plan.stages if s.percent == deployment.traffic_percent), 0
    )
    began = deployment.stage_started_at or now
    baked_s = (now - began).total_seconds()
    if deployment.paused:
        return Verdict(Answer.WAIT, _poll_s(bake_s, baked_s), "paused by a person")
    if deployment.approved:
        return Verdict(Answer.ADVANCE, 0.0, "approved by a person")
    if baked_s >= bake_s:
        return Verdict(Answer.ADVANCE, 0.0, f"baked for {baked_s:.0f} s")
    left_s = bake_s - baked_s
    return Verdict(
        Answer.WAIT, min(left_s, _poll_s(bake_s, baked_s)), f"{left_s:.0f} s of baking left"
    )


def _poll_s(bake_s: float, baked_s: float) -> float:
    for until_s, poll_s in POLL_S.items():
        if baked_s < until_s:
            return max(QUICKEST_POLL_S, min(poll_s, bake_s / 20))
    return SLOWEST_POLL_S
