"""The canary's judgement of a stage: candidate against live, over the same minutes.

Precedence, the first that applies:

1. **fail**: an absolute limit is broken, or a test says worse by as much as matters, or a
   webhook says so. It does not wait for the minimum of requests: the tests know how little
   a few requests say.
2. **inconclusive**: nothing measured yet, too few requests on either side, or a webhook that
   did not answer. No data is never a pass.
3. **pass**.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from shared.domain.histogram import Histogram, merge
from shared.domain.policy import CanaryPolicy
from shared.domain.sequential import Pair, Tally, above_limit, worse_than_live

BLOCK = timedelta(minutes=1)
"""Monitoring's shortest period: what is measured arrives in blocks of it."""
SLOW_SHARE = 0.05
"""The share of requests that are slower than a p95."""
TESTS = 4
"""Errors and latency, each against the live version and an absolute limit: they share the
false alarms that are allowed (the Bonferroni bound)."""


class Verdict(StrEnum):
    """What the judge says of a stage."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Side:
    """One side in one block: its requests, those answered 5xx, and their latencies (ms)."""

    requests: int = 0
    errors: int = 0
    latencies: Histogram | None = None


@dataclass(frozen=True)
class Block:
    """One period of measurements, both sides; `begin` to `begin + BLOCK`."""

    begin: datetime
    candidate: Side
    live: Side


@dataclass(frozen=True)
class Judgement:
    """The verdict, a sentence for people, and the numbers behind both."""

    verdict: Verdict
    why: str
    numbers: dict[str, float] = field(default_factory=dict)


def window(stage_began: datetime, now: datetime, policy: CanaryPolicy) -> tuple[datetime, int]:
    """Return where a stage's measurements begin, and how many blocks of them are visible."""
    begin = stage_began + timedelta(seconds=policy.warm_up_s)
    visible = now - timedelta(seconds=policy.metrics_lag_s) - begin
    return begin, max(0, visible // BLOCK)


def judge(blocks: Sequence[Block], before: Side, has_live: bool, policy: CanaryPolicy) -> Judgement:
    """Return the verdict on the blocks so far; `before` is the live side ahead of the stage.

    Without a live version (the first deployment) only the absolute limits count.
    """
    candidate = _total([block.candidate for block in blocks])
    live = _total([block.live for block in blocks])
    numbers = _numbers(candidate, live, has_live)
    needed = TESTS / policy.false_alarm
    for find in (_too_many_errors, _too_slow):
        if why := find(blocks, candidate, policy, needed, numbers):
            return Judgement(Verdict.FAIL, why, numbers)
    if has_live:
        for compare in (_more_errors, _slower):
            if why := compare(blocks, candidate, live, before, policy, needed, numbers):
                return Judgement(Verdict.FAIL, why, numbers)
    if why := _too_little(candidate, live, has_live, policy):
        return Judgement(Verdict.INCONCLUSIVE, why, numbers)
    return Judgement(Verdict.PASS, _passed(candidate, live, has_live, numbers), numbers)


def combine(judgements: Sequence[Judgement]) -> Judgement:
    """Return the one that decides: fail before inconclusive before pass, the first of equals."""
    order = [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]
    return min(judgements, key=lambda one: order.index(one.verdict))


def _too_many_errors(
    blocks: Sequence[Block],
    candidate: Side,
    policy: CanaryPolicy,
    needed: float,
    numbers: dict[str, float],
) -> str:
    tallies = [_errors(block.candidate) for block in blocks]
    numbers["evidence_error_limit"] = above_limit(tallies, policy.max_error_rate)
    rate = _errors(candidate).rate
    if numbers["evidence_error_limit"] < needed or rate <= policy.max_error_rate:
        return ""
    return (
        f"{candidate.errors} of {candidate.requests} requests failed ({rate:.1%}); "
        f"the limit is {policy.max_error_rate:.1%}"
    )


def _too_slow(
    blocks: Sequence[Block],
    candidate: Side,
    policy: CanaryPolicy,
    needed: float,
    numbers: dict[str, float],
) -> str:
    if policy.max_p95_ms is None or candidate.latencies is None:
        return ""
    limit = policy.max_p95_ms
    slow = [_slower_than(block.candidate, limit) for block in blocks]
    numbers["evidence_latency_limit"] = above_limit(slow, SLOW_SHARE)
    p95 = candidate.latencies.percentile(95)
    if numbers["evidence_latency_limit"] < needed or p95 <= limit:
        return ""
    return f"p95 is {p95:.0f} ms over {candidate.requests} requests; the limit is {limit:.0f} ms"


def _more_errors(
    blocks: Sequence[Block],
    candidate: Side,
    live: Side,
    before: Side,
    policy: CanaryPolicy,
    needed: float,
    numbers: dict[str, float],
) -> str:
    matters = policy.error_rate_increase
    pairs = [Pair(_errors(block.candidate), _errors(block.live)) for block in blocks]
    evidence = worse_than_live(pairs, max(matters, _LEAST_INCREASE), _errors(before))
    numbers["evidence_errors"] = evidence
    mine, theirs = _errors(candidate).rate, _errors(live).rate
    if evidence < needed or mine - theirs < matters:
        return ""
    return (
        f"{mine:.2%} of {candidate.requests} requests failed, {theirs:.2%} of {live.requests} "
        f"at the live version; {matters:.2%} more is what matters"
    )


def _slower(
    blocks: Sequence[Block],
    candidate: Side,
    live: Side,
    before: Side,
    policy: CanaryPolicy,
    needed: float,
    numbers: dict[str, float],
) -> str:
    """Compare the shares of requests that are slower than a threshold known beforehand.

    The threshold is the live version's p95, and `latency_ratio` times that: half of the
    evidence each, since a tail that moves far may leave the share beyond the p95 as it was.
    """
    reference = before.latencies or (blocks[0].live.latencies if blocks else None)
    later = blocks if before.latencies else blocks[1:]
    if not reference or not reference.count or not candidate.latencies or not live.latencies:
        return ""
    p95 = reference.percentile(95)
    evidence = 0.0
    for threshold in (p95, p95 * policy.latency_ratio):
        pairs = [
            Pair(_slower_than(one.candidate, threshold), _slower_than(one.live, threshold))
            for one in later
        ]
        known = _slower_than(Side(reference.count, 0, reference), threshold)
        evidence += worse_than_live(pairs, SLOW_SHARE / 2, known) / 2
    numbers["evidence_latency"] = evidence
    mine, theirs = candidate.latencies.percentile(95), live.latencies.percentile(95)
    if evidence < needed or mine < policy.latency_ratio * theirs:
        return ""
    return (
        f"p95 is {mine:.0f} ms over {candidate.requests} requests, {theirs:.0f} ms at the live "
        f"version; {policy.latency_ratio:g} times is what matters"
    )


_LEAST_INCREASE = 0.001
"""Where every increase matters, the test still has to have one in mind."""


def _too_little(candidate: Side, live: Side, has_live: bool, policy: CanaryPolicy) -> str:
    least = policy.minimum_requests
    if not candidate.requests:
        return "nothing of the candidate has been measured yet"
    if candidate.requests < least:
        return f"{candidate.requests} requests so far, {least} are needed"
    if candidate.latencies is None:
        return "the candidate's latencies have not been measured yet"
    if has_live and live.requests < least:
        return f"the live version had {live.requests} requests so far, {least} are needed"
    return ""


def _passed(candidate: Side, live: Side, has_live: bool, numbers: dict[str, float]) -> str:
    rates = f"{_errors(candidate).rate:.2%} errors, p95 {numbers['candidate_p95_ms']:.0f} ms"
    if not has_live:
        return f"{rates} over {candidate.requests} requests; no live version to compare with"
    p95 = f"{numbers['live_p95_ms']:.0f} ms" if "live_p95_ms" in numbers else "unknown"
    return (
        f"{rates} over {candidate.requests} requests; "
        f"{_errors(live).rate:.2%} and {p95} at the live version"
    )


def _numbers(candidate: Side, live: Side, has_live: bool) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, side in (("candidate", candidate), ("live", live)):
        if name == "live" and not has_live:
            continue
        numbers[f"{name}_requests"] = side.requests
        numbers[f"{name}_errors"] = side.errors
        if side.latencies is not None and side.latencies.count:
            numbers[f"{name}_p50_ms"] = side.latencies.percentile(50)
            numbers[f"{name}_p95_ms"] = side.latencies.percentile(95)
    return numbers


def _total(sides: Sequence[Side]) -> Side:
    measured = [one.latencies for one in sides if one.latencies and one.latencies.count]
    return Side(
        sum(one.requests for one in sides),
        sum(one.errors for one in sides),
        merge(measured) if measured else None,
    )


def _errors(side: Side) -> Tally:
    return Tally(side.requests, side.errors)


def _slower_than(side: Side, threshold_ms: float) -> Tally:
    """Count the requests in buckets that begin at the threshold or above.

    The bucket that it falls into counts as fast on both sides: the same rule for both.
    """
    found = side.latencies
    if found is None:
        return Tally(0, 0)
    lows = (0.0, *found.bounds)
    slow = sum(count for low, count in zip(lows, found.counts, strict=False) if low >= threshold_ms)
    return Tally(found.count, slow)
