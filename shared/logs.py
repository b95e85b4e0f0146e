"""Structured logs: one JSON object a line on stdout, as Cloud Logging reads them.

Never a key, a token or a customer's history.
"""

from __future__ import annotations

import json
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime

trace: ContextVar[str] = ContextVar("trace", default="")
"""`projects/P/traces/T` of the request being served, set by the entry point."""


def log(message: str, *, severity: str = "INFO", **fields: object) -> None:
    """Write one line; `message` is constant, what varies goes into `fields`."""
    line: dict[str, object] = {
        "severity": severity,
        "message": message,
        "time": datetime.now(UTC).isoformat(),
    }
    if trace.get():
        line["logging.googleapis.com/trace"] = trace.get()
    # default=str: a log line must never be the reason that a step fails.
    print(json.dumps({**line, **fields}, default=str), file=sys.stdout, flush=True)


def log_exception(message: str, error: BaseException, **fields: object) -> None:
    """Write one ERROR line with the stack, in the form that Error Reporting groups."""
    stack = "".join(traceback.format_exception(error))
    log(message, severity="ERROR", stack_trace=stack, **fields)
