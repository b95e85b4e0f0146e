"""API keys: who may ask for recommendations.

A key is looked up once and its verdict kept for a stated time, so a revoked key works for at
most POSITIVE_TTL_S longer; while the store is away, a key that was good within the last
STALE_LIMIT_S keeps working. So does one whose document has vanished: keys are revoked, never
deleted, so that a store without it has lost it.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from serving.errors import InvalidApiKey, KeyStoreAway, KeysUnavailable, MissingApiKey
from serving.limits import Limits
from serving.logs import log

POSITIVE_TTL_S = 30.0
NEGATIVE_TTL_S = 5.0
STALE_LIMIT_S = 3_600.0
# While the store is away, one request a second finds out; the others do not wait for it.
AWAY_PAUSE_S = 1.0
# Verdicts kept; past it the oldest goes, so that made-up keys cannot fill the memory.
CACHE_SIZE = 10_000
_LONGEST_KEY = 512
_NEVER = "0" * 64


@dataclass(frozen=True)
class StoredKey:
    """One key as the store has it; `expires_at` is aware, None never expires.

    `requests_per_minute` holds over all instances together; None is no limit.
    """

    key_hash: str
    model_id: str
    is_active: bool
    expires_at: datetime | None
    requests_per_minute: int | None = None


class KeyStore(Protocol):
    """Where keys are kept."""

    def find(self, key_hash: str) -> StoredKey | None:
        """Return the key with this SHA-256 (hex), None without one; raises KeyStoreAway."""

    def take(self, key_hash: str, minute: int, requests: int) -> int:
        """Add to what all instances took of the key's minute (since 1970); return the sum.

        Raises KeyStoreAway. A repeat takes again: fewer requests pass then, never more.
        """


@dataclass(frozen=True)
class _Verdict:
    """What was found and when; `key` is None for a key that opens nothing here.

    `good_at` is when the store last had the key, where it is not the same.
    """

    key: StoredKey | None
    found_at: float
    good_at: float


class ApiKeys:
    """Checks the keys of one model's requests; safe to use from many threads."""

    def __init__(
        self,
        model_id: str,
        store: KeyStore,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._model_id = model_id
        self._store = store
        self._monotonic = monotonic
        self._now = now
        self._limits = Limits(store.take, lambda: now().timestamp())
        self._verdicts: OrderedDict[str, _Verdict] = OrderedDict()
        self._verdicts_lock = threading.Lock()
        # Requests with the same key wait for one look-up instead of making one each.
        self._lookup_locks = [threading.Lock() for _ in range(16)]
        self._away_since: float | None = None
        self._ask_again_at = 0.0

    def check(self, authorization: str | None) -> str:
        """Return the SHA-256 (hex) of the header's key, which is a good one of this model.

        Counts the request where the key has a limit. Raises MissingApiKey, InvalidApiKey,
        TooManyRequests, or KeysUnavailable where the store is away and the key was not seen lately.
        """
        key_hash = hashlib.sha256(_bearer_token(authorization).encode()).hexdigest()
        verdict = self._fresh(key_hash)
        if verdict is None:
            with self._lookup_locks[int(key_hash[0], 16)]:
                verdict = self._fresh(key_hash) or self._look_up(key_hash)
        key = verdict.key
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            raise InvalidApiKey
        if key.requests_per_minute is not None:
            self._limits.spend(key_hash, key.requests_per_minute)
        return key_hash

    def connect(self) -> None:
        """Reach the store before the first request does, which would wait for it."""
        try:
            self._store.find(_NEVER)
        except KeyStoreAway as error:
            self._note_away(error)

    def _fresh(self, key_hash: str) -> _Verdict | None:
        verdict = self._verdicts.get(key_hash)
        if verdict is None:
            return None
        ttl_s = NEGATIVE_TTL_S if verdict.key is None else POSITIVE_TTL_S
        return verdict if self._monotonic() < verdict.found_at + ttl_s else None

    def _look_up(self, key_hash: str) -> _Verdict:
        asked_at = self._monotonic()
        if asked_at < self._ask_again_at:
            return self._stale(key_hash)
        try:
            stored = self._store.find(key_hash)
        except KeyStoreAway as error:
            self._note_away(error)
            return self._stale(key_hash)
        self._note_back()
        # The time before the question, so that the bound on revocation counts from there.
        verdict = self._lost(key_hash, asked_at) if stored is None else None
        if verdict is None:
            opening = stored if self._opens(stored, key_hash) else None
            verdict = _Verdict(opening, asked_at, asked_at)
        with self._verdicts_lock:
            self._verdicts[key_hash] = verdict
            self._verdicts.move_to_end(key_hash)
            while len(self._verdicts) > CACHE_SIZE:
                self._verdicts.popitem(last=False)
        return verdict

    def _opens(self, stored: StoredKey | None, key_hash: str) -> bool:
        return (
            stored is not None
            and hmac.compare_digest(stored.key_hash.encode(), key_hash.encode())
            and stored.is_active
            and stored.model_id == self._model_id
        )

    def _stale(self, key_hash: str) -> _Verdict:
        """Return the last verdict if the key was good lately; raises KeysUnavailable."""
        verdict = self._good_lately(key_hash)
        if verdict is None:
            raise KeysUnavailable
        return verdict

    def _lost(self, key_hash: str, asked_at: float) -> _Verdict | None:
        """Return a verdict on a key that was good lately and of which the store knows nothing."""
        verdict = self._good_lately(key_hash)
        if verdict is None:
            return None
        log("ERROR", "an API key's document has vanished", key=f"{key_hash[:8]}…")
        return _Verdict(verdict.key, asked_at, verdict.good_at)

    def _good_lately(self, key_hash: str) -> _Verdict | None:
        verdict = self._verdicts.get(key_hash)
        if (
            verdict is None
            or verdict.key is None
            or self._monotonic() > verdict.good_at + STALE_LIMIT_S
        ):
            return None
        return verdict

    def _note_away(self, error: KeyStoreAway) -> None:
        now = self._monotonic()
        self._ask_again_at = now + AWAY_PAUSE_S
        if self._away_since is None:
            self._away_since = now
            log("WARNING", "API keys cannot be looked up", reason=str(error))

    def _note_back(self) -> None:
        away_since, self._away_since = self._away_since, None
        if away_since is not None:
            log(
                "INFO",
                "API keys can be looked up again",
                away_s=round(self._monotonic() - away_since, 3),
            )


def _bearer_token(authorization: str | None) -> str:
    """Return the token of an `Authorization: Bearer TOKEN` header; raises MissingApiKey."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or " " in token:
        raise MissingApiKey
    if len(token) > _LONGEST_KEY:
        raise InvalidApiKey
    return token
