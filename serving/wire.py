"""What worker processes and the engine say to each other, pickled by `multiprocessing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.errors import ModelError

EVENTS, SMALL, LARGE = "events", "small", "large"


class Question(NamedTuple):
    """Ask for the best `k` products of each customer."""

    customer_ids: Sequence[str]
    k: int


Reply = list[bytes] | ModelError
"""Each customer's answer as `rendering.answers` gives it, or why there is none."""


@dataclass(frozen=True)
class PreparedReady:
    """The prepared answers lie in these files; the model will have so many products."""

    tables: list[str]
    products: int


@dataclass(frozen=True)
class ModelReady:
    """The model answers; see `Recommender` for the fields."""

    products: int
    customers: int | None
    retrieval: str


@dataclass(frozen=True)
class EngineEnded:
    """The engine is gone; what a client says in its place."""
