"""Wakes those who wait for a subscription's next message."""

from __future__ import annotations

import threading


class Bell:
    """Counts its rings, so that one which rang before the wait began is not missed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rung = 0

    @property
    def rung(self) -> int:
        """How often it rang: read this before looking for work."""
        return self._rung

    def ring(self) -> None:
        """Wake everybody who waits."""
        with self._changed:
            self._rung += 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout_s: float | None) -> None:
        """Return once it rang more often than `seen`, or after `timeout_s` (None: no limit)."""
        with self._changed:
            self._changed.wait_for(lambda: self._rung != seen, timeout_s)


class Bells:
    """One bell a subscription, made when first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bells: dict[str, Bell] = {}

    def of(self, subscription: str) -> Bell:
        """Return the bell of `subscription`."""
        with self._lock:
            return self._bells.setdefault(subscription, Bell())

    def ring_all(self) -> None:
        """Wake everybody, whatever they wait for."""
        with self._lock:
            bells = list(self._bells.values())
        for bell in bells:
            bell.ring()
