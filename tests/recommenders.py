"""Models written by hand, and the engine in front of them: no TensorFlow, and every answer known.

`python -m tests.recommenders SOCKET` is an engine with the `Alphabet`, listening at SOCKET; it
says so in a line on stdout.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.engine import Engine, Workers
from serving.errors import ModelError
from serving.recommender import Answer, Recommender
from serving.rendering import Renderer
from serving.wire import ModelReady, Question


class Alphabet:
    """Recommends P0, P1, … with scores that tell customers apart; knows ids that begin with C.

    It fails for `broken` customers as a model does, and for a `bug` as no model should.
    """

    kind = "exact"
    customers = 7

    def __init__(self, products: int = 20) -> None:
        self.products = products

    def answer(self, customer_ids: Sequence[str], k: int) -> Answer:
        if "broken" in customer_ids:
            raise ModelError("the model gave a score that is not a finite number")
        if "bug" in customer_ids:
            raise ZeroDivisionError(f"while answering {customer_ids}")
        n = len(customer_ids)
        best = np.array([[0.92 + sum(id_.encode()) % 1_000] for id_ in customer_ids], np.float32)
        return Answer(
            scores=best - np.linspace(0, 0.9, k, dtype=np.float32),
            product_ids=np.array([[f"P{i}".encode() for i in range(k)]] * n, dtype=object),
            known=np.array([id_.startswith("C") for id_ in customer_ids]),
        )


class Direct:
    """A way to a model that is in the same process."""

    def __init__(self, model: Recommender) -> None:
        self._model = model

    def ask(self, customer_ids: Sequence[str], k: int) -> list[bytes]:
        return rendered(self._model, customer_ids, k)


def rendered(model: Recommender, customer_ids: Sequence[str], k: int) -> list[bytes]:
    """Return what the model answers, as the engine passes it on."""
    return Renderer().answers(customer_ids, model.answer(customer_ids, k))


def ready(model: Recommender) -> ModelReady:
    """Return what the engine says of a model."""
    return ModelReady(model.products, model.customers, model.kind)


def serve(model: Recommender, address: Path) -> Workers:
    """Serve a model at `address`, in a thread that never ends."""
    workers, engine = _listen(address), Engine(model)
    threading.Thread(target=engine.serve, args=(workers,), daemon=True).start()
    return workers


def alone(engine: Engine, question: Question) -> list[bytes] | ModelError:
    """Return the engine's reply to a question that nobody shares a moment with."""
    [reply] = engine.answer([question])
    return reply


def _listen(address: Path) -> Workers:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(address))
    listener.listen(64)
    return Workers(listener)


if __name__ == "__main__":
    listening = _listen(Path(sys.argv[1]))
    print("listening", flush=True)
    Engine(Alphabet()).serve(listening)
