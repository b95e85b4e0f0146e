"""One training run, from the data to a finished artifact folder.

    python -m examples.movielens.train --run 1 --settings small
    python -m examples.movielens.train --run 7 --settings large --dim 32 --epochs 40

The folder is the artifact as the training bucket will hold it:

    saved_model/                what the serving container loads
    customers.txt               one known customer id a line, the most active first
    evaluation/holdout.jsonl    {"customer_id", "product_ids"}: what each customer took later
    evaluation/results.jsonl    {"customer_id", "recall_at_10", ...}: each customer's own recall
    evaluation/report.json      settings, counts and figures of the run
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from examples.movielens import baselines, data
from examples.movielens.evaluate import (
    CUTOFFS,
    Answers,
    HeldOut,
    best_products,
    difference_interval,
    mean_recalls,
    recalls,
    without_seen,
)
from examples.movielens.histories import Histories, Matrix
from examples.movielens.report import Report, now
from examples.movielens.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from examples.movielens.export import Exported

HELD_OUT, VALIDATION = "held_out", "validation"
UNKNOWN_CUSTOMER = "a customer nobody knows"


def train_run(
    settings: Settings,
    run_number: int,
    folder: Path,
    *,
    fold: str = HELD_OUT,
    interactions: pd.DataFrame | None = None,
    on_epoch: Callable[[int, float], None] = lambda _epoch, _loss: None,
) -> Report:
    """Train, export into `folder` and evaluate what was exported; returns the report.

    `interactions` default to all of MovieLens latest-small. On the `validation` fold the
    held-out interactions are set aside first and the rest is split the same way again, so that
    settings can be chosen without looking at them. TensorFlow is imported here.
    """
    import_tensorflow_quietly()
    from examples.movielens.export import Exported, build_recommender, save_recommender
    from examples.movielens.model import train_two_tower

    if interactions is None:
        interactions = data.load_interactions()
    catalogue = data.build_catalogue(interactions)
    split = data.split_by_customer(interactions)
    if fold == VALIDATION:
        split = data.split_by_customer(split.train)
    histories = Histories.of(split.train, catalogue.product_ids)
    held_out = HeldOut.of(split.held_out)

    started = time.monotonic()
    model = train_two_tower(histories, catalogue.features, settings, on_epoch)
    training_seconds = round(time.monotonic() - started, 1)

    # Finished beside its place and then moved there: what has the name is always whole, and a
    # run that is repeated replaces the earlier one.
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_recommender(build_recommender(model, histories, settings.recent), partial / "saved_model")
    # A model may have its answers prepared for the first lines only: its most active customers.
    taken = split.train["customer_id"].value_counts()
    by_activity = sorted(histories.customer_ids, key=lambda customer_id: -taken[customer_id])
    write_lines(partial / "customers.txt", by_activity)
    write_holdout(partial, held_out)
    exported = Exported(partial / "saved_model")
    write_results(partial, held_out, exported.answer(held_out.customer_ids, max(CUTOFFS)))
    comparison, against_item_knn = compare(exported, histories, held_out)
    report = Report(
        run_number=run_number,
        fold=fold,
        settings=asdict(settings),
        dataset={"name": data.DATASET_NAME, "version": data.DATASET_VERSION},
        counts={
            "customers": len(histories.customer_ids),
            "products": len(histories.product_ids),
            "train": len(split.train),
            "held_out": len(split.held_out),
            "evaluation_customers": len(held_out.customer_ids),
        },
        metrics=comparison["two-tower"]["nothing_excluded"],
        comparison=comparison,
        against_item_knn=against_item_knn,
        training_seconds=training_seconds,
        completed_at=now(),
    )
    report.write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return report


def compare(
    exported: Exported, histories: Histories, held_out: HeldOut
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, dict[str, float]]]:
    """Return the report's `comparison` and `against_item_knn`.

    The model's figures with nothing excluded come from the exported search itself, so they are
    what the endpoint gives; the others are ranked from scores.
    """
    taken = histories.taken()
    row_of = {id_: row for row, id_ in enumerate(histories.customer_ids)}
    rows = [row_of[id_] for id_ in held_out.customer_ids]
    seen = taken[rows]
    deepest = max(CUTOFFS)

    def ranked(scores: Matrix) -> dict[str, list[list[str]]]:
        return {
            "nothing_excluded": best_products(scores, histories.product_ids, deepest),
            "seen_excluded": best_products(
                without_seen(scores, seen), histories.product_ids, deepest
            ),
        }

    mean_customer = np.repeat(exported.scores([UNKNOWN_CUSTOMER]), len(rows), axis=0)
    answers = {
        "popularity": ranked(baselines.popularity_scores(taken)[rows]),
        "item-kNN": ranked(baselines.item_knn_scores(taken)[rows]),
        "two-tower, unknown": ranked(mean_customer),
        "two-tower": ranked(exported.scores(held_out.customer_ids))
        | {"nothing_excluded": exported.answer(held_out.customer_ids, deepest)},
    }
    comparison = {
        name: {how: mean_recalls(ranking, held_out) for how, ranking in rankings.items()}
        for name, rankings in answers.items()
    }
    against_item_knn = {
        how: difference_interval(
            recalls(answers["two-tower"][how], held_out, deepest),
            recalls(answers["item-kNN"][how], held_out, deepest),
        )
        for how in ("nothing_excluded", "seen_excluded")
    }
    return comparison, against_item_knn


def write_holdout(folder: Path, held_out: HeldOut) -> None:
    """Write `evaluation/holdout.jsonl`, one held-out customer a line."""
    (folder / "evaluation").mkdir(exist_ok=True)
    write_lines(
        folder / "evaluation/holdout.jsonl",
        (
            json.dumps({"customer_id": customer_id, "product_ids": product_ids})
            for customer_id, product_ids in zip(
                held_out.customer_ids, held_out.product_ids, strict=True
            )
        ),
    )


def write_results(folder: Path, held_out: HeldOut, answers: Answers) -> None:
    """Write `evaluation/results.jsonl`: each held-out customer's Recall@k, nothing excluded.

    `answers` [c] in the order of the customers. By these a later run is compared with this one
    over the same customers.
    """
    by_cutoff = {f"recall_at_{k}": recalls(answers, held_out, k) for k in CUTOFFS}
    write_lines(
        folder / "evaluation/results.jsonl",
        (
            json.dumps(
                {"customer_id": customer_id}
                | {name: round(float(values[row]), 6) for name, values in by_cutoff.items()}
            )
            for row, customer_id in enumerate(held_out.customer_ids)
        ),
    )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the lines as UTF-8, each ended by a newline."""
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def import_tensorflow_quietly() -> None:
    """Import TensorFlow without its news on stderr and without a search for a GPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    # What its native part says while it is loaded honours no log level, so the descriptor itself
    # is turned away meanwhile; what goes wrong is raised, not printed.
    sys.stderr.flush()
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


if __name__ == "__main__":
    from examples.movielens.commands import train_command

    train_command()
