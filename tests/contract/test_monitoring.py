"""ListTimeSeries through Google's client: over real requests, and over counts made for it."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.api.metric_pb2 import MetricDescriptor as Kind
from google.api_core import exceptions
from google.cloud import monitoring_v3

from localcloud.monitoring import Monitoring
from localcloud.run.measurement import Listener, Measurement
from tests.contract.run_world import PROJECT, REGION, SERVICE, client, tag_url, to, until, world

Aligner = monitoring_v3.Aggregation.Aligner
Reducer = monitoring_v3.Aggregation.Reducer
COUNT = 'metric.type = "run.googleapis.com/request_count"'
LATENCY = 'metric.type = "run.googleapis.com/request_latencies"'
MINUTE_0 = 1_790_000_040.0  # A full minute.
CLASS = "metric.labels.response_code_class"
REVISION = "resource.labels.revision_name"


class Requests:
    """A source that measures what a test says was requested."""

    project = PROJECT

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def count(
        self,
        revision: str,
        code: int,
        number: int,
        at: float,
        latency_ms: float = 5.0,
        region: str = REGION,
    ) -> None:
        for _ in range(number):
            for listener in self._listeners:
                listener(Measurement(region, SERVICE, revision, code, latency_ms, at))


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def served(monitoring: Monitoring) -> Iterator[Any]:
    """Yield Google's metric client, connected to a started Monitoring."""
    monitoring.start()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers(tuple(monitoring.grpc_handlers()))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield client(monitoring_v3.MetricServiceClient, channel)
    server.stop(None).wait()
    monitoring.stop()


@pytest.fixture
def source() -> Requests:
    return Requests()


@pytest.fixture
def metrics(tmp_path: Path, source: Requests) -> Iterator[Any]:
    with served(Monitoring(tmp_path, source, clock=Clock(MINUTE_0 + 600))) as connected:
        yield connected


def series(
    metrics: Any, filter_: str, start: float = MINUTE_0, end: float = MINUTE_0 + 300, **fields: Any
) -> list[Any]:
    request = monitoring_v3.ListTimeSeriesRequest(
        name=f"projects/{PROJECT}",
        filter=filter_,
        interval={"start_time": moment(start), "end_time": moment(end)},
        **fields,
    )
    return list(metrics.list_time_series(request))


def moment(unix_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix_s, tz=datetime.UTC)


def over(period_s: int, aligner: Any, reducer: Any = Reducer.REDUCE_NONE, *group_by: str) -> Any:
    return monitoring_v3.Aggregation(
        alignment_period={"seconds": period_s},
        per_series_aligner=aligner,
        cross_series_reducer=reducer,
        group_by_fields=group_by,
    )


def values(one: Any) -> list[Any]:
    kind = "int64_value" if one.value_type == Kind.INT64 else "double_value"
    return [getattr(point.value, kind) for point in one.points]


def test_requests_through_the_front_door_are_counted_by_revision_and_code(tmp_path: Path) -> None:
    with (
        world(tmp_path) as cloud,
        served(Monitoring(tmp_path / "monitoring", cloud.cloud_run)) as metrics,
    ):
        began = time.time()
        cloud.create("v1")
        cloud.deploy("v2")
        service = cloud.split(to("v1", 100), to("v2", 0, "ver-2"))
        with requests.Session() as session:
            for _ in range(7):
                session.get(service.uri)
            for _ in range(3):
                session.get(f"{service.uri}/status?404")
            session.get(f"{tag_url(service, 'ver-2')}/sleep?0.2")

        def counted() -> dict[tuple[str, str], int]:
            filter_ = f'{COUNT} AND resource.type = "cloud_run_revision"'
            found = series(metrics, filter_, began - 60, time.time())
            return {
                (s.resource.labels["revision_name"], s.metric.labels["response_code"]): sum(
                    values(s)
                )
                for s in found
            }

        # A caller has its answer a moment before the request counts as ended.
        until(lambda: sum(counted().values()) >= 11, "all requests to be counted")
        assert counted() == {
            (f"{SERVICE}-v1", "200"): 7,
            (f"{SERVICE}-v1", "404"): 3,
            (f"{SERVICE}-v2", "200"): 1,
        }
        (slow,) = series(
            metrics,
            f'{LATENCY} AND {REVISION} = "{SERVICE}-v2"',
            began - 60,
            time.time(),
            aggregation=over(600, Aligner.ALIGN_PERCENTILE_50),
        )
        assert values(slow)[0] > 180


def test_raw_points_come_by_minute_newest_first_with_all_labels(
    metrics: Any, source: Requests
) -> None:
    source.count("movies-v1", 200, 3, MINUTE_0 + 10)
    source.count("movies-v1", 200, 2, MINUTE_0 + 70)

    (one,) = series(metrics, COUNT)

    assert one.metric_kind == Kind.DELTA
    assert dict(one.metric.labels) == {"response_code": "200", "response_code_class": "2xx"}
    assert one.resource.type == "cloud_run_revision"
    assert dict(one.resource.labels) == {
        "project_id": PROJECT,
        "location": REGION,
        "service_name": SERVICE,
        "revision_name": "movies-v1",
        "configuration_name": SERVICE,
    }
    assert values(one) == [2, 3]
    assert [p.interval.end_time.timestamp() - MINUTE_0 for p in one.points] == [120, 60]
    assert [p.interval.start_time.timestamp() - MINUTE_0 for p in one.points] == [60, 0]


def test_series_of_each_region_is_its_own(metrics: Any, source: Requests) -> None:
    source.count("movies-v1", 200, 3, MINUTE_0 + 10)
    source.count("movies-v1", 200, 2, MINUTE_0 + 10, region="us-east1")

    found = series(metrics, COUNT)
    filtered = series(metrics, f'{COUNT} AND resource.labels.location = "us-east1"')

    assert {s.resource.labels["location"]: values(s) for s in found} == {
        REGION: [3],
        "us-east1": [2],
    }
    assert [values(s) for s in filtered] == [[2]]


def test_latencies_come_as_a_distribution(metrics: Any, source: Requests) -> None:
    for latency_ms in (1, 2, 3, 400):
        source.count("movies-v1", 200, 1, MINUTE_0 + 1, latency_ms)

    (one,) = series(metrics, LATENCY)
    distribution = one.points[0].value.distribution_value

    assert (one.unit, one.value_type) == ("ms", Kind.DISTRIBUTION)
    assert distribution.count == sum(distribution.bucket_counts) == 4
    assert distribution.mean == pytest.approx(101.5)
    assert distribution.sum_of_squared_deviation == pytest.approx(
        sum((v - 101.5) ** 2 for v in (1, 2, 3, 400))
    )


def test_sums_are_grouped_by_the_labels_asked_for(metrics: Any, source: Requests) -> None:
    source.count("movies-v1", 200, 5, MINUTE_0 + 10)
    source.count("movies-v1", 201, 1, MINUTE_0 + 130)
    source.count("movies-v1", 503, 2, MINUTE_0 + 130)
    source.count("movies-v2", 200, 9, MINUTE_0 + 130)

    both = over(300, Aligner.ALIGN_SUM, Reducer.REDUCE_SUM, REVISION, CLASS)
    found = series(metrics, COUNT, aggregation=both)

    assert {
        (s.resource.labels["revision_name"], s.metric.labels["response_code_class"]): values(s)
        for s in found
    } == {
        ("movies-v1", "2xx"): [6],
        ("movies-v1", "5xx"): [2],
        ("movies-v2", "2xx"): [9],
    }
    (total,) = series(metrics, COUNT, aggregation=over(60, Aligner.ALIGN_DELTA, Reducer.REDUCE_SUM))
    assert values(total) == [12, 5]
    assert dict(total.resource.labels) == {"project_id": PROJECT}


def test_rate_is_per_second_and_empty_periods_have_no_point(metrics: Any, source: Requests) -> None:
    source.count("movies-v1", 200, 30, MINUTE_0 + 10)

    (one,) = series(metrics, COUNT, aggregation=over(60, Aligner.ALIGN_RATE))

    assert (one.metric_kind, values(one)) == (Kind.GAUGE, [0.5])


def test_percentiles_merge_the_distributions_of_all_series(metrics: Any, source: Requests) -> None:
    source.count("movies-v1", 200, 90, MINUTE_0 + 10, 10)
    source.count("movies-v2", 200, 10, MINUTE_0 + 10, 1000)

    def percentile(reducer: Any) -> float:
        aggregation = over(300, Aligner.ALIGN_DELTA, reducer)
        (one,) = series(metrics, LATENCY, aggregation=aggregation)
        return float(values(one)[0])

    assert percentile(Reducer.REDUCE_PERCENTILE_50) == pytest.approx(10, rel=0.1)
    assert percentile(Reducer.REDUCE_PERCENTILE_95) == pytest.approx(1000, rel=0.1)


def test_without_requests_there_is_no_series_rather_than_a_zero(metrics: Any) -> None:
    assert series(metrics, COUNT, aggregation=over(60, Aligner.ALIGN_SUM)) == []


def test_points_stay_invisible_until_the_lag_has_passed(tmp_path: Path, source: Requests) -> None:
    clock = Clock(MINUTE_0 + 180)
    with served(Monitoring(tmp_path, source, visible_after_s=180, clock=clock)) as metrics:
        source.count("movies-v1", 200, 1, MINUTE_0 + 30)
        assert series(metrics, COUNT) == []
        clock.now += 60
        assert [values(s) for s in series(metrics, COUNT)] == [[1]]


def test_measured_minutes_survive_a_restart_and_go_on_counting(
    tmp_path: Path, source: Requests
) -> None:
    clock = Clock(MINUTE_0 + 600)
    with served(Monitoring(tmp_path, source, clock=clock)):
        source.count("movies-v1", 200, 2, MINUTE_0 + 10)
    again = Requests()
    with served(Monitoring(tmp_path, again, clock=clock)) as metrics:
        again.count("movies-v1", 200, 3, MINUTE_0 + 20)
        assert [values(s) for s in series(metrics, COUNT)] == [[5]]


def test_results_come_in_pages_of_points(metrics: Any, source: Requests) -> None:
    for minute in range(3):
        source.count("movies-v1", 200, 1, MINUTE_0 + 60 * minute + 1)
        source.count("movies-v2", 200, 2, MINUTE_0 + 60 * minute + 1)

    pages = series(metrics, COUNT, page_size=2)

    found: dict[str, list[int]] = {}
    for one in pages:
        found.setdefault(one.resource.labels["revision_name"], []).extend(values(one))
        assert len(one.points) <= 2
    assert found == {"movies-v1": [1, 1, 1], "movies-v2": [2, 2, 2]}


@pytest.mark.parametrize(
    ("filter_", "error", "message"),
    [
        pytest.param('resource.type = "x"', "InvalidArgument", "name one metric", id="no-metric"),
        pytest.param('metric.type = "x.y/z"', "NotFound", "x.y/z", id="unknown-metric"),
        pytest.param(f'{COUNT} OR {REVISION} = "a"', "MethodNotImplemented", "'OR'", id="or"),
        pytest.param(f'{COUNT} AND {REVISION} != "a"', "MethodNotImplemented", "!=", id="unequal"),
        pytest.param(
            f'{COUNT} AND {REVISION} = starts_with("a")',
            "MethodNotImplemented",
            "starts_with",
            id="function",
        ),
        pytest.param(
            f'{COUNT} AND metric.labels.route = "a"', "InvalidArgument", "no label", id="label"
        ),
        pytest.param(f"{COUNT} AND", "InvalidArgument", "ends where", id="cut-off"),
    ],
)
def test_filter_outside_the_supported_part_is_refused_by_name(
    metrics: Any, filter_: str, error: str, message: str
) -> None:
    with pytest.raises(getattr(exceptions, error), match=message):
        series(metrics, filter_)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        pytest.param(
            {"aggregation": over(60, Aligner.ALIGN_MEAN)},
            "MethodNotImplemented",
            "ALIGN_MEAN",
            id="aligner",
        ),
        pytest.param(
            {"aggregation": over(60, Aligner.ALIGN_SUM, Reducer.REDUCE_MEAN)},
            "MethodNotImplemented",
            "REDUCE_MEAN",
            id="reducer",
        ),
        pytest.param(
            {"aggregation": over(30, Aligner.ALIGN_SUM)},
            "InvalidArgument",
            "at least 60",
            id="short-period",
        ),
        pytest.param(
            {"aggregation": over(60, Aligner.ALIGN_PERCENTILE_99)},
            "InvalidArgument",
            "distributions",
            id="percentile-of-counts",
        ),
        pytest.param({"order_by": "x"}, "MethodNotImplemented", "order_by", id="order"),
        pytest.param(
            {"secondary_aggregation": over(60, Aligner.ALIGN_SUM)},
            "MethodNotImplemented",
            "secondary_aggregation",
            id="secondary",
        ),
    ],
)
def test_query_outside_the_supported_part_is_refused_by_name(
    metrics: Any, source: Requests, fields: dict[str, Any], error: str, message: str
) -> None:
    source.count("movies-v1", 200, 1, MINUTE_0 + 10)
    with pytest.raises(getattr(exceptions, error), match=message):
        series(metrics, COUNT, **fields)


def test_other_methods_are_refused_by_name(metrics: Any) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match="ListMetricDescriptors"):
        list(metrics.list_metric_descriptors(name=f"projects/{PROJECT}"))
