"""What a run measured: kept beside the artifact, and shown as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.movielens.evaluate import CUTOFFS

if TYPE_CHECKING:
    from rich.table import Table

REPORT = Path("evaluation/report.json")


@dataclass(frozen=True)
class Report:
    """One run's settings, counts and figures; every recall is a share (0-1).

    `metrics` is what the message carries: Recall@k of the exported model with nothing excluded.
    `comparison` holds the same figures of everything compared, by name and then by
    `nothing_excluded` and `seen_excluded`. `against_item_knn` is the difference in Recall@100
    with its 95 % interval. `fold` is `held_out`, or `validation` for a run that tried settings.
    """

    run_number: int
    fold: str
    settings: Mapping[str, Any]
    dataset: Mapping[str, Any]
    counts: Mapping[str, int]
    metrics: Mapping[str, float]
    comparison: Mapping[str, Mapping[str, Mapping[str, float]]]
    against_item_knn: Mapping[str, Mapping[str, float]]
    training_seconds: float
    completed_at: str

    def write(self, folder: Path) -> None:
        """Write `folder/evaluation/report.json`."""
        path = folder / REPORT
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Report:
        """Read what `write` wrote; raises FileNotFoundError where no run was finished."""
        return cls(**json.loads((folder / REPORT).read_text("utf-8")))


def now() -> str:
    """Return this moment in UTC as RFC 3339, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_table(report: Report) -> Table:
    """Return the comparison as a table, in percent."""
    from rich.table import Table

    counts = report.counts
    table = Table(
        title=f"Recall@k in percent, run {report.run_number} ({report.settings['name']})",
        caption=(
            f"mean over {counts['evaluation_customers']:,} customers with "
            f"{counts['held_out']:,} held-out interactions ({report.fold} fold); trained on "
            f"{counts['train']:,} interactions of {counts['customers']:,} customers; "
            f"{counts['products']:,} products\nall: over all products, as the endpoint answers; "
            "unseen: without what the customer took in training"
        ),
    )
    table.add_column("", no_wrap=True)
    for how in ("all", "unseen"):
        for k in CUTOFFS:
            table.add_column(f"{how}\n@{k}", justify="right", no_wrap=True)
    for name, figures in report.comparison.items():
        row = [
            f"{figures[how][f'recall_at_{k}']:.1%}".removesuffix("%")
            for how in ("nothing_excluded", "seen_excluded")
            for k in CUTOFFS
        ]
        table.add_row(name, *row, style="bold" if name == "two-tower" else None)
    return table


def as_sentences(report: Report) -> list[str]:
    """Say in words whether the model beats item-kNN beyond the customers it was measured on."""
    sentences = []
    for how, interval in report.against_item_knn.items():
        verdict = "within the noise"
        if interval["low"] > 0:
            verdict = "better"
        elif interval["high"] < 0:
            verdict = "worse"
        sentences.append(
            f"Recall@100 against item-kNN, {how.replace('_', ' ')}: {points(interval['mean'])} "
            f"points (95 % interval {points(interval['low'])} to {points(interval['high'])}): "
            f"{verdict}."
        )
    return sentences


def points(share: float) -> str:
    """Return a difference of two shares in percentage points, with its sign."""
    return f"{share * 100:+.1f}"
