"""The twelve candidates, and which part of the pipeline is meant to catch each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmarks.candidate_models import REGION

FIRST, SECOND = 10, 50
"""The shares of traffic of the two stages that are judged, in percent."""
MIB = 1 << 20


class Part(StrEnum):
    """What ended a rollout, or that nothing did."""

    STARTUP = "startup probe"
    HEALTH = "health check"
    SKEW = "skew check"
    ERRORS = "judge, errors"
    LATENCY = "judge, latency"
    PASSED = "passed"
    OTHER = "something else"


@dataclass(frozen=True)
class Load:
    """What the users do: requests/s, how long a stage bakes (s), and the live version's p95 (ms).

    `later_s` is how long the candidate that fails later is right, from its first users on.
    """

    rate: float
    bake_s: int
    later_s: float
    p95_ms: float


@dataclass(frozen=True)
class Candidate:
    """One candidate: the model it is made of, and by whom it must be caught, at which percent.

    `percents` holds the shares of traffic at which it may have been caught; 0 is before any.
    `minutes` of bake time it takes, for the order in which they are tried.
    """

    name: str
    what: str
    caught_by: tuple[Part, ...]
    percents: tuple[int, ...]
    fault: str = ""
    model: str = "good"
    stages: int = 0

    def settings(self, load: Load) -> dict[str, Any]:
        """Return its `fault.json`, {} where the model itself is the fault, or nothing is."""
        if not self.fault:
            return {}
        return {"kind": self.fault, **_settings(self.fault, load)}


def _settings(fault: str, load: Load) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = {
        "errors": {"one_in": 50},
        "region": {"prefix": REGION},
        # One in five later by twice the p95: so the p95 is three times what it was, or more.
        "slow": {"one_in": 5, "delay_ms": max(20.0, 2 * load.p95_ms)},
        "leak": {"bytes": 24 * MIB},
        "empty": {"one_in": 10},
        "later": {"after_s": load.later_s},
        # Between what the fuller of two workers gets at 10 % and the emptier half of 50 %.
        "crash": {"requests": round(0.2 * load.rate * 3), "within_s": 3},
        "version": {"named": "v99"},
        "start": {"seconds": 120},
    }
    return known[fault]


_JUDGE = (Part.ERRORS, Part.LATENCY)
CANDIDATES = (
    Candidate(
        "errors",
        "answers 500 for 2 % of the customers at /recommend",
        (Part.ERRORS,),
        (FIRST,),
        "errors",
        stages=1,
    ),
    Candidate(
        "slow", "is 3 times slower at p95, or more", (Part.LATENCY,), (FIRST,), "slow", stages=1
    ),
    Candidate(
        "leak",
        "leaks memory until it is killed, again and again",
        _JUDGE,
        (FIRST, SECOND),
        "leak",
        stages=1,
    ),
    Candidate("version", "answers as another version", (Part.HEALTH,), (0,), "version"),
    Candidate(
        "one-product",
        "recommends one product to everybody first",
        (Part.SKEW,),
        (0,),
        model="one-product",
    ),
    Candidate(
        "empty",
        "answers nothing for a tenth of the customers",
        (Part.HEALTH, Part.SKEW),
        (0,),
        "empty",
    ),
    Candidate(
        "later",
        "is right at first and fails for everybody after a time",
        (Part.ERRORS,),
        (SECOND,),
        "later",
        stages=2,
    ),
    Candidate(
        "other-run",
        "is the artifacts of another run, with lower recall than was reported",
        (Part.SKEW,),
        (0,),
        model="other-run",
    ),
    Candidate("crash", "crashes under half of the traffic", _JUDGE, (SECOND,), "crash", stages=2),
    Candidate("start", "takes two minutes to start", (Part.STARTUP,), (0,), "start"),
    Candidate(
        "region",
        "passes all checks and fails the customers of one region, of whom none was held out",
        (Part.ERRORS,),
        (FIRST,),
        "region",
        stages=1,
    ),
    Candidate("good", "has nothing wrong", (Part.PASSED,), (100,), stages=2),
)
