"""Tests of rates that may be looked at after every block of data, and stay honest.

Each function returns an e-value: evidence against "no worse", which every block multiplies
by a factor of its own. Whatever is looked at, and whenever, the chance that it ever reaches
1/a while the hypothesis holds is at most a (Ville's inequality). So there is no number of
looks to correct for, and no fixed sample size to wait for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALTERNATIVES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Multiples of the smallest difference that matters, which the evidence is spread over."""
ODDS = (1.25, 1.5, 2.0, 4.0, 10.0, 30.0, 100.0)
"""Multiples of an absolute limit's odds, likewise."""
HIGHEST_LOG = 690.0
"""The largest exponent that is a number: e-values end at some 1e299."""
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Tally:
    """How many requests there were, and how many of them count as bad (errors, or slow)."""

    requests: int
    bad: int

    @property
    def rate(self) -> float:
        """The share of bad ones, 0 to 1; 0 where there was no request."""
        return self.bad / self.requests if self.requests else 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.requests + other.requests, self.bad + other.bad)


@dataclass(frozen=True)
class Pair:
    """One block: both sides over the same time, so that what hits both tells nothing."""

    candidate: Tally
    live: Tally


def worse_than_live(
    blocks: Sequence[Pair], matters: float, before: Tally, block_at_most: float = math.inf
) -> float:
    """Return the evidence (e-value) that the candidate's rate is above the live one's.

    Exact for two streams of independent requests whose common rate may change from block to
    block: Turner, Ly, Grünwald, "Generic E-variables for exact sequential k-sample tests
    that allow for optional stopping", J. Statistical Planning and Inference 230 (2024). In
    every block the alternative is fixed before its data: the live rate as known until then
    (`before`: what was measured before the first block), and `matters` (0-1) or a multiple
    of it more for the candidate; the evidence is the mean over `ALTERNATIVES`.

    Requests are independent only roughly: an instance that dies fails many at once. So one
    block counts for a factor of `block_at_most` at most, which leaves an e-value one.
    """
    highest = math.log(block_at_most)
    known = before
    rows = []
    for block in blocks:
        live = (known.bad + 0.5) / (known.requests + 1)
        rows.append(
            [
                min(_log_evidence(block, _rate(live), _rate(live + multiple * matters)), highest)
                for multiple in ALTERNATIVES
            ]
        )
        known += block.live
    return _mixed(rows)


def above_limit(blocks: Sequence[Tally], limit: float, block_at_most: float = math.inf) -> float:
    """Return the evidence (e-value) that the rate is above `limit` (0-1), whatever is live.

    A likelihood ratio against the limit itself, the hardest of the rates that are allowed
    (they order by monotone likelihood ratio); the mean over `ODDS` times the limit's odds.
    For `block_at_most` see `worse_than_live`.
    """
    base = _rate(limit)
    others = [_rate(times * base / (1 - base + times * base)) for times in ODDS]
    highest = math.log(block_at_most)
    return _mixed(
        [[min(_log_ratio(block, other, base), highest) for other in others] for block in blocks]
    )


def _mixed(rows: Sequence[Sequence[float]]) -> float:
    """Return the evidence of the log factors of each block (a row), one an alternative.

    It is spread evenly over the alternatives, and over the block from which on one holds:
    1/2, 1/6, 1/12, ... for the first, second, third (all together: 1). So a candidate that
    turns bad late is not carried by its good beginning. What is not used yet stays as it is.
    """
    held = [-math.inf] * len(rows[0]) if rows else []
    for number, row in enumerate(rows, 1):
        begun = -math.log(number * (number + 1))
        held = [_log_sum(log, begun) + factor for log, factor in zip(held, row, strict=True)]
    found = sum(math.exp(min(log, HIGHEST_LOG)) for log in held) / len(held) if held else 0.0
    return found + 1 / (len(rows) + 1)


def _log_sum(one: float, other: float) -> float:
    """Return log(exp(one) + exp(other)) of two, of which the second is finite."""
    high = max(one, other)
    return high + math.log1p(math.exp(min(one, other) - high))


def _log_evidence(block: Pair, live: float, candidate: float) -> float:
    requests = block.candidate.requests + block.live.requests
    if not block.candidate.requests or not block.live.requests:
        return 0.0
    # The one common rate that this pair of alternatives has to be better than.
    common = (block.candidate.requests * candidate + block.live.requests * live) / requests
    return _log_ratio(block.candidate, candidate, common) + _log_ratio(block.live, live, common)


def _log_ratio(tally: Tally, rate: float, base: float) -> float:
    good = tally.requests - tally.bad
    return tally.bad * math.log(rate / base) + good * math.log((1 - rate) / (1 - base))


def _rate(value: float) -> float:
    return min(max(value, _SMALLEST), 1 - _SMALLEST)
