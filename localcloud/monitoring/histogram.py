"""Latencies counted in exponential buckets, as Monitoring's distributions are."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from google.api import distribution_pb2

# Bucket 0 is [0, SCALE_MS); bucket i is [SCALE_MS * GROWTH^(i-1), SCALE_MS * GROWTH^i); the last
# one is open. 160 finite buckets reach 35 minutes with at most 10 % width.
SCALE_MS = 0.5
GROWTH = 1.1
FINITE_BUCKETS = 160


@dataclass
class Histogram:
    """A number of values in ms, their sums, and how many fell into which bucket."""

    count: int = 0
    total: float = 0.0
    total_of_squares: float = 0.0
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, value_ms: float) -> None:
        """Count one value."""
        bucket = _bucket(value_ms)
        self.count += 1
        self.total += value_ms
        self.total_of_squares += value_ms * value_ms
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Add another's values to these."""
        self.count += other.count
        self.total += other.total
        self.total_of_squares += other.total_of_squares
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def percentile(self, percent: float) -> float:
        """Return a percentile (0-100) in ms, linear within its bucket; 0.0 without values."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self.buckets):
            count = self.buckets[bucket]
            if seen + count >= wanted:
                low, high = _bounds(bucket)
                return low + (high - low) * (wanted - seen) / count
            seen += count
        return 0.0

    def distribution(self) -> Any:
        """Return the API's message."""
        mean = self.total / self.count if self.count else 0.0
        message = distribution_pb2.Distribution(
            count=self.count,
            mean=mean,
            sum_of_squared_deviation=max(0.0, self.total_of_squares - mean * self.total),
        )
        options = message.bucket_options.exponential_buckets
        options.num_finite_buckets = FINITE_BUCKETS
        options.growth_factor = GROWTH
        options.scale = SCALE_MS
        last = max(self.buckets, default=-1)
        message.bucket_counts.extend(self.buckets.get(bucket, 0) for bucket in range(last + 1))
        return message

    def buckets_json(self) -> str:
        return json.dumps(self.buckets)

    @staticmethod
    def buckets_from_json(text: str) -> dict[int, int]:
        return {int(bucket): count for bucket, count in json.loads(text).items()}


def _bucket(value_ms: float) -> int:
    if value_ms < SCALE_MS:
        return 0
    return min(FINITE_BUCKETS + 1, 1 + int(math.log(value_ms / SCALE_MS, GROWTH)))


def _bounds(bucket: int) -> tuple[float, float]:
    low = 0.0 if bucket == 0 else SCALE_MS * GROWTH ** (bucket - 1)
    # The open bucket has no upper bound; its lower one is all that is known.
    high = low if bucket > FINITE_BUCKETS else SCALE_MS * GROWTH**bucket
    return low, high
