"""The key store in Firestore: one document a key, `api_keys/{SHA-256 of the key}`.

Of a key with a limit, `rate_limits/requests-{SHA-256}-{minute}` counts what instances took of a
minute; the collection's TTL policy deletes it by its `expires_at`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from serving.errors import KeyStoreAway
from serving.keys import StoredKey
from serving.logs import log

_COLLECTION, _LIMITS = "api_keys", "rate_limits"
_COUNTED_FOR = timedelta(hours=1)
# A request waits for this; two attempts of a look-up that takes milliseconds fit.
_TIMEOUT_S = 2.0


class FirestoreKeys:
    """Reads keys with Google's client, made at the first look-up."""

    def __init__(self, project: str | None) -> None:
        self._project = project
        self._client: Any = None

    def find(self, key_hash: str) -> StoredKey | None:
        """Return the key with this SHA-256 (hex), None without one; raises KeyStoreAway."""
        snapshot = self._attempt(_COLLECTION, key_hash, lambda document, how: document.get(**how))
        return _stored_key(key_hash, snapshot.to_dict()) if snapshot.exists else None

    def take(self, key_hash: str, minute: int, requests: int) -> int:
        """Add to what all instances took of the key's minute (since 1970); return the sum.

        Raises KeyStoreAway. One write, added up by Firestore: no two instances get the same sum.
        A repeat takes again: fewer requests pass then, never more.
        """
        from google.cloud import firestore

        begins = datetime.fromtimestamp(minute * 60, UTC)
        fields = {"count": firestore.Increment(requests), "expires_at": begins + _COUNTED_FOR}
        written = self._attempt(
            _LIMITS,
            f"requests-{key_hash}-{minute}",
            lambda document, how: document.set(fields, merge=True, **how),
        )
        return int(written.transform_results[0].integer_value)

    def _attempt(
        self, collection: str, name: str, call: Callable[[Any, dict[str, Any]], Any]
    ) -> Any:
        """Return what the call on a document does, within _TIMEOUT_S; raises KeyStoreAway."""
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
            return call(document, {"timeout": _TIMEOUT_S, "retry": again})
        except (exceptions.GoogleAPIError, GoogleAuthError, OSError) as error:
            # A channel waits up to two minutes before it connects anew; a new one does not.
            self._client = None
            raise KeyStoreAway(f"{type(error).__name__}: {error}") from error


def _stored_key(document_id: str, fields: dict[str, Any]) -> StoredKey | None:
    """Return the document as a key; one that is not written as keys are opens nothing."""
    expires_at, per_minute = fields.get("expires_at"), fields.get("requests_per_minute")
    if (
        isinstance(fields.get("key_hash"), str)
        and isinstance(fields.get("model_id"), str)
        and isinstance(fields.get("is_active"), bool)
        and isinstance(expires_at, datetime | None)
        and (per_minute is None or (isinstance(per_minute, int) and per_minute > 0))
    ):
        return StoredKey(
            key_hash=fields["key_hash"],
            model_id=fields["model_id"],
            is_active=fields["is_active"],
            expires_at=expires_at,
            requests_per_minute=per_minute,
        )
    log("ERROR", "API key document is malformed", document=f"{_COLLECTION}/{document_id[:8]}…")
    return None
