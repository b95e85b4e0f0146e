"""Latencies counted in buckets, and the percentiles that can be read from them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    """`count` values in ms (0 or more), their mean, and how many fell into which bucket.

    `bounds` ascend: bucket 0 is below the first, bucket i is [bounds[i-1], bounds[i]), the
    last one is open. `counts` may end early: buckets that it leaves out are empty.
    """

    count: int
    mean: float
    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    def percentile(self, percent: float) -> float:
        """Return a percentile (0-100) in ms; ValueError without values.

        Within its bucket the values are taken as spread evenly (linear interpolation), so
        the error is at most the bucket's width. Of the open bucket only its lower bound is
        known, and that is the answer.
        """
        if not self.count:
            raise ValueError("a histogram without values has no percentiles")
        wanted = self.count * percent / 100
        seen = 0
        for bucket, count in enumerate(self.counts):
            if count and seen + count >= wanted:
                low, high = self._edges(bucket)
                return low + (high - low) * (wanted - seen) / count
            seen += count
        raise ValueError(f"the buckets hold {seen} values of {self.count}")

    def _edges(self, bucket: int) -> tuple[float, float]:
        if not self.bounds:
            return self.mean, self.mean
        low = max(0.0, self.bounds[bucket - 1]) if bucket else 0.0
        high = self.bounds[bucket] if bucket < len(self.bounds) else low
        return low, max(low, high)


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """Return the histogram of all values; ValueError where bounds differ, or without any."""
    bounds = histograms[0].bounds
    if any(histogram.bounds != bounds for histogram in histograms):
        raise ValueError("histograms of different buckets cannot be merged")
    count = sum(histogram.count for histogram in histograms)
    total = sum(histogram.mean * histogram.count for histogram in histograms)
    columns = itertools.zip_longest(*(histogram.counts for histogram in histograms), fillvalue=0)
    return Histogram(count, total / count if count else 0.0, bounds, tuple(map(sum, columns)))
