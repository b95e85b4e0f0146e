"""Are the answers the same, whoever computes them: both paths against plain TensorFlow."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import Server
from benchmarks.plan import BATCH
from turnout.demo import ROOT

# Sums of float32 depend on the order in which a batch's shape makes them.
TOLERANCE = 1e-6
SEED = 5


@dataclass(frozen=True)
class Compared:
    """How the answers of `customers` differ from the truth: the widest relative distance of a
    score, how many products stand elsewhere within the tolerance, and what is wrong."""

    customers: int
    widest: float
    swapped: int
    wrong: tuple[str, ...]


def choose(customers: Sequence[str], count: int) -> list[str]:
    """Return that many different customers, the same ones every time; all if there are fewer."""
    return random.Random(SEED).sample(list(customers), min(count, len(customers)))


def truth(model: Path, customers: Sequence[str], k: int, work: Path) -> tuple[Any, Any]:
    """Return scores [n, k] and product ids [n, k] that plain TensorFlow gives."""
    asked, output = work / "asked.txt", work / "truth.npz"
    asked.write_text("\n".join(customers))
    subprocess.run(
        [sys.executable, "-m", "benchmarks.models", "answer", model, asked, str(k), output],
        cwd=ROOT,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with np.load(output) as found:
        return found["scores"], found["product_ids"]


def compare(
    server: Server, customers: Sequence[str], k: int, expected: tuple[Any, Any]
) -> Compared:
    """Ask a server for all of them, in batches, and compare with the truth."""
    scores, products = [], []
    for begin in range(0, len(customers), BATCH):
        asked = customers[begin : begin + BATCH]
        results = server.answer_batch(asked, k)
        if [result["customer_id"] for result in results] != list(asked):
            return Compared(len(customers), 0, 0, ("the answers are for other customers",))
        for result in results:
            found = result["recommendations"]
            if len(found) != k:
                wrong = f"{result['customer_id']} got {len(found)} products, not {k}"
                return Compared(len(customers), 0, 0, (wrong,))
            scores.append([one["score"] for one in found])
            products.append([one["product_id"] for one in found])
    return differences(
        customers, np.array(scores, np.float32), np.array(products), expected[0], expected[1]
    )


def differences(
    customers: Sequence[str], scores: Any, products: Any, true_scores: Any, true_products: Any
) -> Compared:
    """Compare [n, k] arrays: scores by place, and the score of each product by its id.

    A product that the other side does not have must tie with the other side's last one.
    """
    widest = float(_distance(scores, true_scores).max())
    wrong = [
        f"{customers[row]}: scores differ by {_distance(scores[row], true_scores[row]).max():.2g}"
        for row in np.flatnonzero((_distance(scores, true_scores) > TOLERANCE).any(axis=1))
    ]
    swapped = 0
    for row, place in np.argwhere(products != true_products):
        swapped += 1
        elsewhere = np.flatnonzero(true_products[row] == products[row, place])
        other = true_scores[row, elsewhere[0] if len(elsewhere) else -1]
        if _distance(scores[row, place], other) > TOLERANCE:
            wrong.append(f"{customers[row]}: {products[row, place]} stands at {place + 1}")
    return Compared(len(customers), widest, swapped, tuple(wrong))


def _distance(found: Any, true: Any) -> Any:
    return np.abs(found - true) / np.maximum(np.abs(true), np.finfo(np.float32).tiny)
