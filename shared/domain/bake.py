"""A stage's bake time: how long the rollout stays there, and a person's word about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shared.domain.deployment import Deployment

QUICKEST_POLL_S, SLOWEST_POLL_S = 2.0, 300.0
POLLS_A_STAGE = 500
POLLS_A_PAUSE = 50
"""An execution has 100,000 steps, and one poll takes some eight of them: so the longer a
stage bakes, or stays paused after that, the slower it is asked about. The longest rollout
leaves enough for ten days of pause."""


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
    poll_s = max(bake_s / POLLS_A_STAGE, (baked_s - bake_s) / POLLS_A_PAUSE)
    return min(max(poll_s, QUICKEST_POLL_S), SLOWEST_POLL_S)
