"""The canary's judgement of a stage: candidate against live, over the same minutes.

Precedence, the first that applies:

1. **fail**: an absolute limit is broken, or a test says worse and by as much as matters, or a
   webhook says so. It does not wait for the minimum of requests: the tests know how little
   a few requests say. One block alone never fails a stage, however bad it is: an instance
   that dies fails many requests at once, and another one starts.
2. **inconclusive**: nothing measured yet, too few requests on either side, worse by as much as
   matters while it may still be chance, or a webhook that did not answer. No data is never a
   pass.
3. **pass**.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from shared.domain.histogram import Histogram, merge
from shared.domain.policy import CanaryPolicy
from shared.domain.sequential import Pair, Tally, above_limit, worse_than_live

SHORTEST_BLOCK_S = 60
"""Monitoring's shortest period: what is measured is asked for in blocks of it, or longer."""
BLOCKS_AT_MOST = 1800
"""How many blocks a stage is cut into: where it may last for days, they are longer."""
BEFORE_S = 3600
"""How long ahead of a stage the live side is measured."""
SLOW_SHARE = 0.05
"""The share of requests that are slower than a p95."""
REFERENCE_REQUESTS = 50
"""How many latencies of the live side say where its p95 is, before any are compared with it."""
LEAST_INCREASE = 0.001
"""Where every increase matters, the test of errors still has to have one in mind (0-1)."""
MEASURED_SHARE = 0.5
"""Counts and latencies arrive apart: of fewer latencies than this share nothing is said."""
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
    """One period of measurements, both sides."""

    candidate: Side
    live: Side


@dataclass(frozen=True)
class Judgement:
    """The verdict, a sentence for people, and the numbers behind both."""

    verdict: Verdict
    why: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """Which measurements judge a stage: `begin` is where the first block asked for begins.

    Of the blocks of `block_s` seconds, `before` lie ahead of the stage, `warming` follow,
    which count for nothing, and `visible` of them are the stage's so far.
    """

    begin: datetime
    block_s: int
    before: int
    warming: int
    visible: int

    @property
    def blocks(self) -> int:
        """How many are asked for."""
        return self.before + self.warming + self.visible


def window(stage_began: datetime, now: datetime, longest_s: float, policy: CanaryPolicy) -> Window:
    """Return the window of a stage which may last for `longest_s`: its blocks never change."""
    block_s = SHORTEST_BLOCK_S * max(1, math.ceil(longest_s / SHORTEST_BLOCK_S / BLOCKS_AT_MOST))
    begin = stage_began + timedelta(seconds=policy.warm_up_s)
    seen_s = (now - timedelta(seconds=policy.metrics_lag_s) - begin).total_seconds()
    before, warming = math.ceil(BEFORE_S / block_s), math.ceil(policy.warm_up_s / block_s)
    return Window(
        begin - timedelta(seconds=(before + warming) * block_s),
        block_s,
        before,
        warming,
        max(0, int(seen_s // block_s)),
    )


def sides(
    measured: Mapping[str, Sequence[Side]], window: Window, candidate: str, live: Sequence[str]
) -> tuple[list[Block], Side]:
    """Return the stage's blocks, and the live side before it, from each revision's blocks.

    `live` are the revisions that had traffic before the rollout, whatever its split was.
    """

    def at(revision: str, index: int) -> Side:
        found = measured.get(revision)
        return found[index] if found else Side()

    stage = range(window.before + window.warming, window.blocks)
    blocks = [
        Block(at(candidate, index), _total([at(revision, index) for revision in live]))
        for index in stage
    ]
    before = _total([at(name, index) for name in live for index in range(window.before)])
    return blocks, before


def judge(blocks: Sequence[Block], before: Side, has_live: bool, policy: CanaryPolicy) -> Judgement:
    """Return the verdict on the blocks so far; `before` is the live side ahead of the stage.

    Without a live version (the first deployment) only the absolute limits count.
    """
    candidate = _total([block.candidate for block in blocks])
    live = _total([block.live for block in blocks])
    numbers = _numbers(candidate, live, has_live)
    stage = _Stage(blocks, candidate, live, before, policy, TESTS / policy.false_alarm, numbers)
    tests = (_too_many_errors, _too_slow, *((_more_errors, _slower) if has_live else ()))
    found = [worse for test in tests if (worse := test(stage))]
    for worse in found:
        if worse.proven:
            return Judgement(Verdict.FAIL, worse.why, numbers)
    if why := _too_little(candidate, live, has_live, policy):
        return Judgement(Verdict.INCONCLUSIVE, why, numbers)
    if found:
        why = f"may be chance, more requests will tell: {found[0].why}"
        return Judgement(Verdict.INCONCLUSIVE, why, numbers)
    return Judgement(Verdict.PASS, _passed(candidate, live, has_live, numbers), numbers)


@dataclass(frozen=True)
class _Stage:
    """What the tests look at: blocks and their totals. They note their evidence in `numbers`.

    `needed` is the evidence that shows a difference; one block counts for half of it at most.
    """

    blocks: Sequence[Block]
    candidate: Side
    live: Side
    before: Side
    policy: CanaryPolicy
    needed: float
    numbers: dict[str, float]


@dataclass(frozen=True)
class _Worse:
    """Something that is worse by as much as matters, and whether chance is ruled out."""

    why: str
    proven: bool


def combine(judgements: Sequence[Judgement]) -> Judgement:
    """Return the one that decides: fail before inconclusive before pass, the first of equals."""
    order = [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]
    return min(judgements, key=lambda one: order.index(one.verdict))


def _too_many_errors(stage: _Stage) -> _Worse | None:
    tallies = [_errors(block.candidate) for block in stage.blocks]
    stage.numbers["evidence_error_limit"] = above_limit(
        tallies, stage.policy.max_error_rate, stage.needed / 2
    )
    rate = _errors(stage.candidate).rate
    if rate <= stage.policy.max_error_rate:
        return None
    why = (
        f"{stage.candidate.errors} of {stage.candidate.requests} requests failed ({rate:.1%}); "
        f"the limit is {stage.policy.max_error_rate:.1%}"
    )
    return _Worse(why, stage.numbers["evidence_error_limit"] >= stage.needed)


def _too_slow(stage: _Stage) -> _Worse | None:
    if stage.policy.max_p95_ms is None or stage.candidate.latencies is None:
        return None
    limit = stage.policy.max_p95_ms
    slow = [_slower_than(block.candidate, limit) for block in stage.blocks]
    stage.numbers["evidence_latency_limit"] = above_limit(slow, SLOW_SHARE, stage.needed / 2)
    p95 = stage.candidate.latencies.percentile(95)
    if p95 <= limit:
        return None
    why = (
        f"p95 is {p95:.0f} ms over {stage.candidate.requests} requests; the limit is {limit:.0f} ms"
    )
    return _Worse(why, stage.numbers["evidence_latency_limit"] >= stage.needed)


def _more_errors(stage: _Stage) -> _Worse | None:
    matters = stage.policy.error_rate_increase
    pairs = [Pair(_errors(block.candidate), _errors(block.live)) for block in stage.blocks]
    evidence = worse_than_live(
        pairs, max(matters, LEAST_INCREASE), _errors(stage.before), stage.needed / 2
    )
    stage.numbers["evidence_errors"] = evidence
    mine, theirs = _errors(stage.candidate).rate, _errors(stage.live).rate
    if mine <= theirs or mine - theirs < matters or not stage.live.requests:
        return None
    why = (
        f"{mine:.2%} of {stage.candidate.requests} requests failed, {theirs:.2%} of "
        f"{stage.live.requests} at the live version; {matters:.2%} more is what matters"
    )
    return _Worse(why, evidence >= stage.needed)


def _slower(stage: _Stage) -> _Worse | None:
    """Compare the shares of requests that are slower than a threshold known beforehand.

    The threshold is the live version's p95, and `latency_ratio` times that: half of the
    evidence each, since a tail that moves far may leave the share beyond the p95 as it was.
    """
    reference, later = _reference(stage.before, stage.blocks)
    if not reference.count or not stage.candidate.latencies or not stage.live.latencies:
        return None
    p95 = reference.percentile(95)
    evidence = 0.0
    for threshold in (p95, p95 * stage.policy.latency_ratio):
        pairs = [
            Pair(_slower_than(one.candidate, threshold), _slower_than(one.live, threshold))
            for one in later
        ]
        known = _slower_than(Side(reference.count, 0, reference), threshold)
        evidence += worse_than_live(pairs, SLOW_SHARE / 2, known, stage.needed / 2) / 2
    stage.numbers["evidence_latency"] = evidence
    mine, theirs = stage.candidate.latencies.percentile(95), stage.live.latencies.percentile(95)
    if mine <= theirs or mine < stage.policy.latency_ratio * theirs:
        return None
    why = (
        f"p95 is {mine:.0f} ms over {stage.candidate.requests} requests, {theirs:.0f} ms at the "
        f"live version; {stage.policy.latency_ratio:g} times is what matters"
    )
    return _Worse(why, evidence >= stage.needed)


def _reference(before: Side, blocks: Sequence[Block]) -> tuple[Histogram, Sequence[Block]]:
    """Return enough of the live side's latencies to know its p95, and the blocks after them.

    A block that is part of the reference is not compared with it: so the threshold is known
    before each block that is.
    """
    known = [before.latencies] if before.latencies else []
    taken = 0
    while taken < len(blocks) and sum(one.count for one in known) < REFERENCE_REQUESTS:
        latencies = blocks[taken].live.latencies
        known += [latencies] if latencies else []
        taken += 1
    return merge(known) if known else Histogram(0, 0.0, (), ()), blocks[taken:]


def _too_little(candidate: Side, live: Side, has_live: bool, policy: CanaryPolicy) -> str:
    least = policy.minimum_requests
    if not candidate.requests:
        return "nothing of the candidate has been measured yet"
    if candidate.requests < least:
        return f"{candidate.requests} requests so far, {least} are needed"
    if has_live and live.requests < least:
        return f"the live version had {live.requests} requests so far, {least} are needed"
    for name, side in (("candidate", candidate), ("live version", live)):
        if (name == "candidate" or has_live) and _timed(side) < MEASURED_SHARE * side.requests:
            return (
                f"of {side.requests} requests of the {name} the latencies of "
                f"{_timed(side)} have been measured so far"
            )
    return ""


def _timed(side: Side) -> int:
    return side.latencies.count if side.latencies else 0


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
