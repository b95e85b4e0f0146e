"""Cloud Monitoring: what Cloud Run measured of a service's revisions, by hours or blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.api_core import exceptions, retry
from google.cloud import monitoring_v3

from shared.config import Settings
from shared.domain.canary import Side
from shared.domain.histogram import Histogram
from shared.domain.serving_metrics import HOUR, RevisionHour, begin_of_hour
from shared.errors import Unavailable

REQUEST_COUNT = "run.googleapis.com/request_count"
REQUEST_LATENCIES = "run.googleapis.com/request_latencies"
SHORTEST_PERIOD = timedelta(minutes=1)
TIMEOUT_S = 30
_REVISION = "resource.labels.revision_name"
_CLASS = "metric.labels.response_code_class"
# The client's own 90 s for each query would leave no time for the other models.
_passing = retry.Retry(
    predicate=retry.if_exception_type(exceptions.ServiceUnavailable, exceptions.DeadlineExceeded),
    timeout=TIMEOUT_S,
)


class RunMetrics:
    """The two metrics of requests that Cloud Run keeps by itself."""

    def __init__(self, client: monitoring_v3.MetricServiceClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    def hours(self, service: str, begin: datetime, until: datetime) -> list[RevisionHour]:
        """Return each revision's hours from `begin` (a full hour) until `until`.

        The hour that `until` lies in is measured up to its last full minute. An hour
        without a measurement is not there. Unavailable when Monitoring does not answer.
        """
        counts: dict[tuple[str, datetime], dict[str, int]] = {}
        latencies: dict[tuple[str, datetime], Histogram] = {}
        for start, end, period in _spans(begin, until):
            for labels, hour, value in self._points(REQUEST_COUNT, service, start, end, period):
                by_class = counts.setdefault((labels[_REVISION], hour), {})
                by_class[labels[_CLASS]] = _number(value)
            for labels, hour, value in self._points(REQUEST_LATENCIES, service, start, end, period):
                latencies[labels[_REVISION], hour] = histogram(value.distribution_value)
        return [
            RevisionHour(revision, hour, by_class, latencies.get((revision, hour)))
            for (revision, hour), by_class in sorted(counts.items())
        ]

    def window(
        self, service: str, begin: datetime, block_s: int, blocks: int
    ) -> Mapping[str, Sequence[Side]]:
        """Return each revision's `blocks` blocks of `block_s` seconds (60 or more) from `begin`.

        A revision without any request is not there; a block without one is an empty Side.
        Unavailable when Monitoring does not answer, or with buckets that cannot be compared.
        """
        if not blocks:
            return {}
        period = timedelta(seconds=block_s)
        requests: dict[tuple[str, int], int] = {}
        errors: dict[tuple[str, int], int] = {}
        latencies: dict[tuple[str, int], Histogram] = {}
        # Periods are counted back from the end, so that each block is one of them.
        span = (begin, begin + blocks * period, period)
        for labels, began, value in self._points(REQUEST_COUNT, service, *span):
            key = labels[_REVISION], round((began - begin) / period)
            requests[key] = requests.get(key, 0) + _number(value)
            errors[key] = errors.get(key, 0) + _number(value) * (labels[_CLASS] == "5xx")
        for labels, began, value in self._points(REQUEST_LATENCIES, service, *span):
            key = labels[_REVISION], round((began - begin) / period)
            latencies[key] = histogram(value.distribution_value)
        if len({one.bounds for one in latencies.values()}) > 1:
            raise Unavailable("Cloud Monitoring gave latencies in buckets of different bounds")
        return {
            revision: [
                Side(requests.get(key, 0), errors.get(key, 0), latencies.get(key))
                for key in ((revision, index) for index in range(blocks))
            ]
            for revision in sorted({revision for revision, _ in [*requests, *latencies]})
        }

    def _points(
        self, metric: str, service: str, start: datetime, end: datetime, period: timedelta
    ) -> Iterator[tuple[Mapping[str, str], datetime, Any]]:
        """Give labels, begin and value of each aligned point, a revision (and class) a series.

        ALIGN_SUM for both metrics, since ALIGN_DELTA invents values for periods without any.
        """
        group_by = [_REVISION, _CLASS] if metric == REQUEST_COUNT else [_REVISION]
        request = monitoring_v3.ListTimeSeriesRequest(
            name=f"projects/{self._settings.project}",
            filter=f'metric.type = "{metric}" AND resource.type = "cloud_run_revision"'
            f' AND resource.labels.service_name = "{service}"',
            interval={"start_time": start, "end_time": end},
            aggregation={
                "alignment_period": period,
                "per_series_aligner": monitoring_v3.Aggregation.Aligner.ALIGN_SUM,
                "cross_series_reducer": monitoring_v3.Aggregation.Reducer.REDUCE_SUM,
                "group_by_fields": group_by,
            },
        )
        try:
            found = self._client.list_time_series(
                request=request, retry=_passing, timeout=TIMEOUT_S
            )
            for series in found:
                labels = {
                    _REVISION: series.resource.labels["revision_name"],
                    _CLASS: series.metric.labels.get("response_code_class", ""),
                }
                for point in series.points:
                    interval = monitoring_v3.TimeInterval.pb(point.interval)
                    ended = datetime.fromtimestamp(interval.end_time.ToNanoseconds() / 1e9, UTC)
                    # A period that ends where the interval begins may be given as well.
                    if ended > start:
                        yield labels, ended - period, point.value
        except exceptions.GoogleAPIError as error:
            raise Unavailable(f"Cloud Monitoring did not give {metric}: {error}") from error


def _spans(begin: datetime, until: datetime) -> Iterator[tuple[datetime, datetime, timedelta]]:
    """Give begin, end and alignment period: the whole hours, then the running one.

    Periods are counted back from the end, and look behind the begin where they are longer.
    """
    running = begin_of_hour(until)
    if begin < running:
        yield begin, running, HOUR
    so_far = (until - running) // SHORTEST_PERIOD * SHORTEST_PERIOD
    if so_far:
        yield running, running + so_far, so_far


def _number(value: Any) -> int:
    kind = monitoring_v3.TypedValue.pb(value).WhichOneof("value")
    if kind not in ("int64_value", "double_value"):
        raise Unavailable(f"Cloud Monitoring counts requests as {kind}, not as a number")
    number: float = getattr(value, kind)
    return round(number)


def histogram(distribution: Any) -> Histogram:
    """Return a google.api.Distribution as a Histogram; Unavailable where buckets are missing."""
    options = distribution.bucket_options
    kind = options.WhichOneof("options")
    if kind == "exponential_buckets":
        of = options.exponential_buckets
        bounds = [of.scale * of.growth_factor**i for i in range(of.num_finite_buckets + 1)]
    elif kind == "linear_buckets":
        of = options.linear_buckets
        bounds = [of.offset + of.width * i for i in range(of.num_finite_buckets + 1)]
    elif kind == "explicit_buckets":
        bounds = list(options.explicit_buckets.bounds)
    else:
        raise Unavailable("Cloud Monitoring gave latencies without their buckets")
    counts = tuple(distribution.bucket_counts)
    if sum(counts) != distribution.count:
        raise Unavailable(
            f"Cloud Monitoring gave {distribution.count} latencies, {counts} by bucket"
        )
    return Histogram(distribution.count, distribution.mean, tuple(bounds), counts)
