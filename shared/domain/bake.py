"""A stage's bake: how long the rollout stays there, what the judge says, who must agree."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shared.domain.canary import Judgement, Verdict
from shared.domain.deployment import Deployment
from shared.domain.policy import Checking, OnInconclusive

QUICKEST_POLL_S, SLOWEST_POLL_S = 2.0, 300.0
POLLS_A_STAGE, POLLS_QUICK, POLLS_SLOW = 500, 2000, 4000
"""An execution has 100,000 steps, and one poll takes some eight of them. So a stage is asked
about `POLLS_A_STAGE` times while it bakes, or less often: all stages share `POLLS_QUICK`. After
that the slower, the longer it lasts: a tenth of the stage's polls for each time that the wait
grows by e. The slowest poll is 300 s; longer only where the policy lets bakes, judgements and
holds together last so long that `POLLS_SLOW` would not do. The rest is enough for ten days of
pause."""


class Answer(StrEnum):
    """What the workflow does next; `hold` waits as `wait` does, but for a person."""

    WAIT = "wait"
    ADVANCE = "advance"
    HOLD = "hold"
    ABORT = "abort"


@dataclass(frozen=True)
class Decision:
    """The answer, for how long to wait before asking again (seconds), and why."""

    answer: Answer
    wait_s: float
    why: str


def decide(deployment: Deployment, judgement: Judgement | None, now: datetime) -> Decision:
    """Return whether the stage that the deployment is in may be left; the first that applies.

    1. The judge says fail: abort, whatever a person said or is asked.
    2. A pause holds the stage for as long as it lasts.
    3. An approval, or a skip of all that is left, ends it at once.
    4. It has not baked: wait.
    5. The judge cannot say: wait for `inconclusive_for_s` more, then hold or abort.
    6. The policy wants a person's word at this share: hold.
    7. Go on.

    A hold ends in an abort `hold.limit_s` after it began. A `judgement` that is None, or that
    the policy only reports, decides nothing.
    """
    policy = deployment.policy
    gates = policy.canary.judge is Checking.GATE
    verdict = judgement.verdict if judgement and gates else None
    why = judgement.why if judgement else ""
    if verdict is Verdict.FAIL:
        return Decision(Answer.ABORT, 0.0, f"canary at {deployment.traffic_percent} %: {why}")
    if deployment.paused:
        return Decision(Answer.WAIT, poll_s(deployment, now), "paused by a person")
    if deployment.skipped:
        return Decision(Answer.ADVANCE, 0.0, "the stages left were skipped by a person")
    if deployment.approved:
        return Decision(Answer.ADVANCE, 0.0, "approved by a person")
    baked_s, bake_s = _baked_s(deployment, now), _bake_s(deployment)
    if baked_s < bake_s:
        return _wait(deployment, now, bake_s - baked_s, "of baking left")
    if verdict is Verdict.INCONCLUSIVE:
        left_s = bake_s + policy.canary.inconclusive_for_s - baked_s
        if left_s > 0:
            return _wait(deployment, now, left_s, f"left to be judged in: {why}")
        if policy.canary.on_inconclusive is OnInconclusive.ABORT:
            return Decision(Answer.ABORT, 0.0, f"not judged in {baked_s:.0f} s: {why}")
        return _hold(deployment, now, f"it could not be judged ({why})")
    if deployment.traffic_percent in policy.hold.at_percent:
        return _hold(deployment, now, f"the policy wants it at {deployment.traffic_percent} %")
    return Decision(Answer.ADVANCE, 0.0, f"baked for {baked_s:.0f} s{f': {why}' if why else ''}")


def _hold(deployment: Deployment, now: datetime, why: str) -> Decision:
    limit_s = deployment.policy.hold.limit_s
    held_s = (now - (deployment.holding_since or now)).total_seconds()
    if held_s >= limit_s:
        return Decision(Answer.ABORT, 0.0, f"nobody approved it in {limit_s} s; {why}")
    wait_s = min(limit_s - held_s, poll_s(deployment, now))
    return Decision(Answer.HOLD, wait_s, f"waits for a person's approval: {why}")


def _wait(deployment: Deployment, now: datetime, left_s: float, what: str) -> Decision:
    wait_s = min(left_s, poll_s(deployment, now))
    return Decision(Answer.WAIT, wait_s, f"{left_s:.0f} s {what}")


def poll_s(deployment: Deployment, now: datetime) -> float:
    """Return how long to wait before the stage is asked about again, in seconds."""
    canary, hold = deployment.policy.canary, deployment.policy.hold
    baking = [stage for stage in deployment.plan.stages if stage.percent < 100]
    polls = min(POLLS_A_STAGE, POLLS_QUICK / max(1, len(baking)))
    lasts_s = sum(stage.bake_s + canary.inconclusive_for_s + hold.limit_s for stage in baking)
    slowest_s = max(SLOWEST_POLL_S, lasts_s / POLLS_SLOW)
    bake_s = _bake_s(deployment)
    over_s = _baked_s(deployment, now) - bake_s
    return min(max(bake_s / polls, over_s * 10 / polls, QUICKEST_POLL_S), slowest_s)


def longest_s(deployment: Deployment) -> float:
    """Return for how long the stage may last, in seconds, where nobody pauses it."""
    canary, hold = deployment.policy.canary, deployment.policy.hold
    return _bake_s(deployment) + canary.inconclusive_for_s + hold.limit_s


def _bake_s(deployment: Deployment) -> float:
    stages = deployment.plan.stages
    return next((s.bake_s for s in stages if s.percent == deployment.traffic_percent), 0)


def _baked_s(deployment: Deployment, now: datetime) -> float:
    return (now - (deployment.stage_started_at or now)).total_seconds()
