"""The key store in Firestore: one document a key, `api_keys/{SHA-256 of the key}`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from serving.keys import KeyStoreAway, StoredKey
from serving.logs import log

_COLLECTION = "api_keys"
# A request waits for this; two attempts of a look-up that takes milliseconds fit.
_TIMEOUT_S = 2.0


class FirestoreKeys:
    """Reads keys with Google's client, made at the first look-up."""

    def __init__(self, project: str | None) -> None:
        self._project = project
        self._client: Any = None

    def find(self, key_hash: str) -> StoredKey | None:
        """Return the key with this SHA-256 (hex), None without one; raises KeyStoreAway."""
        from google.api_core import exceptions, retry
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import firestore

        try:
            if self._client is None:
                self._client = firestore.Client(project=self._project)
            snapshot = (
                self._client.collection(_COLLECTION)
                .document(key_hash)
                .get(
                    timeout=_TIMEOUT_S,
                    retry=retry.Retry(
                        predicate=retry.if_exception_type(exceptions.ServiceUnavailable),
                        initial=0.05,
                        maximum=0.2,
                        timeout=_TIMEOUT_S,
                    ),
                )
            )
        except (exceptions.GoogleAPIError, GoogleAuthError, OSError) as error:
            # A channel waits up to two minutes before it connects anew; a new one does not.
            self._client = None
            raise KeyStoreAway(f"{type(error).__name__}: {error}") from error
        return _stored_key(key_hash, snapshot.to_dict()) if snapshot.exists else None


def _stored_key(document_id: str, fields: dict[str, Any]) -> StoredKey | None:
    """Return the document as a key; one that is not written as keys are opens nothing."""
    expires_at = fields.get("expires_at")
    if (
        isinstance(fields.get("key_hash"), str)
        and isinstance(fields.get("model_id"), str)
        and isinstance(fields.get("is_active"), bool)
        and isinstance(expires_at, datetime | None)
    ):
        return StoredKey(
            key_hash=fields["key_hash"],
            model_id=fields["model_id"],
            is_active=fields["is_active"],
            expires_at=expires_at,
        )
    log("ERROR", "API key document is malformed", document=f"{_COLLECTION}/{document_id[:8]}…")
    return None
