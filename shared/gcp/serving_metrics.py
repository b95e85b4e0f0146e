"""Serving metrics in Firestore: the hours, how far they were collected, customers' sketches."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from google.cloud import firestore

from shared.domain.serving_metrics import ServingHour

WRITTEN_AT_ONCE = 100


class FirestoreServingHours:
    """serving_metrics/{deployment}-{YYYYMMDDHH}, metrics_collections/{model}, customer_sketches."""

    def __init__(self, client: firestore.Client) -> None:
        self._client = client

    def collected_until(self, model_id: str) -> datetime | None:
        """Return the hour before which every hour was collected, or None at the first time."""
        found = self._collection(model_id).get(["until"])
        until: datetime | None = found.get("until") if found.exists else None
        return until

    def note_collected(self, model_id: str, until: datetime, at: datetime) -> None:
        """Write how far was collected; going back collects again, which changes nothing."""
        self._collection(model_id).set({"until": until, "at": at})

    def sketches(self, model_id: str, hour: datetime) -> Mapping[int, Sequence[bytes]]:
        """Return the sketches that a model's containers wrote of an hour, by version.

        Two equalities: no composite index is needed.
        """
        query = (
            self._client.collection("customer_sketches")
            .where(filter=firestore.FieldFilter("model_id", "==", model_id))
            .where(filter=firestore.FieldFilter("hour", "==", hour))
        )
        found: dict[int, list[bytes]] = {}
        for document in query.stream():
            fields = document.to_dict() or {}
            found.setdefault(fields["version"], []).append(fields["sketch"])
        return found

    def write(self, hours: Sequence[ServingHour]) -> None:
        """Write each hour over what was there: its figures are the whole hour's, not additions."""
        collection = self._client.collection("serving_metrics")
        for start in range(0, len(hours), WRITTEN_AT_ONCE):
            batch = self._client.batch()
            for hour in itertools.islice(hours, start, start + WRITTEN_AT_ONCE):
                batch.set(collection.document(hour.id), asdict(hour))
            batch.commit()

    def _collection(self, model_id: str) -> firestore.DocumentReference:
        return self._client.collection("metrics_collections").document(model_id)
