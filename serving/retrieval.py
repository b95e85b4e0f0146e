"""The best k products of many customers: exact, with most of the catalogue never sorted.

A product's score is the inner product of its embedding with the customer's. The catalogue is cut
into blocks of neighbours, and each block's best score is found in one sweep. The k-th highest of
these is a bar that at least k products reach, so no product below it is among the k best: only
those that reach it, a few more than k as a rule, are ever sorted. Where the CPU is faster at it,
the sweep takes rough scores, and the bar is lowered by the largest error they can have.

Equal scores are ordered as the catalogue is: the product that `candidates()` names first wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import repeat
from typing import Any, Protocol

import numpy as np

from serving.rough import RoughScores, are_near, least_rough, least_true, lower_bits, numbers

# Products in a block: wider means fewer best scores to choose from and more products to look at.
_BLOCK = 32
# Blocks scored at once: with 64 customers their scores are 1 MB, which stays in a core's cache.
_STRIPE = 128
# Catalogues of so many stripes are worth handing parts of one slice to several threads.
_MANY_STRIPES = 8
# Above this part of the blocks, choosing blocks costs more than sorting everything.
_FEW_BLOCKS = 8
# Customers scored at once: more does not make the matrix product faster, and leaves the cache.
_SLICE = 64
# Blocks looked into at once, over all customers of a slice: what a large k takes stays bounded.
_BLOCKS_AT_ONCE = 1 << 14
# Up to so many scores of a slice are kept (4 MB); of larger catalogues the few are computed again.
_KEPT = 1 << 20
# Numbers of embeddings gathered at once for that (16 MB).
_GATHERED_AT_ONCE = 1 << 22
# Scores held at once, in numbers, where all of a customer's are sorted (64 MB).
_SCORES_AT_ONCE = 1 << 24
# With fewer customers at once, exact scores take no more CPU time than rough ones.
_FEWEST = 8
# Rough scores are used where they take at most this part of the time of exact ones, for the usual
# number of products, in the fastest of some tries.
_WORTH = 0.8
_TRIED_K = 10
_TRIES = 3
# Blocks looked into for each product asked for; where the rough scores leave more, they are no use.
_ROUGH_BLOCKS = 16
# Blocks whose best is taken together before the highest are chosen: choosing costs more than that.
_GROUP = 8
# How far two sums of the same float32 products may be apart, for the largest of a customer's.
_ROUNDING = 1e-5

Found = tuple[Any, Any]
"""Scores [n, k] float32, best first, and positions in the catalogue [n, k] int64."""


class Retrieval(Protocol):
    """A search of a catalogue for the products with the highest inner products."""

    kind: str

    def top(self, queries: Any, k: int) -> Found:
        """Return the best `k` products of each of the queries [n, d] float32."""


class ExactRetrieval:
    """Finds the best products by scoring all of them."""

    kind = "exact"

    def __init__(self, embeddings: Any, cpus: int = 1) -> None:
        """Take the catalogue's embeddings [m, d] float32; `cpus` threads share the work."""
        self.products, self._width = embeddings.shape
        blocks = -(-self.products // _BLOCK)
        # Where each row comes from. Within a stripe the products of a block stand as many rows
        # apart as the stripe has blocks: a block's best score is then found in whole sweeps.
        self._positions = np.concatenate(
            [
                np.arange(begin * _BLOCK, min(begin + _STRIPE, blocks) * _BLOCK)
                .reshape(-1, _BLOCK)
                .T.reshape(-1)
                for begin in range(0, blocks, _STRIPE)
            ]
        )
        self._is_filler = self._positions >= self.products
        self._rows = embeddings[np.minimum(self._positions, self.products - 1)]
        self._stripes = [
            self._rows[begin : begin + _STRIPE * _BLOCK]
            for begin in range(0, len(self._rows), _STRIPE * _BLOCK)
        ]
        self._is_large = len(self._stripes) >= _MANY_STRIPES
        self._pool = ThreadPoolExecutor(cpus, "score") if cpus > 1 else None
        self._rough: RoughScores | None = None

    def try_rough(self, tf: Any) -> bool:
        """Use rough scores from now on if this CPU is faster with them; return whether it is.

        CPUs without instructions for bfloat16 are slower with them, and so are small catalogues.
        """
        k = _TRIED_K
        if k * _FEW_BLOCKS * _BLOCK > len(self._rows):
            return False
        scores = RoughScores(tf, self._rows)
        queries = np.resize(self._rows[:: max(1, len(self._rows) // _SLICE)], (_SLICE, self._width))
        queries = queries / max(np.abs(queries).max(), np.finfo(np.float32).tiny)
        if are_near(scores, self._rows, queries):
            exactly = _fastest(lambda: self._prune(queries, k))
            self._rough = scores
            if _fastest(lambda: self._prune(queries, k)) > _WORTH * exactly:
                self._rough = None
        return self._rough is not None

    def top(self, queries: Any, k: int) -> Found:
        """Return the best `k` (1 to `products`) of each of the queries [n, d] float32."""
        if k * _FEW_BLOCKS * _BLOCK > len(self._rows):
            return self._sort_all(queries, k)
        rows = max(1, min(_SLICE, _BLOCKS_AT_ONCE // k))
        slices = [queries[at : at + rows] for at in range(0, len(queries), rows)]
        if len(slices) == 1:
            return self._prune(queries, k, self._pool if self._is_large else None)
        return _stacked(
            list((self._pool.map if self._pool else map)(self._prune, slices, repeat(k)))
        )

    def scores(self, queries: Any, positions: Any) -> Any:
        """Return the scores [n, c] of some products of each query, by their positions [n, c]."""
        block, place = np.divmod(positions, _BLOCK)
        return self._score_blocks(queries, np.arange(len(queries)), self._row(block, place))

    def embeddings(self) -> Any:
        """Return the catalogue's embeddings [m, d], in its order."""
        return self._rows[self._in_order]

    def _prune(self, queries: Any, k: int, pool: ThreadPoolExecutor | None = None) -> Found:
        n = len(queries)
        if self._rough and n >= _FEWEST and (found := self._prune_roughly(queries, k)):
            return found
        is_small = n * len(self._rows) <= _KEPT
        kept = np.empty((len(self._rows), n), np.float32) if is_small else None
        best = self._best_of_blocks(queries, kept, pool)
        if not np.isfinite(best).all():
            return self._sort_all(queries, k)  # There is no bar; the caller will see why.
        bar = np.partition(best, -k, axis=1)[:, -k, None]
        bar -= _ROUNDING * np.abs(best).max(axis=1, keepdims=True)
        customers, blocks = np.nonzero(best >= bar)
        rows = self._row(blocks[:, None], np.arange(_BLOCK))
        if kept is None:
            scores = self._score_blocks(queries, customers, rows)
        else:
            scores = kept[rows, customers[:, None]]
        return self._choose(n, k, bar, customers, rows, scores)

    def _prune_roughly(self, queries: Any, k: int) -> Found | None:
        """Do the same by rough scores; None where they do not tell enough.

        The bar rises from part to part of the catalogue, and no part is kept.
        """
        assert self._rough is not None
        n = len(queries)
        errors = self._rough.errors(queries)
        highest = np.empty((0, n), np.int16)
        reached = []
        begin = 0
        for bits in self._rough.bits(queries):
            best = np.empty((len(bits) // _BLOCK, n), np.int16)
            for at in range(0, len(best), _STRIPE):
                _best_of_stripe(
                    bits[at * _BLOCK : (at + _STRIPE) * _BLOCK], best[at : at + _STRIPE]
                )
            highest = np.concatenate([highest, _highest_of_groups(best, k)])
            if len(highest) < k:
                return None  # The first part has fewer blocks, so there is no bar yet.
            highest = _highest_rows(highest, k)
            bar = least_true(numbers(highest.min(axis=0)), errors)
            low = least_rough(bar, errors)
            if not (low > 0).all():
                return None  # Only numbers above zero are in order.
            low = lower_bits(low)
            blocks, customers = np.divmod(np.flatnonzero(best >= low), n)
            if len(blocks) > _ROUGH_BLOCKS * k * n:
                return None
            rows = self._row(blocks[:, None] + begin // _BLOCK, np.arange(_BLOCK))
            scores = bits[rows - begin, customers[:, None]]
            which, place = np.nonzero(scores >= low[customers, None])
            reached.append((scores[which, place], rows[which, place], customers[which]))
            begin += len(bits)
        scores, rows, customers = map(np.concatenate, zip(*reached, strict=True))
        still = scores >= low[customers]
        rows, customers = rows[still, None], customers[still]
        scores = self._score_blocks(queries, customers, rows)
        return self._choose(n, k, bar[:, None], customers, rows, scores)

    def _choose(self, n: int, k: int, bar: Any, customers: Any, rows: Any, scores: Any) -> Found:
        """Return the best k of the products [p, c] with these rows and scores, of customers [p].

        At least k of each of the n customers reach the bar [n, 1].
        """
        reached, place = np.nonzero((scores >= bar[customers]) & ~self._is_filler[rows])
        scores, rows, customers = scores[reached, place], rows[reached, place], customers[reached]
        positions = self._positions[rows]
        order = np.lexsort((positions, -scores, customers))
        firsts = np.searchsorted(customers[order], np.arange(n))
        chosen = order[firsts[:, None] + np.arange(k)]
        return scores[chosen], positions[chosen]

    def _best_of_blocks(self, queries: Any, kept: Any, pool: ThreadPoolExecutor | None) -> Any:
        """Return each block's best score [n, blocks]; write all into `kept` [rows, n] if given.

        Products times customers, not the other way round: with few customers, OpenBLAS is up to
        three times as fast in that order.
        """
        n = len(queries)
        best = np.empty((len(self._rows) // _BLOCK, n), np.float32)

        def score(number: int) -> None:
            stripe, begin = self._stripes[number], number * _STRIPE
            target = None if kept is None else kept[begin * _BLOCK : begin * _BLOCK + len(stripe)]
            scores = np.matmul(stripe, queries.T, out=target)
            _best_of_stripe(scores, best[begin : begin + _STRIPE])

        for _ in (pool.map if pool else map)(score, range(len(self._stripes))):
            pass
        return np.ascontiguousarray(best.T)

    def _row(self, block: Any, place: Any) -> Any:
        """Return the rows of products by their block and their place in it."""
        stripe = block // _STRIPE
        last = len(self._stripes) - 1
        apart = np.where(stripe == last, len(self._stripes[last]) // _BLOCK, _STRIPE)
        return stripe * _STRIPE * _BLOCK + place * apart + block % _STRIPE

    @cached_property
    def _in_order(self) -> Any:
        """The rows of the products in the catalogue's order; few questions need them."""
        return np.argsort(self._positions)[: self.products]

    def _score_blocks(self, queries: Any, customers: Any, rows: Any) -> Any:
        """Return the scores [p, c] of the rows [p, c] for the customers [p]."""
        at_once = max(1, _GATHERED_AT_ONCE // (rows.shape[1] * self._width))
        parts = [slice(at, at + at_once) for at in range(0, len(rows), at_once)]
        return np.concatenate(
            [
                np.matmul(self._rows[rows[part]], queries[customers[part], :, None])[:, :, 0]
                for part in parts
            ]
        )

    def _sort_all(self, queries: Any, k: int) -> Found:
        at_once = max(1, _SCORES_AT_ONCE // len(self._rows))
        found = []
        for at in range(0, len(queries), at_once):
            scores = (queries[at : at + at_once] @ self._rows.T)[:, self._in_order]
            found.append(
                _ordered(scores, np.broadcast_to(np.arange(self.products), scores.shape), k)
            )
        return _stacked(found)


def _fastest(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _best_of_stripe(scores: Any, best: Any) -> None:
    """Write the best score of each block [blocks, n] of a stripe's scores [rows, n] to `best`."""
    blocks, n = best.shape
    scores.reshape(_BLOCK, blocks, n).max(axis=0, out=best)


def _highest_of_groups(best: Any, k: int) -> Any:
    """Return the best scores of groups of blocks [groups, n], of more than k groups."""
    blocks, n = best.shape
    width = min(_GROUP, blocks // (2 * k))
    if width < 2:
        return best
    whole = blocks - blocks % width
    return best[:whole].reshape(-1, width, n).max(axis=1)


def _highest_rows(values: Any, k: int) -> Any:
    """Return the k highest values of each column [k, n], in any order."""
    return np.partition(values.T, -k, axis=1)[:, -k:].T


def _ordered(scores: Any, positions: Any, k: int) -> Found:
    """Return the best `k` columns of each row, best first; equal ones stay in their order."""
    columns = np.sort(_highest(scores, k), axis=1)
    scores = np.take_along_axis(scores, columns, axis=1)
    positions = np.take_along_axis(positions, columns, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _highest(values: Any, k: int) -> Any:
    """Return the columns of each row's highest `k` values [n, k]; of equal ones the first."""
    columns = values.shape[1]
    if k >= columns:
        return np.broadcast_to(np.arange(columns), values.shape)
    chosen = np.argpartition(values, columns - k, axis=1)[:, columns - k :]
    lowest = np.take_along_axis(values, chosen, axis=1).min(axis=1, keepdims=True)
    # Partitioning takes any of the values that equal the lowest one; seldom is there a choice.
    for row in np.flatnonzero(np.count_nonzero(values >= lowest, axis=1) > k):
        chosen[row] = np.argsort(-values[row], kind="stable")[:k]
    return chosen


def _stacked(found: list[Found]) -> Found:
    return (
        np.concatenate([scores for scores, _ in found]),
        np.concatenate([positions for _, positions in found]),
    )
