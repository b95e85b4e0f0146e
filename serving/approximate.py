"""An approximate index for large catalogues: faiss finds candidates, exact scores order them.

Products are gathered around centres (an inverted file), with their embeddings in bytes; a question
looks into the lists of the nearest centres only. How many lists that are is chosen when the index
is built: the fewest with which sample customers get the recall that the model's owner asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from serving.errors import RecallTooLow
from serving.retrieval import ExactRetrieval, Found

# Recall is measured on so many of a customer's best products.
MEASURED_K = 10
# Candidates looked at for each product asked for: bytes instead of floats misplace some.
_CANDIDATES = 4
# More products than this are asked for seldom; they are found exactly.
MOST_PRODUCTS = 100
# Products the centres are found from, for each of them; more does not make them better.
_TRAINING = 64
_SEED = 1


def build(
    exact: ExactRetrieval, queries: Any, minimum_recall: float, cpus: int
) -> tuple[Any, float]:
    """Return an index of the same catalogue, and its recall against the exact search, 0 to 1.

    `queries` [n, d] are sample customers. Raises RecallTooLow where not even looking into all
    lists reaches the minimum; that one then says what was reached.
    """
    faiss.omp_set_num_threads(cpus)
    embeddings = exact.embeddings()
    products, width = embeddings.shape
    lists = int(max(1, min(2 * np.sqrt(products), products // _TRAINING)))
    index = faiss.index_factory(width, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    chosen = np.random.default_rng(_SEED).permutation(products)[: lists * _TRAINING]
    index.train(embeddings[np.sort(chosen)])
    index.add(embeddings)
    k = min(MEASURED_K, products)
    _, best = exact.top(queries, k)
    index.nprobe, recall = 0, -1.0
    while recall < minimum_recall:
        if index.nprobe >= lists:
            raise RecallTooLow(recall, minimum_recall)
        index.nprobe = min(lists, max(1, 2 * index.nprobe))
        _, found = _search(index, exact, queries, k)
        hits = sum(len(np.intersect1d(*pair)) for pair in zip(best, found, strict=True))
        recall = hits / best.size
    return index, recall


def save(index: Any, path: Path) -> None:
    """Write an index, with the number of lists that are looked into."""
    faiss.write_index(index, str(path))


def load(path: Path, cpus: int) -> Any:
    """Return a written index; its lists stay in the mapped file."""
    faiss.omp_set_num_threads(cpus)
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP)


class ApproximateRetrieval:
    """Finds most of the best products by scoring few of them."""

    kind = "approximate"

    def __init__(self, index: Any, exact: ExactRetrieval) -> None:
        self._index = index
        self._exact = exact

    def top(self, queries: Any, k: int) -> Found:
        """Return `k` good products of each of the queries [n, d] float32, exactly scored."""
        if k > MOST_PRODUCTS or _CANDIDATES * k > self._exact.products:
            return self._exact.top(queries, k)
        scores, positions = _search(self._index, self._exact, queries, k)
        short = np.flatnonzero(positions[:, -1] < 0)
        if len(short):  # The lists that these looked into hold fewer products.
            scores[short], positions[short] = self._exact.top(queries[short], k)
        return scores, positions


def _search(index: Any, exact: ExactRetrieval, queries: Any, k: int) -> Found:
    """Return what the index finds, exactly scored; position -1 where it finds fewer than k."""
    _, positions = index.search(queries, _CANDIDATES * k)
    positions.sort(axis=1)
    scores = exact.scores(queries, np.maximum(positions, 0))
    scores[positions < 0] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(positions, best, axis=1)
