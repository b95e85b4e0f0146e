"""Usage in Firestore: one sketch an hour and instance, and `last_used_at` of the API keys.

`customer_sketches/{model}-{version}-{YYYYMMDDHH}-{instance}` holds model_id, version (1, 2, …),
hour (its begin), sketch (bytes) and expires_at, by which the collection's TTL policy deletes it.
The container does not know its deployment's id; whoever reads finds it by model and version, which
is never given twice.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from serving.usage import KEPT_HOURS, UsageStoreAway

_SKETCHES, _KEYS = "customer_sketches", "api_keys"
_TIMEOUT_S = 2.0


class FirestoreUsage:
    """Writes with Google's client, made at the first write.

    `version` is like v3; `instance` is this process's own random name: a restarted one writes
    beside its predecessor instead of over it.
    """

    def __init__(self, project: str | None, model_id: str, version: str, instance: str) -> None:
        self._project = project
        self._model_id = model_id
        self._version = version
        self._instance = instance
        self._client: Any = None

    def save_sketch(self, hour: datetime, sketch: bytes) -> None:
        """Write the instance's sketch of an hour. It only grows, so the last write is right."""
        name = f"{self._model_id}-{self._version}-{hour:%Y%m%d%H}-{self._instance}"
        fields = {
            "model_id": self._model_id,
            "version": int(self._version.removeprefix("v")),
            "hour": hour,
            "sketch": sketch,
            "expires_at": hour + timedelta(hours=1 + KEPT_HOURS),
        }
        self._write(_SKETCHES, name, lambda document, how: document.set(fields, **how))

    def save_key_use(self, key_hash: str, at: datetime) -> None:
        """Write one field of a key that exists; another instance's minute may come in between.

        Neither revokes nor revives: no other field is touched, and a deleted key is not made.
        """
        from google.api_core import exceptions

        def update(document: Any, how: dict[str, Any]) -> None:
            try:
                document.update({"last_used_at": at}, **how)
            except exceptions.NotFound:
                return

        self._write(_KEYS, key_hash, update)

    def _write(
        self, collection: str, name: str, write: Callable[[Any, dict[str, Any]], object]
    ) -> None:
        from google.api_core import exceptions, retry
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import firestore

        again = retry.Retry(
            predicate=retry.if_exception_type(exceptions.ServiceUnavailable),
            initial=0.05,
            maximum=0.2,
            timeout=_TIMEOUT_S,
        )
        try:
            if self._client is None:
                self._client = firestore.Client(project=self._project)
            document = self._client.collection(collection).document(name)
            write(document, {"timeout": _TIMEOUT_S, "retry": again})
        except (exceptions.GoogleAPIError, GoogleAuthError, OSError) as error:
            # A channel waits up to two minutes before it connects anew; a new one does not.
            self._client = None
            raise UsageStoreAway(f"{type(error).__name__}: {error}") from error
