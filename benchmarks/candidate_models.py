"""The models that candidates are made of: `python -m benchmarks.candidate_models FOLDER`.

A process of its own, so that whoever asks never imports TensorFlow. Each goes to a folder as
training would leave it, with `metrics.json`, what training would report of it. No customer of
REGION is held out: nobody looks at them before they come.

- `good`: a two-tower model of MovieLens;
- `other-run`: a run that ended after two epochs, under the metrics of the good one;
- `one-product`: the good one, but everybody gets one product first.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.movielens import data
from examples.movielens.evaluate import CUTOFFS, HeldOut, mean_recalls
from examples.movielens.histories import Histories
from examples.movielens.settings import SMALL, Settings
from examples.movielens.train import import_tensorflow_quietly, train_run, write_holdout

REGION = "6"
METRICS = "metrics.json"
OTHER_EPOCHS, OTHER_SEED = 2, 7
# A score that no other product reaches: those of the good model are below some ten.
ALWAYS_FIRST = 1000.0


def write_all(folder: Path) -> None:
    """Train twice, and write the three models."""
    import_tensorflow_quietly()
    interactions = data.load_interactions()
    held_out = _held_out(interactions)
    good, other = folder / "good", folder / "other-run"
    _train(SMALL, 1, good, interactions)
    _train(replace(SMALL, epochs=OTHER_EPOCHS, seed=OTHER_SEED), 2, other, interactions)
    _write_one_product(good, folder / "one-product", interactions)
    for kind in (good, other, folder / "one-product"):
        write_holdout(kind, held_out)
    reported = _metrics(good, held_out)
    _write_metrics(good, reported)
    _write_metrics(other, reported)
    _write_metrics(folder / "one-product", _metrics(folder / "one-product", held_out))


def _train(settings: Settings, run: int, folder: Path, interactions: Any) -> None:
    train_run(settings, run, folder, interactions=interactions)
    # What it says there is about all held-out customers.
    shutil.rmtree(folder / "evaluation")


def _held_out(interactions: Any) -> HeldOut:
    """Return what was held out, without the customers of REGION."""
    held_out = data.split_by_customer(interactions).held_out
    return HeldOut.of(held_out[~held_out["customer_id"].str.startswith(REGION)])


def _write_one_product(good: Path, folder: Path, interactions: Any) -> None:
    """Write the good model with one product's bias out of all proportion.

    A customer's vector ends with a one and a product's with its bias (see model.py).
    """
    import tensorflow as tf

    from examples.movielens.export import Recommender, save_recommender

    catalogue = data.build_catalogue(interactions)
    train = data.split_by_customer(interactions).train
    customers = Histories.of(train, catalogue.product_ids).customer_ids
    model = tf.saved_model.load(str(good / "saved_model"))
    vectors = model.query_model({"user_id": tf.constant(list(customers))}).numpy()
    ids, products = (table.numpy() for table in model.candidates())
    products[len(products) // 2, -1] = ALWAYS_FIRST
    folder.mkdir(parents=True)
    product_ids = [id_.decode() for id_ in ids]
    recommender = Recommender(list(customers), vectors, product_ids, products)
    save_recommender(recommender, folder / "saved_model")
    (folder / "customers.txt").write_text((good / "customers.txt").read_text())


def _metrics(folder: Path, held_out: HeldOut) -> dict[str, float]:
    from examples.movielens.export import Exported

    answers = Exported(folder / "saved_model").answer(held_out.customer_ids, max(CUTOFFS))
    return mean_recalls(answers, held_out)


def _write_metrics(folder: Path, metrics: dict[str, float]) -> None:
    (folder / METRICS).write_text(json.dumps(metrics))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
