"""Small pieces of Markdown that all pages use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def generated(title: str, source: str, introduction: str) -> str:
    """Return the head of a generated page."""
    return (
        f"<!-- Written by `make docs` from {source}: do not edit. -->\n\n"
        f"# {title}\n\n{introduction}\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells may hold Markdown, but neither a line break nor a bare bar."""
    lines = [_row(columns), _row(["---"] * len(columns)), *(_row(map(_cell, row)) for row in rows)]
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """Return inline code, or nothing for nothing."""
    return f"`{text}`" if text else ""


def one_line(text: str) -> str:
    """Return a docstring's or a description's text on one line."""
    return " ".join(text.split())


def first_paragraph(text: str | None) -> str:
    """Return a docstring's first paragraph on one line."""
    return one_line(re.split(r"\n\s*\n", (text or "").strip())[0])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
