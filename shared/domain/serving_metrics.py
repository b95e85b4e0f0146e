"""Hourly figures of each version in service: what was measured, put together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.domain.histogram import Histogram, merge

HOUR = timedelta(hours=1)
AGAIN = 3 * HOUR
"""Whole hours that are collected anew each time: measurements arrive late (by up to 3 min)."""
BACK_AT_MOST = 72 * HOUR
"""How far an outage is caught up: as long as the sketches of customers are kept."""


@dataclass(frozen=True)
class RevisionHour:
    """What Cloud Run measured of a revision from `hour` on, for an hour or until now.

    `by_class` counts requests by the class of their answer (`2xx`, `5xx`).
    """

    revision: str
    hour: datetime
    by_class: Mapping[str, int]
    latencies: Histogram | None


@dataclass(frozen=True)
class ServingHour:
    """One hour of one version (Firestore: serving_metrics/ID).

    `request_count` has every request that reached a container, also those at the tag URL,
    such as health checks. Errors are answers 5xx: a 4xx is the caller's. `error_rate` is
    0 to 1. While `collected_at` lies within the hour, the figures go up to then only.
    """

    deployment_id: str
    model_id: str
    hour: datetime
    request_count: int
    unique_customers: int
    avg_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    error_count: int
    error_rate: float
    collected_at: datetime

    @property
    def id(self) -> str:
        """The document's name: one a version and hour, so collecting again overwrites it."""
        return f"{self.deployment_id}-{self.hour:%Y%m%d%H}"


def begin_of_hour(at: datetime) -> datetime:
    """Return the begin of the hour, in UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def first_hour(now: datetime, collected_until: datetime | None) -> datetime:
    """Return the first hour to collect.

    Always the last three whole ones again; after an outage every hour since
    `collected_until`, and at the first time (None) all of the last 72.
    """
    running = begin_of_hour(now)
    furthest = running - BACK_AT_MOST
    return max(furthest, min(running - AGAIN, collected_until or furthest))


def version_of(service: str, revision: str) -> int | None:
    """Return the version that a revision serves; None for the empty v0 and foreign names."""
    found = re.fullmatch(rf"{re.escape(service)}-v([1-9]\d*)-\d+", revision)
    return int(found[1]) if found else None


def serving_hour(
    deployment_id: str,
    model_id: str,
    revisions: Sequence[RevisionHour],
    unique_customers: int,
    collected_at: datetime,
) -> ServingHour | None:
    """Return one hour of a version, from all revisions that its attempts made.

    None where nothing was measured (no data is not zero), and while there are requests
    without their latencies, which arrive on their own.
    """
    requests = sum(sum(one.by_class.values()) for one in revisions)
    measured = [one.latencies for one in revisions if one.latencies and one.latencies.count]
    if not requests or not measured:
        return None
    latencies = merge(measured)
    errors = sum(one.by_class.get("5xx", 0) for one in revisions)
    return ServingHour(
        deployment_id=deployment_id,
        model_id=model_id,
        hour=revisions[0].hour,
        request_count=requests,
        unique_customers=unique_customers,
        avg_latency_ms=latencies.mean,
        p50_latency_ms=latencies.percentile(50),
        p95_latency_ms=latencies.percentile(95),
        p99_latency_ms=latencies.percentile(99),
        error_count=errors,
        error_rate=errors / requests,
        collected_at=collected_at,
    )
