"""The trace of a deployment: as a tree in a terminal, as a picture, or where Google shows it."""

from __future__ import annotations

import html
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from rich.table import Table
from rich.text import Text

from shared.errors import NotFound
from turnout.output import console, harmless

TIMEOUT_S = 10
CONSOLE = "https://console.cloud.google.com/traces/explorer"
TREE_COLUMNS = 30
WIDTH, ROW, BAR = 980, 24, 14
INK, GRID, GOOD, BAD, ROOT = "#7d8288", "#7d828855", "#2f81f7", "#d1242f", "#8957e5"


@dataclass(frozen=True)
class Span:
    """One span; times in seconds since 1970."""

    id: str
    parent: str
    name: str
    service: str
    began_s: float
    ended_s: float
    failure: str
    attributes: dict[str, Any]

    @property
    def lasted_s(self) -> float:
        """How long it took, in seconds."""
        return self.ended_s - self.began_s


@dataclass(frozen=True)
class Row:
    """What is shown in one line: spans of one name below the same ones, by their begin.

    `depth` is how deep it stands in the tree.
    """

    depth: int
    spans: list[Span]

    @property
    def name(self) -> str:
        """The name, and how many there are."""
        return self.spans[0].name + (f" ({len(self.spans)} times)" if len(self.spans) > 1 else "")

    @property
    def failure(self) -> str:
        """Why the last one failed, where it did."""
        return self.spans[-1].failure

    @property
    def lasted_s(self) -> float:
        """How long all of them took, in seconds."""
        return sum(span.lasted_s for span in self.spans)


def fetch(trace_id: str, calls: bool = True) -> list[Span]:
    """Return what the local cloud kept of a trace, by the begin; NotFound: nothing.

    Without `calls` those of Google's APIs are left out.
    """
    where = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    answer = requests.get(f"{where}/traces/{trace_id}", timeout=TIMEOUT_S)
    answer.raise_for_status()
    found = [
        Span(
            one["span_id"],
            one["parent_id"],
            one["name"],
            one["service"],
            one["began"] / 1e9,
            one["ended"] / 1e9,
            one["failure"],
            one["attributes"],
        )
        for one in answer.json()
        if calls or "rpc.system" not in one["attributes"]
    ]
    if not found:
        raise NotFound(f"nothing is kept of trace {trace_id}; it may begin only now")
    return found


def arrange(spans: Sequence[Span]) -> list[Row]:
    """Return the lines of the tree from top to bottom.

    A span whose parent is not there stands at the top: the root comes only when the rollout ends.
    """
    known = {span.id for span in spans}
    below: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        below[span.parent if span.parent in known else ""].append(span)

    def rows(parents: Iterable[str], depth: int) -> Iterator[Row]:
        found = sorted(
            (span for parent in parents for span in below[parent]), key=lambda span: span.began_s
        )
        names: dict[str, list[Span]] = defaultdict(list)
        for span in found:
            names[span.name].append(span)
        for same in names.values():
            yield Row(depth, same)
            yield from rows([span.id for span in same], depth + 1)

    return list(rows([""], 0))


def link_of(trace_id: str, project: str) -> str:
    """Return where Google's console shows a trace."""
    return f"{CONSOLE};traceId={trace_id}?project={project}"


def show(title: str, spans: Sequence[Span]) -> None:
    """Print the tree: each line with its begin, how long it took, and where that lies."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column, right in (("Span", False), ("Begins", True), ("Takes", True), ("", False)):
        table.add_column(column, justify="right" if right else "left", no_wrap=right)
    begin, end = _extent(spans)
    for row in arrange(spans):
        style = "red" if row.failure else ""
        label = Text("  " * row.depth + harmless(row.name), style)
        if row.failure:
            label.append(f": {harmless(row.failure)}", "dim")
        bar = [" "] * TREE_COLUMNS
        for span in row.spans:
            left = min(int((span.began_s - begin) / (end - begin) * TREE_COLUMNS), TREE_COLUMNS - 1)
            length = max(1, round(span.lasted_s / (end - begin) * TREE_COLUMNS))
            bar[left : left + length] = "━" * length
        began_s = row.spans[0].began_s - begin
        drawn = Text("".join(bar[:TREE_COLUMNS]), style or "cyan")
        table.add_row(label, f"+{seconds(began_s)}", seconds(row.lasted_s), drawn)
    console.print(table)


def draw(title: str, spans: Sequence[Span]) -> str:
    """Return the tree as a picture (SVG) that is readable on white and on black."""
    begin, end = _extent(spans)
    rows = arrange(spans)
    labels = max(len(row.name) * 6.5 + row.depth * 14 for row in rows) + 30
    scale = (WIDTH - labels - 80) / (end - begin)
    height = ROW * len(rows) + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<text x="8" y="20" font-size="14">{html.escape(title)}</text>',
    ]
    for tick in _ticks(end - begin):
        x = labels + tick * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="44" y2="{height - 14}" stroke="{GRID}"/>'
            f'<text x="{x:.1f}" y="38" text-anchor="middle">{seconds(tick)}</text>'
        )
    for place, row in enumerate(rows):
        y = 50 + place * ROW
        parts.append(f'<text x="{8 + 14 * row.depth}" y="{y + 12}">{html.escape(row.name)}</text>')
        colour = BAD if row.failure else GOOD if row.depth else ROOT
        for span in row.spans:
            x = labels + (span.began_s - begin) * scale
            width = max(2.0, span.lasted_s * scale)
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" '
                f'fill="{colour}"/>'
            )
        x = labels + (row.spans[-1].ended_s - begin) * scale
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 12}">{seconds(row.lasted_s)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def seconds(duration_s: float) -> str:
    """Return a duration as people say it: 12 ms, 3.4 s, 5 min."""
    if duration_s == 0:
        return "0"
    if duration_s < 1:
        return f"{duration_s * 1000:.0f} ms"
    return f"{duration_s:.3g} s" if duration_s < 90 else f"{duration_s / 60:.3g} min"


def _extent(spans: Sequence[Span]) -> tuple[float, float]:
    begin = min(span.began_s for span in spans)
    return begin, max(begin + 1e-3, *(span.ended_s for span in spans))


def _ticks(extent_s: float) -> Iterator[float]:
    step = next(size for size in _STEPS if extent_s / size <= 8)
    at = 0.0
    while at <= extent_s:
        yield at
        at += step


_SECONDS = (base * 10**power for power in range(-3, 1) for base in (1, 2, 5))
_STEPS = (*_SECONDS, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 432000, 10**9)
