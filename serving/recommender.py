"""What a loaded model answers, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Answer:
    """Recommendations of n customers, best first, as NumPy arrays.

    `scores` [n, k] float32, `product_ids` [n, k] bytes (UTF-8), `known` [n] bool or None where
    the model cannot tell.
    """

    scores: Any
    product_ids: Any
    known: Any | None


class Recommender(Protocol):
    """A model that is ready to answer; safe to use from many threads."""

    @property
    def products(self) -> int:
        """How many products it can recommend: the largest `k`."""

    @property
    def customers(self) -> int | None:
        """How many customers it knows, or None where it cannot tell."""

    @property
    def kind(self) -> str:
        """How it finds products: `exact`, `approximate`, or by the `model`'s own index."""

    def answer(self, customer_ids: Sequence[str], k: int) -> Answer:
        """Return the best `k` products (1 to `products`) of each customer; raises ModelError."""
