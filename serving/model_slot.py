"""What answers now: the prepared answers, the model, both, or nothing yet and why."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from serving.errors import ModelNotReady
from serving.table import Tables
from serving.wire import ModelReady

# While the model loads behind the prepared answers, so many requests wait for it, for so long:
# their threads must not be missing to the others, and a stop (8 s) must not cut them off.
MAX_WAITERS = 32
LOAD_WAIT_S = 7.0


@dataclass(frozen=True)
class NoModel:
    """Why nothing is served: it may still come (`starting`) or not (`unhealthy`)."""

    status: Literal["starting", "unhealthy"]
    reason: str


STARTING = NoModel("starting", "the model is being downloaded, loaded and warmed up")
EMPTY = NoModel(
    "unhealthy", "no model is deployed yet; deploy a training run to put one into production"
)


class Asking(Protocol):
    """The way to the model."""

    def ask(self, customer_ids: Sequence[str], k: int) -> list[bytes]:
        """Return the customers' answers; raises ModelError, ModelBusy or ModelNotReady."""


class ModelSlot:
    """Holds what is ready; the thread that hears of it fills it, requests read it.

    `tables` are the prepared answers, `products` the largest k; both None until they are known.
    `model` says what the loaded model is, and is None while it loads.
    """

    def __init__(self, nothing: NoModel, load_wait_s: float = LOAD_WAIT_S) -> None:
        self._nothing = nothing
        self._load_wait_s = load_wait_s
        self._asking: Asking | None = None
        self.tables: Tables | None = None
        self.products: int | None = None
        self.model: ModelReady | None = None
        self._loaded = threading.Event()
        self._waiters = threading.BoundedSemaphore(MAX_WAITERS)

    def follow(self, asking: Asking) -> None:
        """Take the way to the model; nothing is asked before `set_model`."""
        self._asking = asking

    @property
    def nothing(self) -> NoModel | None:
        """Why there is no answer to any question, or None where something answers."""
        return self._nothing if self.products is None else None

    def set_prepared(self, tables: Tables, products: int) -> None:
        """The prepared answers are mapped; the model will have so many products."""
        self.tables, self.products = tables, products

    def set_model(self, model: ModelReady) -> None:
        """The model answers."""
        self.model, self.products = model, model.products
        self._loaded.set()

    def set_ended(self) -> None:
        """The model never answers any more; whoever waits for it need not."""
        self._asking = None
        self._loaded.set()

    def most_products(self) -> int:
        """Return the largest k; raises ModelNotReady with the reason."""
        if self.products is None:
            raise ModelNotReady(self._nothing.reason)
        return self.products

    def answers(self, customer_ids: Sequence[str], k: int) -> list[bytes]:
        """Return each customer's answer: the prepared one where there is, else the model's.

        Raises ModelError, ModelBusy or ModelNotReady.
        """
        if self.tables is None:
            return self._ask(customer_ids, k)
        answers = self.tables.find(customer_ids, k)
        if None not in answers:
            return answers  # type: ignore[return-value]
        missing = [number for number, answer in enumerate(answers) if answer is None]
        asked = self._ask([customer_ids[number] for number in missing], k)
        for number, answer in zip(missing, asked, strict=True):
            answers[number] = answer
        return answers  # type: ignore[return-value]

    def _ask(self, customer_ids: Sequence[str], k: int) -> list[bytes]:
        if not (self._loaded.is_set() or self._wait()):
            raise ModelNotReady(
                "the model is still loading; only prepared answers are served until then"
            )
        if self._asking is None:
            raise ModelNotReady("the model's process has ended; the instance is restarting")
        return self._asking.ask(customer_ids, k)

    def _wait(self) -> bool:
        """Wait for the model as for a starting instance; False where that takes too long."""
        if not self._waiters.acquire(blocking=False):
            return False
        try:
            return self._loaded.wait(self._load_wait_s)
        finally:
            self._waiters.release()
