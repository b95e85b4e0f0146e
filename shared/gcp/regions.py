"""In which region a model's Cloud Run service and job are."""

from __future__ import annotations

from google.cloud import firestore

from shared.config import Settings


class ModelRegions:
    """The regions of the models, as `model_configs` declares them.

    A service never moves to another region, so what was read once is true for as long as the
    process lives. Only the one field is read: a declaration that no longer can be read as a
    whole does not keep a rollback from its service.
    """

    def __init__(self, client: firestore.Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._known: dict[str, str] = {}

    def parent(self, model_id: str) -> str:
        """Return `projects/…/locations/…` of a model; the installation's own where none is said."""
        region = self._known.get(model_id)
        if region is None:
            document = self._client.collection("model_configs").document(model_id)
            found = document.get(["region"])
            region = (found.to_dict() or {}).get("region") or self._settings.region
            if found.exists:
                self._known[model_id] = region
        return f"projects/{self._settings.project}/locations/{region}"
