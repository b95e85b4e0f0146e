"""Draws benchmarks/judge.svg from judge.json: `python -m benchmarks.plot_judge RESULTS OUTPUT`.

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

from benchmarks.plot import BATCH_COLOUR, GRID, INK, SINGLE

JUDGES = (
    ("evidence", SINGLE, "Turnout's judge", -0.19),
    ("thresholds", BATCH_COLOUR, "plain thresholds", 0.19),
)
PANELS = (
    (False, "equal candidates that fail: false alarms"),
    (True, "worse candidates that fail, and the median minutes until then"),
)


def main(results: Path, output: Path) -> None:
    """Draw two panels: the share of failed stages among equal and among worse candidates."""
    rows = json.loads(results.read_text())["rows"]
    counts = [
        len({row["scenario"] for row in rows if row["worse"] is worse}) for worse, _ in PANELS
    ]
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
        len(PANELS), 1, figsize=(8.4, 0.42 * sum(counts) + 1.8), height_ratios=counts
    )
    for panel, (worse, title) in zip(panels, PANELS, strict=True):
        _draw(panel, [row for row in rows if row["worse"] is worse], title, bool(worse))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", frameon=False, fontsize=8, ncols=2)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(output, transparent=True, metadata={"Date": None})


def _draw(panel: Any, rows: list[dict[str, Any]], title: str, minutes: bool) -> None:
    names = list(dict.fromkeys(row["scenario"] for row in rows))
    for judge, colour, label, offset in JUDGES:
        for place, name in enumerate(names):
            row = next(r for r in rows if (r["scenario"], r["judge"]) == (name, judge))
            share, ends = 100 * row["failed"], [100 * end for end in row["failed_interval"]]
            panel.barh(place + offset, share, 0.36, color=colour, label=label)
            panel.plot(ends, [place + offset] * 2, color=INK, linewidth=1.2)
            text = f"{share:.3g} %"
            if minutes and row["median_minutes"] is not None:
                text += f", {row['median_minutes']:g} min"
            panel.annotate(
                text,
                (max(share, ends[1]), place + offset),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
            )
            label = "_"  # in the legend once
    panel.set_yticks(range(len(names)), names, fontsize=8.5)
    panel.set_xlim(0, 125)
    panel.set_xticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)])
    panel.grid(axis="x", color=GRID, linewidth=0.5)
    panel.set_axisbelow(True)
    panel.tick_params(axis="both", length=0, labelsize=8)
    panel.set_title(title, fontsize=10)
    panel.invert_yaxis()
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
