"""Which model answers now, or why none does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serving.errors import ModelNotReady
from serving.recommender import Recommender


@dataclass(frozen=True)
class NoModel:
    """Why nothing is served: it may still come (`starting`) or not (`unhealthy`)."""

    status: Literal["starting", "unhealthy"]
    reason: str


STARTING = NoModel("starting", "the model is being downloaded, loaded and warmed up")
EMPTY = NoModel(
    "unhealthy", "no model is deployed yet; deploy a training run to put one into production"
)


class ModelSlot:
    """Holds the current model; the loading thread fills it, requests read it."""

    def __init__(self, current: Recommender | NoModel) -> None:
        self.current = current

    def recommender(self) -> Recommender:
        """Return the model that answers; raises ModelNotReady with the reason."""
        if isinstance(self.current, NoModel):
            raise ModelNotReady(self.current.reason)
        return self.current
