"""Signed tokens of Google's: checked against public keys that are fetched and kept."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests
from google.auth import exceptions, jwt

from functions.dashboard.errors import NotIdentified
from shared import logs
from shared.errors import Unavailable

KEPT_S, AGAIN_AFTER_S, TIMEOUT_S = 3600.0, 30.0, 10.0
CLOCK_SKEW_S = 30
Fetch = Callable[[str], Mapping[str, str]]


def fetch(url: str) -> Mapping[str, str]:
    """Return the public keys (key id to PEM) at `url`; Unavailable without an answer."""
    try:
        answer = requests.get(url, timeout=TIMEOUT_S)
        answer.raise_for_status()
        found = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise Unavailable(f"{url} has no keys just now: {type(error).__name__}") from error
    return dict(found)


class Signatures:
    """Checks tokens; keys are kept an hour, and fetched again early for one that is unknown."""

    def __init__(
        self, url: str, fetch: Fetch = fetch, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._keys: Mapping[str, str] = {}
        self._fetched_at: float | None = None

    def check(self, token: str, audiences: frozenset[str]) -> dict[str, Any]:
        """Return the claims; NotIdentified unless signed, current, and meant for an audience."""
        if not audiences:
            raise NotIdentified("no audience is configured, so no signed token can be for us")
        try:
            key_id = str(jwt.decode_header(token).get("kid"))  # type: ignore[no-untyped-call]
            claims = jwt.decode(  # type: ignore[no-untyped-call]
                token,
                certs=dict(self._known(key_id)),
                audience=sorted(audiences),
                clock_skew_in_seconds=CLOCK_SKEW_S,
            )
        except (ValueError, RecursionError, exceptions.GoogleAuthError) as error:
            logs.log("token refused", severity="WARNING", kind=type(error).__name__)
            # Not the error's text: it quotes the token.
            raise NotIdentified(
                "the token is malformed, forged, expired or meant for another service"
            ) from None
        return dict(claims)

    def _known(self, key_id: str) -> Mapping[str, str]:
        with self._lock:
            age_s = (
                float("inf") if self._fetched_at is None else self._monotonic() - self._fetched_at
            )
            # A made-up key id must not make us fetch for every request.
            if age_s > KEPT_S or (key_id not in self._keys and age_s > AGAIN_AFTER_S):
                self._keys = self._fetch(self._url)
                self._fetched_at = self._monotonic()
            return self._keys


def read(token: str) -> dict[str, Any]:
    """Return the claims of a token that the platform has checked; NotIdentified if it is none."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, IndexError, RecursionError):
        raise NotIdentified("the token cannot be read") from None
    if not isinstance(claims, dict):
        raise NotIdentified("the token cannot be read")
    return claims
