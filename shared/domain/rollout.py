"""How a deployment takes over traffic: at once, or in steps with a bake time each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

LONGEST_ROLLOUT_S = 30 * 24 * 3600
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


class Strategy(StrEnum):
    """Immediate moves 100 % in one step; gradual bakes at each step below 100."""

    IMMEDIATE = "immediate"
    GRADUAL = "gradual"


@dataclass(frozen=True)
class Stage:
    """One step of a rollout: the candidate's share, then how long it bakes there."""

    percent: int
    bake_s: int


@dataclass(frozen=True)
class RolloutPlan:
    """The stages of a rollout, ascending, the last at 100 % with no bake time."""

    strategy: Strategy
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        percents = [stage.percent for stage in self.stages]
        ascends = all(a < b for a, b in pairwise(percents))
        if not percents or not ascends or percents[0] < 1 or percents[-1] != 100:
            raise ValueError(f"a rollout's steps ascend from 1 or more to 100, got {percents}")


def plan_rollout(strategy: Strategy, steps_percent: Sequence[int], over_s: int) -> RolloutPlan:
    """Return the plan; `over_s` (seconds) is shared equally by the steps below 100.

    A last step of 100 is added where it is left out. ValueError when the steps do not
    ascend within 1-100, or a gradual rollout has no step below 100.
    """
    if strategy is Strategy.IMMEDIATE:
        return RolloutPlan(strategy, (Stage(100, 0),))
    if not 0 <= over_s <= LONGEST_ROLLOUT_S:
        raise ValueError(f"a rollout takes at most {LONGEST_ROLLOUT_S} s, got {over_s}")
    below = [percent for percent in steps_percent if percent != 100]
    if not below:
        raise ValueError("a gradual rollout needs at least one step below 100 percent")
    if list(steps_percent) != [*below, *([100] if 100 in steps_percent else [])]:
        raise ValueError(f"a rollout's steps ascend to 100, got {list(steps_percent)}")
    bake_s, odd_seconds = divmod(over_s, len(below))
    stages = [
        Stage(percent, bake_s + (1 if index < odd_seconds else 0))
        for index, percent in enumerate(below)
    ]
    return RolloutPlan(strategy, (*stages, Stage(100, 0)))


def parse_duration(text: str) -> int:
    """Return the seconds in `1h`, `30m`, `90s` or `1h30m`; ValueError for anything else."""
    found = _DURATION.fullmatch(text.strip())
    if not found or not any(found.groups()):
        raise ValueError(f"a duration looks like 1h, 30m, 90s or 1h30m, got {text!r}")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds
