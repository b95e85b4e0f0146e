"""Time series as the queries handle them, apart from Google's messages."""

from __future__ import annotations

from dataclasses import dataclass

from localcloud.monitoring.histogram import Histogram

Value = int | float | Histogram

REQUEST_COUNT = "run.googleapis.com/request_count"
REQUEST_LATENCIES = "run.googleapis.com/request_latencies"
RESOURCE_TYPE = "cloud_run_revision"
UNITS = {REQUEST_COUNT: "1", REQUEST_LATENCIES: "ms"}

METRIC_LABELS = ("response_code", "response_code_class")
RESOURCE_LABELS = (
    "project_id",
    "location",
    "service_name",
    "revision_name",
    "configuration_name",
)


@dataclass(frozen=True)
class Point:
    """A value over (start, end], Unix times in s."""

    start: float
    end: float
    value: Value


@dataclass(frozen=True)
class Series:
    """Points, newest first, of one combination of labels; labels by their full selector.

    `labels` maps for example "resource.labels.service_name" to its value.
    """

    labels: dict[str, str]
    points: tuple[Point, ...]
    gauge: bool = False
