"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any

import requests
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.errors import PipelineError

# Into a file or a pipe a table may be wider than the eighty columns that rich assumes there.
console = Console(width=None if sys.stdout.isatty() else 160)
errors = Console(stderr=True)

FAILURES = (
    PipelineError,
    ValueError,
    GoogleAPICallError,
    RetryError,
    GoogleAuthError,
    requests.RequestException,
)
"""What a command may meet, and says in a sentence."""


def print_json(value: Any) -> None:
    """Print a value as one JSON document."""
    print(json.dumps(value, default=_encode, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings; a heading that ends in a space is right-aligned."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        right = column.endswith(" ")
        table.add_column(column.strip(), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    console.print(table)


def problem_of(error: Exception) -> dict[str, Any]:
    """Return one of FAILURES as a problem document."""
    if isinstance(error, PipelineError):
        return error.problem()
    if isinstance(error, ValueError):
        return {"detail": str(error), "code": "invalid_request", "status": 400}
    detail = f"the cloud did not answer: {error}"
    return {"detail": detail, "code": "unreachable", "status": 503}


def harmless(text: str) -> str:
    """Return text from outside without what steers a terminal or turns its reading around."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def share(value: float | None) -> str:
    """Return a share of 1 in percent, or a dash."""
    return "-" if value is None else f"{value * 100:.1f} %"


def moment(at: datetime | None) -> str:
    """Return a time in this machine's zone with its age beside it, or a dash."""
    if at is None:
        return "-"
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S} ({age(at)})"


def age(at: datetime) -> str:
    """Return how long ago it was, in the largest fitting unit."""
    seconds = (datetime.now(UTC) - at).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _encode(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
