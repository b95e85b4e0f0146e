"""What a trained model has to beat: the most taken products, and item-to-item neighbours."""

from __future__ import annotations

import numpy as np

from examples.movielens.histories import Marks, Matrix

# Both chosen on the validation fold, as the model's own settings were.
NEIGHBOURS = 100
SHRINKAGE = 20.0

BLOCK = 512


def popularity_scores(taken: Marks) -> Matrix:
    """Score every product by how many customers took it; `taken` and the answer are [n, m]."""
    return np.broadcast_to(taken.sum(axis=0, dtype=np.float32), taken.shape)


def item_knn_scores(
    taken: Marks, neighbours: int = NEIGHBOURS, shrinkage: float = SHRINKAGE
) -> Matrix:
    """Score products by their cosine similarity to what each customer took; [n, m] to [n, m].

    Of each product only its `neighbours` most similar ones count. `shrinkage` is added to the
    cosine's denominator, so that two products taken together once are not called identical.
    """
    marks = taken.astype(np.float32)
    norms = np.sqrt(marks.sum(axis=0))
    products = marks.shape[1]
    scores = np.empty_like(marks)
    # In blocks of products: all pairs at once would take a gigabyte, and longer.
    for start in range(0, products, BLOCK):
        block = slice(start, min(start + BLOCK, products))
        similarity = marks[:, block].T @ marks
        similarity /= norms[block, None] * norms + (shrinkage + 1e-9)
        rows = np.arange(similarity.shape[0])
        similarity[rows, rows + start] = 0  # No product is its own neighbour.
        if neighbours < products:
            weakest = np.partition(similarity, -neighbours, axis=1)[:, -neighbours, None]
            similarity[similarity < weakest] = 0
        scores[:, block] = marks @ similarity.T
    return scores
