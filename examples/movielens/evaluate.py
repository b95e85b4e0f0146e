"""Recall@k over held-out customers, asked the way the serving endpoint is asked.

The endpoint answers the best k of all products and excludes nothing, what the customer already
took included. The figures a run reports are computed the same way, through the exported model,
so that they can be compared with recall recomputed through the endpoint. Leaving out what was
seen in training is reported beside them, because recommenders are usually compared that way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.movielens.histories import Marks, Matrix

if TYPE_CHECKING:
    import pandas as pd

CUTOFFS = (10, 50, 100)
BOOTSTRAP_SAMPLES = 2_000

Answers = Sequence[Sequence[str]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class HeldOut:
    """`customer_ids` [c] and what each of them really took later, at least one product each."""

    customer_ids: tuple[str, ...]
    product_ids: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, interactions: pd.DataFrame) -> HeldOut:
        """Gather the interactions by customer, in numeric order of the customers."""
        taken: dict[str, list[str]] = {}
        for customer_id, product_id in zip(
            interactions["customer_id"], interactions["product_id"], strict=True
        ):
            taken.setdefault(customer_id, []).append(product_id)
        customers = sorted(taken, key=int)
        return cls(tuple(customers), tuple(tuple(taken[customer]) for customer in customers))


def recall_at_k(answer: Sequence[str], taken: Collection[str], k: int) -> float:
    """Return the share (0-1) of the products `taken` that are among the first `k` of `answer`.

    Raises ValueError where nothing was taken: there is nothing to recall.
    """
    if not taken:
        raise ValueError("recall needs at least one product that was taken")
    return len(set(answer[:k]) & set(taken)) / len(set(taken))


def recalls(answers: Answers, held_out: HeldOut, k: int) -> Floats:
    """Return each held-out customer's Recall@k [c]; `answers` in the order of the customers."""
    return np.array(
        [
            recall_at_k(answer, taken, k)
            for answer, taken in zip(answers, held_out.product_ids, strict=True)
        ]
    )


def mean_recalls(answers: Answers, held_out: HeldOut) -> dict[str, float]:
    """Return `{"recall_at_10": ...}` for every cutoff: the mean over the held-out customers."""
    return {
        f"recall_at_{k}": round(float(recalls(answers, held_out, k).mean()), 6) for k in CUTOFFS
    }


def best_products(scores: Matrix, product_ids: Sequence[str], k: int) -> list[list[str]]:
    """Return the ids of the `k` best scored products of each row; ties in catalogue order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    ids = np.asarray(product_ids, object)
    return [list(ids[row]) for row in order]


def without_seen(scores: Matrix, taken: Marks) -> Matrix:
    """Return `scores` [c, m] with what `taken` [c, m] marks ranked behind everything else."""
    return np.where(taken, -np.inf, scores)


def difference_interval(ours: Floats, theirs: Floats, seed: int = 0) -> dict[str, float]:
    """Return the mean of `ours - theirs` [c] with its 95 % bootstrap interval over customers."""
    difference = ours - theirs
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, len(difference), (BOOTSTRAP_SAMPLES, len(difference)))
    low, high = np.quantile(difference[samples].mean(axis=1), [0.025, 0.975])
    return {
        "mean": round(float(difference.mean()), 6),
        "low": round(float(low), 6),
        "high": round(float(high), 6),
    }
