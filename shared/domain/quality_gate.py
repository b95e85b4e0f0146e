"""Whether a training run should be deployed, judged by its own metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from shared.domain.paired import Paired

ROUNDING = 1e-9
"""Differences of metrics below this are the last digits of floating point."""


class DeployWhen(StrEnum):
    """`off` lists the run as available; `if_better` compares; `always` deploys."""

    OFF = "off"
    IF_BETTER = "if_better"
    ALWAYS = "always"


@dataclass(frozen=True)
class GatePolicy:
    """What makes a run better: `metric` (higher is better) by `minimum_margin`, in its own unit.

    Each of `guard_metrics` may fall below the live version's by at most its bound. With
    `significance` (a p-value, 0-1) the gain must also be one over the same customers.
    """

    when: DeployWhen
    metric: str
    minimum_margin: float = 0.0
    guard_metrics: Mapping[str, float] = field(default_factory=dict)
    significance: float | None = None


@dataclass(frozen=True)
class Decision:
    """The gate's answer, the sentence that explains it, and all the numbers it is made of.

    `better_than` is the id of the deployment that was live ("": none was) where the answer
    hangs on that, and None where it does not.
    """

    deploy: bool
    why: str
    comparison: Mapping[str, Any] = field(default_factory=dict)
    better_than: str | None = None


def decide(
    policy: GatePolicy,
    candidate: Mapping[str, float],
    live: Mapping[str, float] | None,
    by_customer: Paired | str = "no results by customer were given",
) -> Decision:
    """Return whether the run goes on.

    `live` holds the metrics that the active version was deployed with, or None when no
    version is active: then whatever was measured is better than nothing. `by_customer` is
    the difference over the same customers, or why there is none.
    """
    if policy.when is DeployWhen.OFF:
        return Decision(False, "the model's policy is off: the run is listed as available")
    comparison = _compare(policy, candidate, live, by_customer) if live is not None else {}
    if policy.when is DeployWhen.ALWAYS:
        why = "deployment was asked for, whatever the metrics say"
        return Decision(True, why, comparison)
    if live is None:
        return Decision(True, "no version is active yet")
    refusal = _refusal(policy, candidate, live, by_customer)
    if refusal:
        return Decision(False, refusal, comparison)
    return Decision(True, f"better: {_numbers(policy, candidate, live, by_customer)}", comparison)


def _refusal(
    policy: GatePolicy,
    candidate: Mapping[str, float],
    live: Mapping[str, float],
    by_customer: Paired | str,
) -> str:
    """Return why the run is not deployed; empty where it is."""
    metric, margin = policy.metric, policy.minimum_margin
    if metric not in candidate:
        return f"the run does not report {metric}, so it cannot be called better"
    if metric not in live:
        return f"the live version does not report {metric}: nothing to compare"
    gain = candidate[metric] - live[metric]
    numbers = _numbers(policy, candidate, live, by_customer)
    if gain <= 0 or gain < margin - ROUNDING:
        return f"not better by {margin:g}: {numbers}"
    if fallen := _fallen(policy, candidate, live):
        return f"{'; '.join(fallen)} (though {numbers})"
    if policy.significance is None:
        return ""
    if isinstance(by_customer, str):
        return f"better, and that cannot be tested: {by_customer} ({numbers})"
    if by_customer.mean <= 0 or by_customer.p >= policy.significance:
        bound = f"p must be below {policy.significance:g}"
        return f"better, and that may be chance ({bound}): {numbers}"
    return ""


def _fallen(
    policy: GatePolicy, candidate: Mapping[str, float], live: Mapping[str, float]
) -> list[str]:
    """Return a sentence for each guard metric that fell too far; what live lacks cannot fall."""
    fallen = []
    for metric, bound in sorted(policy.guard_metrics.items()):
        if metric not in live:
            continue
        if metric not in candidate:
            fallen.append(f"the run does not report {metric}, which is guarded")
        elif live[metric] - candidate[metric] > bound + ROUNDING:
            fallen.append(
                f"{metric} falls by more than {bound:g}: {candidate[metric]:.4f} "
                f"against {live[metric]:.4f} live"
            )
    return fallen


def _numbers(
    policy: GatePolicy,
    candidate: Mapping[str, float],
    live: Mapping[str, float],
    by_customer: Paired | str,
) -> str:
    ours, theirs = candidate[policy.metric], live[policy.metric]
    said = f"{policy.metric} {ours:.4f} against {theirs:.4f} live ({ours - theirs:+.4f})"
    if isinstance(by_customer, str):
        return said
    return (
        f"{said}; for the same {by_customer.n:,} customers {by_customer.mean:+.4f} "
        f"({by_customer.confidence * 100:g} % interval {by_customer.low:+.4f} to "
        f"{by_customer.high:+.4f}, p {by_customer.p:.2g})"
    )


def _compare(
    policy: GatePolicy,
    candidate: Mapping[str, float],
    live: Mapping[str, float],
    by_customer: Paired | str,
) -> dict[str, Any]:
    """Return the numbers to record: texts, finite numbers and None only."""
    tested = {"why": by_customer} if isinstance(by_customer, str) else asdict(by_customer)
    return {
        "metric": policy.metric,
        **_pair(policy.metric, candidate, live),
        "minimum_margin": policy.minimum_margin,
        "guards": {
            metric: {**_pair(metric, candidate, live), "may_fall_by": bound}
            for metric, bound in sorted(policy.guard_metrics.items())
        },
        "significance": policy.significance,
        "by_customer": tested,
    }


def _pair(
    metric: str, candidate: Mapping[str, float], live: Mapping[str, float]
) -> dict[str, float | None]:
    ours, theirs = candidate.get(metric), live.get(metric)
    gain = None if ours is None or theirs is None else ours - theirs
    # Two finite numbers of 1e308 differ by an infinite one, which JSON does not know.
    return {
        "candidate": ours,
        "live": theirs,
        "gain": gain if gain is not None and math.isfinite(gain) else None,
    }
