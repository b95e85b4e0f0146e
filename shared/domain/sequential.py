"""Tests of rates that may be looked at after every block of data, and stay honest.

Each function returns an e-value: evidence against "no worse", which grows by a factor with
every block. Whatever is looked at, and whenever, the chance that it ever reaches 1/a while
the hypothesis holds is at most a (Ville's inequality). So there is no number of looks to
correct for, and no fixed sample size to wait for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALTERNATIVES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Multiples of the smallest difference that matters, which the evidence is spread over."""
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


def worse_than_live(blocks: Sequence[Pair], matters: float, before: Tally) -> float:
    """Return the evidence (e-value) that the candidate's rate is above the live one's.

    Exact for two streams of independent requests whose common rate may change from block to
    block: Turner, Ly, Grünwald, "Generic E-variables for exact sequential k-sample tests
    that allow for optional stopping", J. Statistical Planning and Inference 230 (2024). In
    every block the alternative is fixed before its data: the live rate as known until then
    (`before`: what was measured before the first block), and `matters` (0-1) or a multiple
    of it more for the candidate; the evidence is the mean over `ALTERNATIVES`.
    """
    known = before
    logs = [0.0] * len(ALTERNATIVES)
    for block in blocks:
        live = (known.bad + 0.5) / (known.requests + 1)
        for index, multiple in enumerate(ALTERNATIVES):
            logs[index] += _log_evidence(block, _rate(live), _rate(live + multiple * matters))
        known += block.live
    return _mean_of(logs)


def above_limit(blocks: Sequence[Tally], limit: float) -> float:
    """Return the evidence (e-value) that the rate is above `limit` (0-1), whatever is live.

    A likelihood ratio against the limit itself, the hardest of the rates that are allowed
    (they order by monotone likelihood ratio); the mean over seven rates above the limit.
    """
    total = sum(blocks, Tally(0, 0))
    good = total.requests - total.bad
    base = _rate(limit)
    logs = []
    for step in range(1, len(ALTERNATIVES) + 1):
        other = _rate(base + (1 - base) * step / (len(ALTERNATIVES) + 1))
        logs.append(total.bad * math.log(other / base) + good * math.log((1 - other) / (1 - base)))
    return _mean_of(logs)


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


def _mean_of(logs: Sequence[float]) -> float:
    """Return the mean of exp(x), without overflow: at most 1e300."""
    highest = max(logs)
    mean = highest + math.log(sum(math.exp(value - highest) for value in logs) / len(logs))
    return math.exp(min(mean, 690.0))
