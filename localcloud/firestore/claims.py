"""A place in line where transactions compete: what one is about to read is kept for it.

Without it, one of many competing transactions could lose again and again, and Google's
clients give up after five attempts. A retried transaction, or one that reads what others
lost over a moment ago, therefore waits for those before it in line that touch the same
things, and then others' commits wait for it. Both waits are bounded: a client that died
holds nobody up for long, and the check at commit keeps every outcome correct whether or
not the wait was long enough.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from localcloud.firestore import names
from localcloud.firestore.query import Scope

HOLD_S = 2.0
WAIT_S = 10.0
CONTENDED_S = 5.0
_MOST_CONTENDED = 1000


@dataclass
class Claim:
    """What one transaction is expected to touch; `granted_until` is None while it waits."""

    place: tuple[int, int]
    keys: frozenset[str]
    granted_until: float | None = None


class Claims:
    """Waiting and granted claims; every method is called with the store's lock held."""

    def __init__(self, lock: threading.RLock, monotonic: Callable[[], float] = time.monotonic):
        self._changed = threading.Condition(lock)
        self._monotonic = monotonic
        self._claims: list[Claim] = []
        self._numbers = itertools.count()
        self._lost_at: dict[str, float] = {}

    def note_loss(self, keys: Iterable[str]) -> None:
        """Remember for a while that a transaction lost over these."""
        now = self._monotonic()
        self._lost_at.update(dict.fromkeys(keys, now))
        if len(self._lost_at) > _MOST_CONTENDED:
            self._lost_at = {k: at for k, at in self._lost_at.items() if now - at < CONTENDED_S}

    def contended(self, keys: Iterable[str]) -> frozenset[str]:
        """Return those of the keys that a transaction lost over lately."""
        since = self._monotonic() - CONTENDED_S
        return frozenset(key for key in keys if self._lost_at.get(key, since) > since)

    def claim(self, age: int, keys: frozenset[str]) -> Claim:
        """Line up by age and return when it is this transaction's turn (at most WAIT_S later)."""
        claim = Claim((age, next(self._numbers)), keys)
        self._claims.append(claim)
        self._wait(WAIT_S, lambda: not self._is_behind(claim))
        claim.granted_until = self._monotonic() + HOLD_S
        return claim

    def release(self, claim: Claim | None) -> None:
        """Let the next one go; releasing twice changes nothing."""
        if claim in self._claims:
            self._claims.remove(claim)
            self._changed.notify_all()

    def wait_for_others(self, keys: Iterable[str], own: Claim | None) -> None:
        """Wait until no other granted claim covers any of the keys (at most HOLD_S)."""
        wanted = frozenset(keys)
        self._wait(HOLD_S, lambda: not self._is_covered(wanted, own))

    def _is_behind(self, claim: Claim) -> bool:
        self._drop_expired()
        return any(
            (other.granted_until is not None or other.place < claim.place)
            and other.keys & claim.keys
            for other in self._claims
            if other is not claim
        )

    def _is_covered(self, keys: frozenset[str], own: Claim | None) -> bool:
        self._drop_expired()
        return any(
            other is not own and other.granted_until is not None and other.keys & keys
            for other in self._claims
        )

    def _drop_expired(self) -> None:
        now = self._monotonic()
        self._claims = [
            claim
            for claim in self._claims
            if claim.granted_until is None or claim.granted_until > now
        ]

    def _wait(self, longest_s: float, is_done: Callable[[], bool]) -> None:
        deadline = self._monotonic() + longest_s
        while not is_done() and (left := deadline - self._monotonic()) > 0:
            # Expiry of another's claim notifies nobody, hence the short steps.
            self._changed.wait(min(left, 0.1))


def keys_of_document(full: str) -> set[str]:
    """Return what a write of the document touches: itself, its collection, its group."""
    name = names.document_name(full)
    return {full, f"{name.parent}/{name.collection}", f"{name.database}//{name.collection}"}


def key_of_scope(scope: Scope) -> str:
    """Return what a query over the scope touches, in the same terms."""
    if scope.all_descendants:
        return f"{names.database_of(scope.parent)}//{scope.collection}"
    return f"{scope.parent}/{scope.collection}"
