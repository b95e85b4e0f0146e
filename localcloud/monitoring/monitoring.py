"""The local Monitoring: `ListTimeSeries` over what Cloud Run's front door measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
from google.api import metric_pb2
from google.cloud import monitoring_v3

from localcloud.monitoring import filters
from localcloud.monitoring.aggregate import Aligner, Reducer, align, reduce
from localcloud.monitoring.errors import InvalidArgument, MonitoringError, NotFound, Unsupported
from localcloud.monitoring.histogram import Histogram
from localcloud.monitoring.minutes import Key, Minutes, Sample
from localcloud.monitoring.series import (
    REQUEST_COUNT,
    REQUEST_LATENCIES,
    RESOURCE_TYPE,
    UNITS,
    Point,
    Series,
)
from localcloud.run.measurement import Listener
from localcloud.run.refuse import RefuseTheRest

PERIOD_S = 60.0
SHORTEST_ALIGNMENT_S = 60.0
PAGE_SIZE = 100_000

_PROJECT = "resource.labels.project_id"
_Request: Any = monitoring_v3.ListTimeSeriesRequest
_HEADERS = int(_Request.TimeSeriesView.HEADERS)
_Kind: Any = metric_pb2.MetricDescriptor


class Source(Protocol):
    """Where measured requests come from: the local Cloud Run."""

    project: str

    def subscribe(self, listener: Listener) -> None: ...


class Monitoring:
    """`google.monitoring.v3.MetricService` for two metrics of Cloud Run.

    `run.googleapis.com/request_count` and `run.googleapis.com/request_latencies`, sampled
    every `sample_period_s`, invisible until `visible_after_s` after they were measured (up to
    240 s on Google's side). The running period is visible too: its point ends at the last
    request counted.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        visible_after_s: float = 0.0,
        sample_period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._visible_after_s = visible_after_s
        self._period_s = sample_period_s
        self._clock = clock
        self._minutes = Minutes(folder / "monitoring.db", sample_period_s, clock)

    def start(self) -> None:
        self._minutes.start()
        self._source.subscribe(self._minutes.add)

    def stop(self) -> None:
        """Write what is in memory and close."""
        self._minutes.stop()

    def grpc_handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the handlers; the last one refuses the rest of google.monitoring by name."""
        list_time_series = grpc.unary_unary_rpc_method_handler(
            self._answer,
            request_deserializer=monitoring_v3.ListTimeSeriesRequest.deserialize,
            response_serializer=monitoring_v3.ListTimeSeriesResponse.serialize,
        )
        return [
            grpc.method_handlers_generic_handler(
                "google.monitoring.v3.MetricService", {"ListTimeSeries": list_time_series}
            ),
            RefuseTheRest(("/google.monitoring.",), "local Monitoring"),
        ]

    def _answer(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return self.list_time_series(request)
        except MonitoringError as error:
            context.abort(error.code, str(error))

    def list_time_series(self, request: Any) -> Any:
        """Answer a ListTimeSeriesRequest; raises MonitoringError."""
        self._check(request)
        wanted = filters.parse(request.filter)
        metric = wanted.pop("metric.type")
        if metric not in UNITS:
            raise NotFound(
                f"Cannot find metric(s) that match type = {metric!r}; here are "
                f"{' and '.join(UNITS)}"
            )
        start, end = _interval(request.interval)
        series = self._series(metric, wanted, start, end)
        series = _aggregated(series, request.aggregation, end)
        if request.view == _HEADERS:
            return monitoring_v3.ListTimeSeriesResponse(
                time_series=[_message(metric, one, ()) for one in series]
            )
        return _page(metric, series, request)

    def _check(self, request: Any) -> None:
        if request.name != f"projects/{self._source.project}":
            raise NotFound(f"{request.name!r}: this is projects/{self._source.project}")
        if "secondary_aggregation" in request:
            raise Unsupported("secondary_aggregation")
        if request.order_by:
            raise Unsupported("order_by")
        if request.page_size < 0:
            raise InvalidArgument(f"page_size {request.page_size} is negative")

    def _series(
        self, metric: str, wanted: dict[str, str], start: float, end: float
    ) -> list[Series]:
        """Return the raw series that match, their points in (start, end], newest first."""
        visible_until = min(end, self._clock() - self._visible_after_s)
        found: dict[tuple[str, ...], tuple[dict[str, str], list[Point]]] = {}
        for key, sample in self._minutes.samples(start, end):
            labels = self._labels(key)
            if any({**labels, "resource.type": RESOURCE_TYPE}[k] != v for k, v in wanted.items()):
                continue
            point = self._point(metric, key, sample)
            if start < point.end <= visible_until:
                found.setdefault(tuple(labels.values()), (labels, []))[1].append(point)
        return [Series(labels, tuple(reversed(points))) for labels, points in found.values()]

    def _point(self, metric: str, key: Key, sample: Sample) -> Point:
        whole = key.begins + self._period_s
        end = whole if whole <= self._clock() else sample.last
        value = sample.latencies.count if metric == REQUEST_COUNT else sample.latencies
        return Point(key.begins, end, value)

    def _labels(self, key: Key) -> dict[str, str]:
        return {
            _PROJECT: self._source.project,
            "resource.labels.location": key.region,
            "resource.labels.service_name": key.service,
            "resource.labels.revision_name": key.revision,
            "resource.labels.configuration_name": key.service,
            "metric.labels.response_code": str(key.code),
            "metric.labels.response_code_class": f"{key.code // 100}xx",
        }


def _interval(interval: Any) -> tuple[float, float]:
    if "end_time" not in interval:
        raise InvalidArgument("interval.end_time is required")
    end = interval.end_time.timestamp()
    start = interval.start_time.timestamp() if "start_time" in interval else end
    if start > end:
        raise InvalidArgument("interval.start_time is after interval.end_time")
    return start, end


def _aggregated(series: list[Series], aggregation: Any, end: float) -> list[Series]:
    aligner = Aligner(aggregation.per_series_aligner)
    reducer = Reducer(aggregation.cross_series_reducer)
    group_by = [filters.selector(field) for field in aggregation.group_by_fields]
    if aligner == Aligner.ALIGN_NONE:
        if reducer != Reducer.REDUCE_NONE or group_by:
            raise InvalidArgument("a reducer needs a per_series_aligner other than ALIGN_NONE")
        return series
    period_s = aggregation.alignment_period.total_seconds()
    if period_s < SHORTEST_ALIGNMENT_S:
        raise InvalidArgument(
            f"alignment_period must be at least {SHORTEST_ALIGNMENT_S:g} s, got {period_s:g} s"
        )
    aligned = align(series, aligner, period_s, end)
    if reducer == Reducer.REDUCE_NONE:
        if group_by:
            raise InvalidArgument("group_by_fields needs a cross_series_reducer")
        return aligned
    return reduce(aligned, reducer, [name for name in group_by if name != _PROJECT], [_PROJECT])


def _page(metric: str, series: Iterable[Series], request: Any) -> Any:
    """Return one page of at most `page_size` points; a token is the number of points before."""
    if request.page_token and not request.page_token.isdigit():
        raise InvalidArgument("page_token is not one that this service gave")
    skip = int(request.page_token or 0)
    room = min(request.page_size or PAGE_SIZE, PAGE_SIZE)
    response = monitoring_v3.ListTimeSeriesResponse(unit=UNITS[metric])
    position = skip
    for one in series:
        if skip >= len(one.points):
            skip -= len(one.points)
            continue
        if not room:
            response.next_page_token = str(position)
            break
        points = one.points[skip : skip + room]
        response.time_series.append(_message(metric, one, points))
        room -= len(points)
        position += len(points)
        if skip + len(points) < len(one.points):
            response.next_page_token = str(position)
            break
        skip = 0
    return response


def _message(metric: str, series: Series, points: Sequence[Point]) -> Any:
    kind = _Kind.GAUGE if series.gauge else _Kind.DELTA
    return monitoring_v3.TimeSeries(
        metric={"type": metric, "labels": _of(series, "metric.labels.")},
        resource={"type": RESOURCE_TYPE, "labels": _of(series, "resource.labels.")},
        metric_kind=kind,
        value_type=_value_type(metric, series),
        points=[_point_message(point) for point in points],
        unit=UNITS[metric],
    )


def _of(series: Series, prefix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix): value
        for name, value in series.labels.items()
        if name.startswith(prefix)
    }


def _value_type(metric: str, series: Series) -> int:
    if series.gauge:
        return int(_Kind.DOUBLE)
    return int(_Kind.DISTRIBUTION if metric == REQUEST_LATENCIES else _Kind.INT64)


def _point_message(point: Point) -> Any:
    if isinstance(point.value, Histogram):
        value = monitoring_v3.TypedValue(distribution_value=point.value.distribution())
    elif isinstance(point.value, float):
        value = monitoring_v3.TypedValue(double_value=point.value)
    else:
        value = monitoring_v3.TypedValue(int64_value=point.value)
    interval = monitoring_v3.TimeInterval(
        start_time=_timestamp(point.start), end_time=_timestamp(point.end)
    )
    return monitoring_v3.Point(interval=interval, value=value)


def _timestamp(unix_s: float) -> dict[str, int]:
    seconds, micros = divmod(round(unix_s * 1e6), 1_000_000)
    return {"seconds": seconds, "nanos": micros * 1000}
