"""Rough scores of a whole catalogue, in bfloat16, and how far from the exact ones they can be.

Newer CPUs multiply matrices of bfloat16 numbers two to four times as fast as float32 ones. Such a
number keeps 8 of 24 digits, so these scores choose where to look, and never are an answer: what is
certain about them is their largest error, and whoever looks at everything within it misses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# Rows scored at once: the 64 scores of each are 6 MB, and fewer rows waste the calls' fixed cost.
# Whole stripes of the exact search, which takes each part's blocks as they lie in it.
_ROWS_AT_ONCE = 48 * 1024
# Rounding a number to 8 binary digits changes it by at most this part, and a sum's rounding too.
_UNIT = 2.0**-7
# Rounding of each addition of a float32 sum.
_SUM_UNIT = 2.0**-23
# Every score stays far below what bfloat16 and float32 can hold: none is infinite or not a number.
_LARGEST = 1e30
# Products of numbers that are smaller may count as nothing.
_SMALLEST = 1e-36


class RoughScores:
    """A catalogue's rows in bfloat16, a second copy of half the size."""

    def __init__(self, tf: Any, rows: Any) -> None:
        """Take the rows [m, d] float32, in the order in which scores are given."""
        self._tf = tf
        self._bfloat16 = tf.bfloat16.as_numpy_dtype
        self._parts = []
        self._norm = self._lost = 0.0
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[begin : begin + _ROWS_AT_ONCE]
            rounded = part.astype(self._bfloat16)
            self._parts.append(tf.constant(rounded))
            self._norm = max(self._norm, _longest(part))
            self._lost = max(self._lost, _longest(part - rounded.astype(np.float32)))

    def errors(self, queries: Any) -> Any:
        """Return how far a score of each query [n, d] can be off [n] before it is rounded.

        That is |q||p - p'| + |q - q'||p'| for the longest p and p - p' of the catalogue, where q'
        and p' are the rounded embeddings, and what float32 sums lose. Infinite for a query whose
        scores could be too large.
        """
        rounded = queries.astype(self._bfloat16).astype(np.float32)
        width = queries.shape[1]
        norms, changes = _lengths(queries), _lengths(queries - rounded)
        sums = 4 * width * _SUM_UNIT
        errors = norms * self._lost + (changes + sums * norms) * (self._norm + self._lost)
        errors += width * _SMALLEST
        return np.where(norms * self._norm < _LARGEST, errors, np.inf).astype(np.float32)

    def bits(self, queries: Any) -> Iterator[Any]:
        """Yield the scores [rows, n] of some thousand rows after the other, as int16.

        They are the bits of bfloat16 numbers: read as whole numbers, those of numbers above zero
        are in the numbers' order, and those of all others are below them.
        """
        tf = self._tf
        rounded = tf.constant(queries.astype(self._bfloat16))
        for part in self._parts:
            scores = tf.matmul(part, rounded, transpose_b=True)
            yield np.asarray(memoryview(tf.bitcast(scores, tf.int16)))


def numbers(bits: Any) -> Any:
    """Return the float32 numbers of bfloat16 bits."""
    return (bits.astype(np.int32) << 16).view(np.float32)


def lower_bits(values: Any) -> Any:
    """Return the bits of the nearest bfloat16 numbers at or below positive float32 numbers."""
    return (np.ascontiguousarray(values, np.float32).view(np.int32) >> 16).astype(np.int16)


def least_true(scores: Any, errors: Any) -> Any:
    """Return what the exact scores are at least, where rough ones are above zero."""
    return scores * (1 - _UNIT) - errors


def least_rough(scores: Any, errors: Any) -> Any:
    """Return what the rough scores of products with such exact scores are at least."""
    return (scores - errors) * (1 - _UNIT)


def are_near(rough: RoughScores, rows: Any, queries: Any) -> bool:
    """Tell whether the scores of queries [n, d] are as near to the exact ones as they should be."""
    errors = rough.errors(queries)
    if not np.isfinite(errors).all():
        return False
    begin = 0
    for bits in rough.bits(queries):
        found = numbers(bits)
        exact = rows[begin : begin + len(found)] @ queries.T
        begin += len(found)
        if (np.abs(found - exact) > errors + _UNIT * np.abs(exact)).any():
            return False
    return True


def _longest(rows: Any) -> float:
    return float(_lengths(rows).max())


def _lengths(rows: Any) -> Any:
    # In float64, where the squares of small numbers are not lost.
    return np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
