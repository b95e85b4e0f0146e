"""Reads what terraform/ makes of alerts, objectives and the dashboard, and what they refer to."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser

ROOT = Path(__file__).parents[2]
ANYTHING = "**"
_SEVERITIES = {"INFO", "WARNING", "ERROR", "NOTICE", "CRITICAL"}
_LOGGING = {"log", "log_exception", "log_problem"}
_METRIC = re.compile(r'metric\.type="([^"]+)"')
_RESOURCE = re.compile(r'resource\.type="([^"]+)"')
_MESSAGE = re.compile(r'jsonPayload\.message="([^"]+)"')

# Metrics that Google writes, with the resource and the labels of each that are used:
# https://docs.cloud.google.com/monitoring/api/metrics_gcp
REVISION = {"service_name", "revision_name", "location", "configuration_name", "project_id"}
GOOGLES: Mapping[str, tuple[str, set[str]]] = {
    "run.googleapis.com/request_count": (
        "cloud_run_revision",
        {"response_code", "response_code_class", *REVISION},
    ),
    "run.googleapis.com/request_latencies": (
        "cloud_run_revision",
        {"response_code", "response_code_class", *REVISION},
    ),
    "run.googleapis.com/container/instance_count": ("cloud_run_revision", {"state", *REVISION}),
    "run.googleapis.com/container/billable_instance_time": ("cloud_run_revision", REVISION),
    "run.googleapis.com/job/completed_execution_count": ("cloud_run_job", {"result", "job_name"}),
    "pubsub.googleapis.com/subscription/num_undelivered_messages": (
        "pubsub_subscription",
        {"subscription_id"},
    ),
    "pubsub.googleapis.com/subscription/oldest_unacked_message_age": (
        "pubsub_subscription",
        {"subscription_id"},
    ),
    "workflows.googleapis.com/finished_execution_count": (
        "workflows.googleapis.com/Workflow",
        {"status", "workflow_id"},
    ),
    "serviceruntime.googleapis.com/api/request_count": (
        "consumed_api",
        {"response_code", "response_code_class", "grpc_status_code", "service", "method"},
    ),
    "monitoring.googleapis.com/uptime_check/check_passed": ("uptime_url", {"host", "check_id"}),
    "monitoring.googleapis.com/uptime_check/time_until_ssl_cert_expires": (
        "uptime_url",
        {"host", "check_id"},
    ),
    "storage.googleapis.com/storage/v2/total_bytes": ("gcs_bucket", {"bucket_name"}),
    "logging.googleapis.com/byte_count": ("cloud_run_revision", {"log", "severity", *REVISION}),
}


def metric_of(text: str) -> tuple[str, str]:
    """Return metric and resource type of a Monitoring filter; ValueError unless one of each."""
    metrics, resources = _METRIC.findall(text), _RESOURCE.findall(text)
    if len(metrics) != 1 or len(resources) != 1:
        raise ValueError(f"one metric and one resource type, please: {text}")
    return metrics[0], resources[0]


def labels_of(text: str, grouped: list[str] | None = None) -> set[str]:
    """Return the labels that a Monitoring filter and its grouping name."""
    named = re.findall(r"\b(?:metric|resource)\.labels?\.(\w+)", " ".join([text, *(grouped or [])]))
    return set(named)


def known_metrics(log_metrics: Mapping[str, Any]) -> dict[str, tuple[str, set[str]]]:
    """Return every metric there is: Google's and ours, each with its resource and labels."""
    own = {
        f"logging.googleapis.com/user/{one['name']}": (
            "cloud_run_revision",
            {*one["label_extractors"], *REVISION},
        )
        for one in log_metrics.values()
    }
    return {**GOOGLES, **own}


def promql_name(metric: str) -> str:
    """Return a metric's name in PromQL: the first / becomes :, other signs become _."""
    domain, _, path = metric.partition("/")
    return re.sub(r"\W", "_", domain) + ":" + re.sub(r"\W", "_", path)


def selectors(query: str) -> list[tuple[str, dict[str, str]]]:
    """Return the metric and the matchers of each selector; ValueError for what is no PromQL."""
    found: list[tuple[str, dict[str, str]]] = []

    def visit(expression: Any) -> None:
        if isinstance(expression, promql_parser.VectorSelector):
            matchers = {one.name: one.value for one in expression.matchers.matchers}
            found.append((str(expression.name), matchers))

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


@cache
def logged() -> dict[str, set[str]]:
    """Return every constant message that the code logs, with the names of its fields.

    ANYTHING among them says that fields come from elsewhere.
    """
    messages: dict[str, set[str]] = {}
    for folder in ("functions", "shared", "serving"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for call in _log_calls(ast.parse(file.read_text())):
                texts = [
                    one.value
                    for one in call.args
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                ]
                named = {word.arg or ANYTHING for word in call.keywords}
                for text in set(texts) - _SEVERITIES:
                    messages.setdefault(text, set()).update(named)
    return messages


def messages_in(query: str) -> list[str]:
    """Return the messages that a log filter looks for."""
    return _MESSAGE.findall(query)


def _log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in _LOGGING:
                yield node
