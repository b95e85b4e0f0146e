"""Structured logs: one JSON object a line on stdout, in the fields Cloud Logging reads."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("serving")
_TRACEPARENT = re.compile(
    r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
)
_CLOUD_TRACE = re.compile(r"(?P<trace>[0-9a-f]{32})(/.*)?")
# https://docs.cloud.google.com/error-reporting/docs/formatting-error-messages
_REPORTED = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"


def log(severity: str, message: str, *, exc_info: bool = False, **fields: Any) -> None:
    """Write one line; `message` is constant, what varies goes into `fields`.

    Fields are never a key, a token or what a customer did.
    """
    level = logging.getLevelNamesMapping()[severity]
    _LOGGER.log(level, message, exc_info=exc_info, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Formats records of any library as the lines that `log` writes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one JSON object without a line break."""
        entry = {
            "severity": record.levelname,
            "message": record.getMessage(),
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            **getattr(record, "fields", {}),
        }
        if record.name != _LOGGER.name:
            entry["logger"] = record.name
        if record.exc_info:
            entry["stack_trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class ThreadAdvice(logging.Filter):
    """Drops the server's advice on its threads: most of them wait for the engine, as is meant."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is anything else."""
        return not record.getMessage().startswith("Configuration allows spawning up to")


def logging_config() -> dict[str, Any]:
    """Return the `logging.config` dictionary for both the server's and the libraries' lines."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "filters": {"thread_advice": {"()": ThreadAdvice}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "filters": ["thread_advice"],
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"handlers": ["stdout"], "level": "WARNING"},
        "loggers": {_LOGGER.name: {"level": "INFO"}, "_granian": {"level": "WARNING"}},
    }


def report_fields(code: str) -> dict[str, Any]:
    """Return what lets Error Reporting group a line without a stack by its code."""
    return {"@type": _REPORTED, "context": {"reportLocation": {"functionName": code}}}


def trace_fields(traceparent: str, cloud_trace: str, project: str | None) -> dict[str, Any]:
    """Return the fields that tie a line to the request's trace, or nothing without one.

    `traceparent` is the W3C header, `cloud_trace` is X-Cloud-Trace-Context (TRACE/SPAN;o=1); one
    that is absent is empty.
    """
    match = _TRACEPARENT.fullmatch(traceparent) or _CLOUD_TRACE.fullmatch(cloud_trace)
    if match is None:
        return {}
    trace = match["trace"]
    name = f"projects/{project}/traces/{trace}" if project else trace
    fields: dict[str, Any] = {"logging.googleapis.com/trace": name}
    known = match.groupdict()
    if known.get("span"):
        fields["logging.googleapis.com/spanId"] = known["span"]
        fields["logging.googleapis.com/trace_sampled"] = bool(int(known["flags"], 16) & 1)
    return fields
