"""Who took what in which order, and the training examples cut out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.movielens.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Marks = np.ndarray[Any, np.dtype[np.bool_]]
Indexes = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Histories:
    """The training interactions of `customer_ids` [n] with `product_ids` [m].

    `customer`, `product` and `position` [r] describe interactions sorted by customer and then
    time: indexes into the ids, and the place in the customer's own history from 0. `lengths` [n].
    """

    customer_ids: tuple[str, ...]
    product_ids: tuple[str, ...]
    customer: Indexes
    product: Indexes
    position: Indexes
    lengths: Indexes

    @classmethod
    def of(cls, interactions: pd.DataFrame, product_ids: Sequence[str]) -> Histories:
        """Index `interactions`; customers in numeric order, products as in `product_ids`."""
        customer_ids = sorted(interactions["customer_id"].unique(), key=int)
        customers = {id_: index for index, id_ in enumerate(customer_ids)}
        products = {id_: index for index, id_ in enumerate(product_ids)}
        ordered = interactions.sort_values("taken_at", kind="stable")
        customer = ordered["customer_id"].map(customers).to_numpy(np.int64)
        product = ordered["product_id"].map(products).to_numpy(np.int64)
        by_customer = np.argsort(customer, kind="stable")
        customer, product = customer[by_customer], product[by_customer]
        lengths = np.bincount(customer, minlength=len(customer_ids))
        starts = np.cumsum(lengths) - lengths
        position = np.arange(len(customer)) - starts[customer]
        return cls(tuple(customer_ids), tuple(product_ids), customer, product, position, lengths)

    def marks(self, chosen: Marks) -> Marks:
        """Return [n, m], true where one of the `chosen` [r] interactions is."""
        matrix = np.zeros((len(self.customer_ids), len(self.product_ids)), bool)
        matrix[self.customer[chosen], self.product[chosen]] = True
        return matrix

    def taken(self) -> Marks:
        """Return [n, m], true where the customer took the product in training."""
        return self.marks(np.ones(len(self.customer), bool))

    def last(self, count: int) -> Marks:
        """Return [n, m], true for each customer's last `count` products."""
        return self.marks(self.position >= (self.lengths - count)[self.customer])


@dataclass(frozen=True)
class Examples:
    """One training example a customer, each [n, m].

    `history` and `recent` are what the customer tower sees, `following` what came next.
    """

    history: Marks
    recent: Marks
    following: Marks


def cut_examples(histories: Histories, settings: Settings, rng: np.random.Generator) -> Examples:
    """Cut each history at a random place: what came before it must predict what came after.

    Training on "what comes next" rather than on "what was taken" is what lets an index that
    excludes nothing rank products the customer has not taken yet.
    """
    share = rng.uniform(settings.shortest, settings.longest, len(histories.lengths))
    cut = np.maximum((share * histories.lengths).astype(np.int64), 1)
    end = cut + np.maximum((settings.window * cut).astype(np.int64), 1)
    owner, position = histories.customer, histories.position
    seen = position < cut[owner]
    seen &= rng.random(len(position)) >= settings.dropout
    recent = seen & (position >= (cut - settings.recent)[owner])
    following = (position >= cut[owner]) & (position < end[owner])
    return Examples(histories.marks(seen), histories.marks(recent), histories.marks(following))
