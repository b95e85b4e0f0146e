"""Whether a training run should be deployed, judged by its own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class DeployWhen(StrEnum):
    """`off` lists the run as available; `if_better` compares; `always` deploys."""

    OFF = "off"
    IF_BETTER = "if_better"
    ALWAYS = "always"


@dataclass(frozen=True)
class Decision:
    """The gate's answer and the sentence that explains it, numbers included."""

    deploy: bool
    why: str


def decide(
    when: DeployWhen,
    metric: str,
    minimum_margin: float,
    candidate: Mapping[str, float],
    live: Mapping[str, float] | None,
) -> Decision:
    """Return whether the run goes on, by `metric` (higher is better, margin in its own unit).

    `live` holds the metrics that the active version was deployed with, or None when no
    version is active: then whatever was measured is better than nothing.
    """
    if when is DeployWhen.OFF:
        return Decision(False, "the model's policy is off: the run is listed as available")
    if when is DeployWhen.ALWAYS:
        return Decision(True, "deployment was asked for, whatever the metrics say")
    if live is None:
        return Decision(True, "no version is active yet")
    if metric not in candidate:
        return Decision(False, f"the run does not report {metric}, so it cannot be called better")
    if metric not in live:
        return Decision(False, f"the live version does not report {metric}: nothing to compare")
    gain = candidate[metric] - live[metric]
    numbers = f"{metric} {candidate[metric]:.4f} against {live[metric]:.4f} live ({gain:+.4f})"
    if gain > 0 and gain >= minimum_margin:
        return Decision(True, f"better: {numbers}")
    return Decision(False, f"not better by {minimum_margin:g}: {numbers}")
