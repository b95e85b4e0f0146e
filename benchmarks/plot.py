"""Draws benchmarks/results.svg from results.json: `python -m benchmarks.plot RESULTS OUTPUT`.

Needs matplotlib, so it runs in build/bench-venv.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

# Grey that has enough contrast on white and on GitHub's dark background; so have the bars.
INK, GRID = "#7d8288", "#7d828855"
SINGLE, BATCH_COLOUR = "#2f81f7", "#d29922"
TIMES = "\N{MULTIPLICATION SIGN}"
BATCH, CONNECTIONS = ", batch of 1,000", 64
TITLES = {
    "loop": "per-customer loop, FastAPI",
    "flask": "plain Flask + gunicorn",
    "litserve": "LitServe",
    "turnout-tensorflow": "Turnout, TensorFlow path",
    "turnout-prepared": "Turnout, prepared answers",
    "empty-flask": "empty Flask endpoint",
    "empty-server": "empty server",
}


def main(results: Path, output: Path) -> None:
    """Draw one panel for each size: customers/s against plain Flask's, on a log axis."""
    found = json.loads(results.read_text())
    sizes = list(dict.fromkeys(row["size"] for row in found))
    singles = {row["connections"] for row in found if row["name"] in TITLES}
    connections = CONNECTIONS if CONNECTIONS in singles else max(singles)
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "turnout",
            "font.family": "sans-serif",
            **{f"{name}.color": INK for name in ("text", "xtick", "ytick")},
            "axes.labelcolor": INK,
            "axes.edgecolor": GRID,
        }
    )
    figure, panels = plt.subplots(
        1, len(sizes), sharey=True, figsize=(4.2 * len(sizes) + 2.2, 3.9), squeeze=False
    )
    for panel, size in zip(panels[0], sizes, strict=True):
        _draw(panel, [row for row in found if row["size"] == size], size, connections)
    panels[0][0].invert_yaxis()  # once: the panels share it
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", frameon=False, fontsize=8, ncols=2)
    figure.suptitle(
        "customers answered a second, as a multiple of plain Flask (log scale)",
        fontsize=10,
        color=INK,
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(output, transparent=True, metadata={"Date": None})


def _draw(panel: Any, rows: list[dict[str, Any]], size: str, connections: int) -> None:
    names = [name for name in TITLES if any(row["name"] == name for row in rows)]
    for offset, colour, label, suffix in (
        (-0.19, SINGLE, f"single customers, {connections} connections", ""),
        (0.19, BATCH_COLOUR, "batches of 1,000", BATCH),
    ):
        for place, name in enumerate(names):
            row = _find(rows, name + suffix, None if suffix else connections)
            if row is None:
                continue
            panel.barh(place + offset, row["ratio"], 0.36, color=colour, label=label, left=0.0)
            panel.plot([row["low"], row["high"]], [place + offset] * 2, color=INK, linewidth=1.2)
            panel.annotate(
                _times(row["ratio"]),
                (max(row["high"], row["ratio"]), place + offset),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
            )
            label = "_"  # in the legend once
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_yticks(range(len(names)), [TITLES[name] for name in names], fontsize=9)
    panel.axvline(1, color=INK, linewidth=0.8)
    panel.grid(axis="x", color=GRID, linewidth=0.5)
    panel.set_axisbelow(True)
    panel.margins(x=0.22)
    panel.tick_params(axis="both", length=0, labelsize=8)
    panel.set_title(f"{size.replace('x', TIMES)} products", fontsize=10)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _find(rows: list[dict[str, Any]], name: str, connections: int | None) -> dict[str, Any] | None:
    matching = [row for row in rows if row["name"] == name]
    exact = [row for row in matching if connections in (None, row["connections"])]
    return (exact or matching or [None])[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
