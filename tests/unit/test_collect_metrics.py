"""Hourly serving metrics: percentiles out of buckets, which hours, which version, what is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core.exceptions import ServiceUnavailable
from hypothesis import given
from hypothesis import strategies as st

from functions.collect_metrics import collect_all
from shared.domain.deployment import Deployment, ModelConfig
from shared.domain.histogram import Histogram, merge
from shared.domain.rollout import Strategy, plan_rollout
from shared.domain.serving_metrics import (
    RevisionHour,
    ServingHour,
    first_hour,
    serving_hour,
    version_of,
)
from shared.errors import NotFound, Unavailable
from shared.messages import CollectMetrics, ModelDeclaration
from shared.ports import MetricsPorts
from tests.fakes import FakeClock, FakeState

NOW = datetime(2026, 11, 24, 14, 7, tzinfo=UTC)
HOUR = datetime(2026, 11, 24, 13, tzinfo=UTC)
BOUNDS = tuple(0.5 * 1.1**i for i in range(161))


def counted(*values_ms: float, bounds: tuple[float, ...] = BOUNDS) -> Histogram:
    """Return the values as Cloud Monitoring would count them."""
    counts = [0] * (len(bounds) + 1)
    for value in values_ms:
        counts[sum(bound <= value for bound in bounds)] += 1
    return Histogram(len(values_ms), sum(values_ms) / len(values_ms), bounds, tuple(counts))


def measured(revision: str = "model-serving-movies-v3-1", **by_class: int) -> RevisionHour:
    """Return an hour of a revision; `two` and `five` are its answers 2xx and 5xx, of 10 ms each."""
    classes = {"2xx": by_class.get("two", 0), "5xx": by_class.get("five", 0)}
    number = sum(classes.values())
    return RevisionHour(revision, HOUR, classes, counted(*[10.0] * number) if number else None)


# -- percentiles


@given(
    st.lists(st.floats(0, 10_000), min_size=1, max_size=200),
    st.sampled_from([1, 50, 95, 99, 100]),
)
def test_percentile_lies_in_the_bucket_of_the_true_one(values: list[float], percent: int) -> None:
    true = sorted(values)[math.ceil(len(values) * percent / 100) - 1]
    found = counted(*values).percentile(percent)
    bucket = sum(bound <= true for bound in BOUNDS)
    low = BOUNDS[bucket - 1] if bucket else 0.0
    assert low <= found <= BOUNDS[bucket]


@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=50))
def test_percentiles_never_descend(values: list[float]) -> None:
    found = [counted(*values).percentile(percent) for percent in range(101)]
    assert found == sorted(found)


@given(st.lists(st.lists(st.floats(0, 1_000), min_size=1, max_size=20), min_size=1, max_size=5))
def test_merged_histogram_is_that_of_all_values(parts: list[list[float]]) -> None:
    merged = merge([counted(*part) for part in parts])
    whole = counted(*[value for part in parts for value in part])
    assert (merged.count, merged.counts) == (whole.count, whole.counts)
    assert merged.mean == pytest.approx(whole.mean)


@pytest.mark.parametrize(
    ("histogram", "percent", "expected"),
    [
        pytest.param(Histogram(4, 15.0, (10, 20, 30), (0, 4)), 50, 15.0, id="linear-within"),
        pytest.param(Histogram(4, 5.0, (10, 20), (4,)), 25, 2.5, id="first-bucket-from-zero"),
        pytest.param(Histogram(2, 90.0, (10, 20), (0, 0, 2)), 99, 20.0, id="open-bucket"),
        pytest.param(Histogram(2, 15.0, (10, 20, 30), (1, 0, 1)), 50, 10.0, id="at-an-edge"),
        pytest.param(Histogram(3, 7.0, (), (3,)), 50, 7.0, id="one-bucket-for-all"),
        pytest.param(Histogram(2, 5.0, (-10, 10), (0, 2)), 50, 5.0, id="no-negative-latency"),
    ],
)
def test_percentile_of_a_bucket(histogram: Histogram, percent: float, expected: float) -> None:
    assert histogram.percentile(percent) == pytest.approx(expected)


def test_percentile_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="without values"):
        Histogram(0, 0.0, BOUNDS, ()).percentile(50)


def test_histograms_of_different_buckets_are_not_merged() -> None:
    with pytest.raises(ValueError, match="different buckets"):
        merge([counted(1.0), counted(1.0, bounds=(1.0, 2.0))])


# -- which hours, which version


@pytest.mark.parametrize(
    ("collected_until", "hours"),
    [
        pytest.param(None, 72, id="first-time"),
        pytest.param(timedelta(0), 3, id="an-hour-ago"),
        pytest.param(timedelta(hours=2), 3, id="within-the-last-three"),
        pytest.param(timedelta(hours=10), 10, id="after-an-outage"),
        pytest.param(timedelta(days=30), 72, id="after-a-long-one"),
        pytest.param(timedelta(hours=-5), 3, id="clock-was-ahead"),
    ],
)
def test_first_hour_to_collect(collected_until: timedelta | None, hours: int) -> None:
    running = NOW.replace(minute=0)
    until = None if collected_until is None else running - collected_until
    assert running - first_hour(NOW, until) == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("revision", "version"),
    [
        ("model-serving-movies-v3-1", 3),
        ("model-serving-movies-v12-4", 12),
        ("model-serving-movies-v0-1", None),
        ("model-serving-movies-00001-abc", None),
        ("model-serving-movies-2-v3-1", None),
    ],
)
def test_version_of_a_revision(revision: str, version: int | None) -> None:
    assert version_of("model-serving-movies", revision) == version


def test_hour_has_the_specified_figures() -> None:
    found = serving_hour("movies-47-auto", "movies", [measured(two=9, five=1)], 7, NOW)
    assert found is not None
    assert found.id == "movies-47-auto-2026112413"
    assert (found.request_count, found.error_count, found.error_rate) == (10, 1, 0.1)
    assert found.unique_customers == 7
    assert found.avg_latency_ms == pytest.approx(10)
    for percentile in (found.p50_latency_ms, found.p95_latency_ms, found.p99_latency_ms):
        assert percentile == pytest.approx(10, rel=0.1)


def test_attempts_of_a_version_count_together() -> None:
    attempts = [measured("model-serving-movies-v3-1", five=2), measured(two=6)]
    found = serving_hour("movies-47-auto", "movies", attempts, 0, NOW)
    assert found is not None
    assert (found.request_count, found.error_rate) == (8, 0.25)


@pytest.mark.parametrize(
    "hour",
    [
        pytest.param(measured(), id="no-requests"),
        pytest.param(RevisionHour("r", HOUR, {"2xx": 5}, None), id="no-latencies-yet"),
    ],
)
def test_hour_without_measurements_is_no_zero(hour: RevisionHour) -> None:
    assert serving_hour("movies-47-auto", "movies", [hour], 0, NOW) is None


# -- the use case


class Measurements:
    """What Cloud Run measured, by service; `away` says what asking for one raises."""

    def __init__(self) -> None:
        self.of: dict[str, list[RevisionHour]] = {}
        self.away: dict[str, Exception] = {}
        self.asked: list[tuple[str, datetime, datetime]] = []

    def hours(self, service: str, begin: datetime, until: datetime) -> list[RevisionHour]:
        self.asked.append((service, begin, until))
        if service in self.away:
            raise self.away[service]
        return self.of.get(service, [])


class Hours:
    """The documents; a write can fail."""

    def __init__(self) -> None:
        self.documents: dict[str, ServingHour] = {}
        self.until: dict[str, datetime] = {}
        self.fails = False

    def collected_until(self, model_id: str) -> datetime | None:
        return self.until.get(model_id)

    def note_collected(self, model_id: str, until: datetime, at: datetime) -> None:
        assert until <= at
        self.until[model_id] = until

    def sketches(self, model_id: str, hour: datetime) -> Mapping[int, Sequence[bytes]]:
        assert model_id
        assert hour.minute == 0
        return {}

    def write(self, hours: Sequence[ServingHour]) -> None:
        if self.fails:
            raise Unavailable("Firestore did not answer")
        self.documents.update({hour.id: hour for hour in hours})


class World:
    """Two models, movies with version 3 and books with version 1, and what was measured."""

    def __init__(self) -> None:
        self.measurements, self.hours = Measurements(), Hours()
        declared = [
            ModelDeclaration(model_id=name, image="serving", service_account="s@example.com")
            for name in ("books", "movies")
        ]
        state = FakeState(*declared)
        for one in (deployment("movies", 3), deployment("books", 1)):
            state.change(one.model_id, lambda book, one=one: book.put(one))
        self.ports = MetricsPorts(state, self.measurements, self.hours, FakeClock(NOW))

    def collect(self, model_id: str | None = None) -> dict[str, int]:
        written: dict[str, int] = collect_all(CollectMetrics(model_id=model_id), self.ports)[
            "written"
        ]
        return written


def deployment(model_id: str, version: int) -> Deployment:
    return Deployment(
        id=f"{model_id}-4{version}-auto",
        model_id=model_id,
        version=version,
        training_run=40 + version,
        request_id="auto",
        artifact_uri=f"gs://training/{model_id}/run-4{version}",
        config=ModelConfig(model_id, "serving", "s@example.com"),
        plan=plan_rollout(Strategy.IMMEDIATE, (), 0),
        deployed_by="ops@example.com",
        created_at=NOW - timedelta(days=1),
    )


@pytest.fixture
def world() -> World:
    return World()


def test_every_model_is_collected_and_noted(world: World) -> None:
    world.measurements.of = {
        "model-serving-movies": [measured(two=5)],
        "model-serving-books": [measured("model-serving-books-v1-1", two=1)],
    }
    assert world.collect() == {"books": 1, "movies": 1}
    assert set(world.hours.documents) == {"movies-43-auto-2026112413", "books-41-auto-2026112413"}
    assert world.hours.until == {"movies": NOW.replace(minute=0), "books": NOW.replace(minute=0)}


def test_one_model_asked_for_leaves_the_other(world: World) -> None:
    world.collect("movies")
    assert [service for service, *_ in world.measurements.asked] == ["model-serving-movies"]


def test_unknown_model_is_refused(world: World) -> None:
    with pytest.raises(NotFound, match="'songs'"):
        world.collect("songs")


def test_no_requests_write_no_document_and_are_noted_as_collected(world: World) -> None:
    assert world.collect() == {"books": 0, "movies": 0}
    assert world.hours.documents == {}
    assert world.hours.until["movies"] == NOW.replace(minute=0)


def test_requests_of_the_empty_v0_or_an_unknown_version_belong_to_nobody(world: World) -> None:
    world.measurements.of["model-serving-movies"] = [
        measured("model-serving-movies-v0-1", five=5),
        measured("model-serving-movies-v99-1", two=5),
    ]
    assert world.collect("movies") == {"movies": 0}


@pytest.mark.parametrize(
    "fault",
    [
        Unavailable("Cloud Monitoring did not answer"),
        ServiceUnavailable("away"),
        ValueError("1 validation error for ModelDeclaration"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_one_model_that_fails_keeps_no_other_waiting_and_is_reported(
    world: World, fault: Exception
) -> None:
    world.measurements.away = {"model-serving-books": fault}
    world.measurements.of["model-serving-movies"] = [measured(two=5)]
    with pytest.raises(Unavailable, match="books was not collected"):
        world.collect()
    assert set(world.hours.documents) == {"movies-43-auto-2026112413"}
    assert set(world.hours.until) == {"movies"}


def test_collection_that_died_before_its_end_begins_there_again(world: World) -> None:
    world.hours.until["movies"] = NOW.replace(minute=0) - timedelta(hours=9)
    world.measurements.of["model-serving-movies"] = [measured(two=5)]
    world.hours.fails = True
    with pytest.raises(Unavailable):
        world.collect("movies")
    world.hours.fails = False
    world.collect("movies")
    begins = [begin for _, begin, _ in world.measurements.asked]
    assert begins == [NOW.replace(minute=0) - timedelta(hours=9)] * 2
