"""One small training run, and what it exported as a process sees it that knows only TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.movielens import data
from examples.movielens.evaluate import recall_at_k
from examples.movielens.report import Report
from examples.movielens.settings import SMALL, Settings
from examples.movielens.train import train_run

CUSTOMERS = 60
SETTINGS = dataclasses.replace(SMALL, dimensions=4, epochs=3)
UNKNOWN = ["nobody", "", "-1", "7 "]

ASK_THE_MODEL = """
import json, sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
customers, unknown = json.loads(sys.argv[2]), json.loads(sys.argv[3])
ids = tf.constant(customers)
embedding = model.query_model({"user_id": ids})
mean_embedding = model.query_model({"user_id": tf.constant(unknown)})
product_ids, products = model.candidates()
search = lambda vectors, k: model.brute_force_index(vectors, tf.constant(k, tf.int32))
scores, found = search(embedding, 100)
by_hand = np.sort(embedding.numpy() @ products.numpy().T, axis=1)[:, ::-1][:, :100]
served = model.signatures["serving_default"](user_id=ids, k=tf.constant(100, tf.int32))
describe = lambda tensor: [tensor.dtype.name, list(tensor.shape)]
print(json.dumps({
    "embedding": describe(embedding),
    "scores": describe(scores),
    "found": describe(found),
    "candidates": [describe(product_ids), describe(products)],
    "distinct_candidates": len(set(product_ids.numpy().tolist())),
    "falling": bool((np.diff(scores.numpy(), axis=1) <= 0).all()),
    "finite": bool(np.isfinite(scores.numpy()).all()),
    "furthest_from_by_hand": float(np.abs(by_hand - scores.numpy()).max()),
    "answers": [[id_.decode() for id_ in row] for row in found.numpy()],
    "sizes": {k: search(embedding, k)[0].shape[1] for k in (-3, 0, 1, 7, 1_000_000)},
    "graphs": len(model.brute_force_index.concrete_functions),
    "known": model.known(tf.constant(customers + unknown)).numpy().tolist(),
    "unknown_from_mean": float(
        np.abs(mean_embedding.numpy() - embedding.numpy().mean(axis=0)).max()
    ),
    "nobody": search(model.query_model({"user_id": tf.constant([], tf.string)}), 5)[0].shape[0],
    "served_alike": bool(
        (served["product_ids"].numpy() == found.numpy()).all()
        and np.allclose(served["scores"].numpy(), scores.numpy())
    ),
    "packages": sorted({name.split(".")[0] for name in sys.modules} & {"examples", "keras"}),
}))
"""


@dataclass(frozen=True)
class Run:
    """A finished run, and what its exported model answered in a fresh process."""

    folder: Path
    report: Report
    customers: list[str]
    asked: Mapping[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run-7"
    epochs: list[int] = []
    report = train(SETTINGS, folder, epochs)
    assert epochs == [1, 2, 3]
    customers = (folder / "customers.txt").read_text("utf-8").splitlines()
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            ASK_THE_MODEL,
            str(folder / "saved_model"),
            json.dumps(customers),
            json.dumps(UNKNOWN),
        ],
        cwd=folder,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return Run(folder, report, customers, json.loads(finished.stdout))


def train(settings: Settings, folder: Path, epochs: list[int]) -> Report:
    interactions = data.load_interactions()
    first = interactions["customer_id"].astype(int) <= CUSTOMERS
    return train_run(
        settings,
        7,
        folder,
        interactions=interactions[first],
        on_epoch=lambda done, _loss: epochs.append(done),
    )


def holdout(run: Run) -> dict[str, list[str]]:
    lines = (run.folder / "evaluation/holdout.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert all(set(entry) == {"customer_id", "product_ids"} for entry in entries)
    return {entry["customer_id"]: entry["product_ids"] for entry in entries}


def test_exported_model_has_the_contracts_shapes_and_types(run: Run) -> None:
    n, m, width = len(run.customers), run.report.counts["products"], SETTINGS.dimensions + 1
    assert run.asked["embedding"] == ["float32", [n, width]]
    assert run.asked["scores"] == ["float32", [n, 100]]
    assert run.asked["found"] == ["string", [n, 100]]
    assert run.asked["candidates"] == [["string", [m]], ["float32", [m, width]]]
    assert run.asked["distinct_candidates"] == m


def test_exported_search_answers_the_best_scores_in_falling_order(run: Run) -> None:
    assert run.asked["falling"]
    assert run.asked["finite"]
    assert run.asked["furthest_from_by_hand"] < 1e-4


def test_k_outside_the_catalogue_is_clamped_to_it(run: Run) -> None:
    assert run.asked["sizes"] == {
        "-3": 1,
        "0": 1,
        "1": 1,
        "7": 7,
        "1000000": run.report.counts["products"],
    }


def test_every_k_runs_the_same_graph(run: Run) -> None:
    assert run.asked["graphs"] == 1


def test_unknown_customers_get_the_mean_customers_answer_and_are_not_known(run: Run) -> None:
    assert run.asked["known"] == [True] * len(run.customers) + [False] * len(UNKNOWN)
    assert run.asked["unknown_from_mean"] < 1e-5


def test_no_customers_get_no_answers(run: Run) -> None:
    assert run.asked["nobody"] == 0


def test_serving_default_signature_answers_as_the_two_functions_do(run: Run) -> None:
    assert run.asked["served_alike"]


def test_serving_process_needs_nothing_but_tensorflow(run: Run) -> None:
    assert "examples" not in run.asked["packages"]


def test_recall_through_the_loaded_model_is_what_the_run_reported(run: Run) -> None:
    answers = dict(zip(run.customers, run.asked["answers"], strict=True))
    held_out = holdout(run)
    assert len(held_out) == run.report.counts["evaluation_customers"]
    for k in (10, 50, 100):
        found = [recall_at_k(answers[customer], taken, k) for customer, taken in held_out.items()]
        assert sum(found) / len(found) == pytest.approx(
            run.report.metrics[f"recall_at_{k}"], abs=1e-6
        )


def test_results_by_customer_have_the_reported_recall_as_their_mean(run: Run) -> None:
    lines = (run.folder / "evaluation/results.jsonl").read_text("utf-8").splitlines()
    results = [json.loads(line) for line in lines]
    assert [one.pop("customer_id") for one in results] == list(holdout(run))
    assert all(set(one) == set(run.report.metrics) for one in results)
    for name, reported in run.report.metrics.items():
        mean = sum(one[name] for one in results) / len(results)
        assert mean == pytest.approx(reported, abs=2e-6)


def test_held_out_products_are_none_that_the_customer_took_in_training(run: Run) -> None:
    interactions = data.load_interactions()
    for customer, taken in holdout(run).items():
        of_customer = interactions[interactions["customer_id"] == customer]
        held = of_customer["product_id"].isin(set(taken))
        assert held.sum() == len(taken)
        assert of_customer["taken_at"][held].min() > of_customer["taken_at"][~held].max()


def test_known_customers_are_all_that_were_trained_on_the_most_active_first(run: Run) -> None:
    assert sorted(run.customers, key=int) == [str(number) for number in range(1, CUSTOMERS + 1)]
    held_out = {customer: len(products) for customer, products in holdout(run).items()}
    taken = data.load_interactions()["customer_id"].value_counts()
    trained = [taken[customer] - held_out.get(customer, 0) for customer in run.customers]
    assert trained == sorted(trained, reverse=True)


def test_report_read_back_is_the_one_returned(run: Run) -> None:
    assert Report.read(run.folder) == run.report
    assert run.report.metrics == run.report.comparison["two-tower"]["nothing_excluded"]


def test_same_settings_again_give_the_same_figures_and_replace_the_run(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run-7"
    folder.mkdir()
    (folder / "left over").touch()
    again = train(SETTINGS, folder, [])
    assert again.comparison == run.report.comparison
    assert sorted(path.name for path in folder.iterdir()) == [
        "customers.txt",
        "evaluation",
        "saved_model",
    ]
    assert list(tmp_path.iterdir()) == [folder]
