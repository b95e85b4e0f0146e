"""Structured logs: one JSON object a line on stdout, as Cloud Logging reads them.

Each line names the deployment, the model and the step that `about` was told of, and the span that
is the current one, so that Cloud Logging shows it in its trace. Never a key, a token or a
customer's history.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from opentelemetry import trace

# https://docs.cloud.google.com/error-reporting/docs/formatting-error-messages
REPORTED = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
_NOTHING: Mapping[str, object] = MappingProxyType({})
_about: ContextVar[Mapping[str, object]] = ContextVar("about", default=_NOTHING)


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Put these fields on every line written inside."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def note(**fields: object) -> None:
    """Put these fields on what is still written inside the innermost `about`; else on nothing."""
    if _about.get() is not _NOTHING:
        _about.set({**_about.get(), **fields})


def log(message: str, *, severity: str = "INFO", **fields: object) -> None:
    """Write one line; `message` is constant, what varies goes into `fields`."""
    line = {
        "severity": severity,
        "message": message,
        "time": datetime.now(UTC).isoformat(),
        **trace_fields(),
        **_about.get(),
        **fields,
    }
    # default=str: a log line must never be the reason that a step fails.
    print(json.dumps(line, default=str), file=sys.stdout, flush=True)


def log_exception(message: str, error: BaseException, **fields: object) -> None:
    """Write one ERROR line with the stack, which Error Reporting groups by type and place."""
    stack = "".join(traceback.format_exception(error))
    log(message, severity="ERROR", stack_trace=stack, **fields)


def log_problem(message: str, problem: Mapping[str, Any], **fields: object) -> None:
    """Write one ERROR line without a stack that Error Reporting groups by the problem's code.

    Without a stack it groups by the text, which is constant, and by the function's name.
    """
    log(
        message,
        severity="ERROR",
        **{"@type": REPORTED},
        context={"reportLocation": {"functionName": problem["code"]}},
        **problem,
        **fields,
    )


def trace_fields() -> dict[str, object]:
    """Return what ties a line to the current span, or nothing without one."""
    span = trace.get_current_span()
    found = span.get_span_context()
    if not found.is_valid:
        return {}
    name = trace.format_trace_id(found.trace_id)
    return {
        "logging.googleapis.com/trace": f"projects/{project()}/traces/{name}",
        "logging.googleapis.com/spanId": trace.format_span_id(found.span_id),
        "logging.googleapis.com/trace_sampled": span.is_recording(),
    }


def project() -> str:
    """Return the Google Cloud project of this process, or "" where none is named."""
    return os.environ.get("TURNOUT_PROJECT") or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
