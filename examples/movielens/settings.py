"""The named settings that a run can be trained with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a training run is free to choose.

    `recent` is how many of a customer's last products the customer tower sees apart from the
    whole history; `dropout` the share of a history left out of each training example; `shortest`
    and `longest` bound where a history is cut, as a share of it; `window` is how much of what
    follows the cut must be predicted, as a share of what precedes it.
    """

    id: str
    name: str
    dimensions: int
    epochs: int
    learning_rate: float = 0.003
    weight_decay: float = 1e-4
    batch_size: int = 64
    recent: int = 10
    dropout: float = 0.2
    shortest: float = 0.2
    longest: float = 0.95
    window: float = 0.25
    seed: int = 1


# Chosen on the validation fold (`--fold validation`), never on the held-out interactions.
SMALL = Settings(id="movielens-small", name="Small embeddings", dimensions=8, epochs=15)
LARGE = Settings(id="movielens-large", name="Large embeddings", dimensions=64, epochs=60)
NAMED = {"small": SMALL, "large": LARGE}
