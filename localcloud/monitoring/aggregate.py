"""Alignment and reduction of time series.

A point belongs, whole, to the alignment period that its end lies in; periods are counted
back from the end of the query. A period without points has none: nothing is interpolated,
as ALIGN_DELTA does on Google's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from google.cloud.monitoring_v3 import Aggregation

from localcloud.monitoring.errors import InvalidArgument, Unsupported
from localcloud.monitoring.histogram import Histogram
from localcloud.monitoring.series import Point, Series, Value

Aligner = Aggregation.Aligner
Reducer = Aggregation.Reducer

_SUMS = (Aligner.ALIGN_DELTA, Aligner.ALIGN_SUM)
_ALIGN_PERCENTILES = {
    Aligner.ALIGN_PERCENTILE_05: 5,
    Aligner.ALIGN_PERCENTILE_50: 50,
    Aligner.ALIGN_PERCENTILE_95: 95,
    Aligner.ALIGN_PERCENTILE_99: 99,
}
_REDUCE_PERCENTILES = {
    Reducer.REDUCE_PERCENTILE_05: 5,
    Reducer.REDUCE_PERCENTILE_50: 50,
    Reducer.REDUCE_PERCENTILE_95: 95,
    Reducer.REDUCE_PERCENTILE_99: 99,
}


def align(series: Iterable[Series], aligner: Aligner, period_s: float, end: float) -> list[Series]:
    """Return each series with one point a period of `period_s` seconds."""
    finish, gauge = _finisher(aligner, period_s)
    return [_aligned(one, finish, gauge, period_s, end) for one in series]


def _finisher(aligner: Aligner, period_s: float) -> tuple[Callable[[Value], Value], bool]:
    """Return what turns a period's total into its value, and whether that is a gauge."""
    if aligner in _SUMS:
        return (lambda total: total), False
    if aligner == Aligner.ALIGN_RATE:
        return (lambda total: _number(total, aligner.name) / period_s), True
    if aligner in _ALIGN_PERCENTILES:
        percent = _ALIGN_PERCENTILES[aligner]
        return (lambda total: _histogram(total, aligner.name).percentile(percent)), True
    raise Unsupported(f"the aligner {aligner.name}")


def _aligned(
    series: Series, finish: Callable[[Value], Value], gauge: bool, period_s: float, end: float
) -> Series:
    periods: dict[int, list[Value]] = {}
    for point in series.points:
        back = math.floor((end - point.end) / period_s)
        periods.setdefault(back, []).append(point.value)
    points = []
    for back in sorted(periods):
        until = end - back * period_s
        value = finish(_total(periods[back]))
        # A gauge holds at an instant, a delta over its period.
        points.append(Point(until if gauge else until - period_s, until, value))
    return Series(series.labels, tuple(points), gauge)


def reduce(
    series: Sequence[Series], reducer: Reducer, group_by: Sequence[str], kept: Sequence[str]
) -> list[Series]:
    """Return one series a combination of the `group_by` labels (full selectors).

    `kept` are labels that all series share and that the result keeps anyhow.
    """
    names = [*kept, *group_by]
    groups: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        groups.setdefault(tuple(one.labels[name] for name in names), []).append(one)
    return [
        _reduced(members, reducer, dict(zip(names, values, strict=True)))
        for values, members in sorted(groups.items())
    ]


def _reduced(members: Sequence[Series], reducer: Reducer, labels: dict[str, str]) -> Series:
    at: dict[tuple[float, float], list[Value]] = {}
    for member in members:
        for point in member.points:
            at.setdefault((point.start, point.end), []).append(point.value)
    gauge = members[0].gauge
    if reducer in _REDUCE_PERCENTILES:
        percent = _REDUCE_PERCENTILES[reducer]
        points = [
            Point(end, end, _histogram(_total(values), reducer.name).percentile(percent))
            for (_, end), values in at.items()
        ]
        gauge = True
    elif reducer == Reducer.REDUCE_SUM:
        points = [Point(start, end, _total(values)) for (start, end), values in at.items()]
    else:
        raise Unsupported(f"the reducer {reducer.name}")
    newest_first = sorted(points, key=lambda point: point.end, reverse=True)
    return Series(labels, tuple(newest_first), gauge)


def _total(values: Sequence[Value]) -> Value:
    if not isinstance(values[0], Histogram):
        return sum(value for value in values if not isinstance(value, Histogram))
    merged = Histogram()
    for value in values:
        assert isinstance(value, Histogram)
        merged.merge(value)
    return merged


def _number(value: Value, operation: str) -> float:
    if isinstance(value, Histogram):
        raise InvalidArgument(f"{operation} needs a metric of numbers, not of distributions")
    return value


def _histogram(value: Value, operation: str) -> Histogram:
    if not isinstance(value, Histogram):
        raise InvalidArgument(f"{operation} needs a metric of distributions, not of numbers")
    return value
