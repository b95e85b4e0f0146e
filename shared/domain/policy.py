"""What a model's owner wants of its rollouts: who judges, how strictly, who must agree."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Checking(StrEnum):
    """Whether a check is left out, only reported, or may end the rollout."""

    OFF = "off"
    REPORT = "report"
    GATE = "gate"


class OnInconclusive(StrEnum):
    """What follows a stage that could not be judged in all of its time."""

    HOLD = "hold"
    ABORT = "abort"


class Superseding(StrEnum):
    """What a newer run does to the rollout under way: wait for its end, or replace it."""

    QUEUE = "queue"
    REPLACE = "replace"


class Drift(StrEnum):
    """What reconcile does about traffic that somebody changed by hand."""

    REPORT = "report"
    REPAIR = "repair"


@dataclass(frozen=True)
class CanaryPolicy:
    """How a stage that bakes is judged: candidate against live, over the same window.

    The window begins `warm_up_s` after the stage did and ends `metrics_lag_s` ago, since
    Cloud Monitoring shows a measurement up to 180 s late, in periods of 60 s. With fewer
    than `minimum_requests` of the candidate in it nothing can be said. `false_alarm` is the
    chance that a stage of an equal candidate is ever called worse, however often it is
    looked at. A difference also has to matter: the error rate (0-1) higher by
    `error_rate_increase` or more, the p95 latency `latency_ratio` times the live one's.
    `max_error_rate` (0-1) and `max_p95_ms` hold whatever the live version does. A stage that
    cannot be judged bakes for `inconclusive_for_s` more, then `on_inconclusive` follows.
    `webhooks` are asked too: https URLs that answer {"verdict", "why"}.
    """

    judge: Checking = Checking.GATE
    minimum_requests: int = 200
    warm_up_s: int = 60
    metrics_lag_s: int = 240
    false_alarm: float = 0.01
    error_rate_increase: float = 0.005
    latency_ratio: float = 1.5
    max_error_rate: float = 0.05
    max_p95_ms: float | None = None
    inconclusive_for_s: int = 3600
    on_inconclusive: OnInconclusive = OnInconclusive.HOLD
    webhooks: tuple[str, ...] = ()


@dataclass(frozen=True)
class SkewPolicy:
    """What the candidate is asked before any traffic, over `customers` of the held-out ones.

    Recall@k may differ from training's by `tolerance` (0-1) beyond the sample's own error.
    Bounds that are None are not checked: the share of the catalogue that is recommended at
    all, the share of customers who get the most recommended product, and the share of the
    live version's products that the candidate recommends too, all of them among ten.
    """

    check: Checking = Checking.REPORT
    tolerance: float = 0.02
    customers: int = 2000
    minimum_coverage: float | None = None
    maximum_concentration: float | None = None
    minimum_overlap: float | None = None


@dataclass(frozen=True)
class HoldPolicy:
    """At which shares of traffic a person must agree, and for how long that is waited for."""

    at_percent: tuple[int, ...] = ()
    limit_s: int = 24 * 3600


@dataclass(frozen=True)
class RolloutPolicy:
    """All that a deployment keeps of its model's policy, so that a rollout has one policy."""

    canary: CanaryPolicy = CanaryPolicy()
    skew: SkewPolicy = SkewPolicy()
    hold: HoldPolicy = HoldPolicy()
