"""Who uses the model: customers counted in sketches, and when each API key was last used.

A request only notes; a thread of its own writes once a minute, and once more when the process is
stopped. A kill loses what was noted since then, a minute of requests at most. On Cloud Run with
CPU for requests alone, an idle instance sleeps in the middle of that minute: what is left is
written at its next request or at SIGTERM.

A sketch is HyperLogLog with 2^LG_K registers of 8 bits: 4 KiB; its standard error is 1.3 % alone
and 1.6 % after a union (95 of 100 unions are within 3.2 %), and far below that up to 380 customers.
It keeps hashes, never an id. Whoever reads it and guesses an id can still test the guess, so the
documents are deleted after three days.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol

from serving.logs import log

LG_K = 12
# The last flush waits for this; a container has to be gone 10 s after SIGTERM.
LAST_FLUSH_S = 2.0
# Customers are noted in a list, which costs a request next to nothing, and counted so often, or
# when there are so many.
COUNT_EVERY_S = 1.0
NOTED_AT_MOST = 100_000
# An hour that could not be written for so long is given up: nobody collects it any more.
KEPT_HOURS = 72
_HOUR_S = 3_600


class UsageStoreAway(Exception):
    """The store did not answer in time or refused; the message says why."""


class UsageStore(Protocol):
    """Where usage is kept; every method raises UsageStoreAway."""

    def save_sketch(self, hour: datetime, sketch: bytes) -> None:
        """Write this instance's sketch of the hour that begins at `hour`, over the one before."""

    def save_key_use(self, key_hash: str, at: datetime) -> None:
        """Write when a key was last used; a key that is gone stays gone."""


class Sketch(Protocol):
    """A set of customer ids of which only the size can be told."""

    def update(self, customer_id: str) -> None:
        """Add one; adding it again changes nothing."""

    def serialize_compact(self) -> bytes:
        """Return it as it is stored."""


def new_sketch() -> Sketch:
    """Return an empty sketch."""
    import datasketches  # Brings NumPy: not before the first answers are out.

    sketch: Sketch = datasketches.hll_sketch(LG_K, datasketches.tgt_hll_type.HLL_8)
    return sketch


class Usage:
    """Notes usage and writes it; safe to use from many threads. `now` is Unix time in s."""

    def __init__(
        self, store: UsageStore, flush_s: float = 60.0, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._flush_s = flush_s
        self._now = now
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._customers: list[str] = []
        self._hour = 0
        self._sketches: dict[int, Sketch] = {}
        self._used: dict[str, float] = {}
        self._flushing = threading.Lock()
        self._saved: dict[int, bytes] = {}
        self._away = False
        self._stopping = threading.Event()

    def note_key(self, key_hash: str) -> None:
        """Note that a good key was used, for whatever request; a health check's key too."""
        with self._lock:
            self._used[key_hash] = self._now()

    def note_customers(self, customer_ids: Iterable[str]) -> None:
        """Note the customers of an answer; they are counted later, a second's worth at a time."""
        hour = int(self._now() // _HOUR_S)
        if hour != self._hour or len(self._customers) > NOTED_AT_MOST:
            self._count()
        with self._lock:
            self._hour = hour
            self._customers.extend(customer_ids)

    def _count(self) -> None:
        """Move what is noted into the sketch of its hour, without keeping requests waiting."""
        with self._counting:
            with self._lock:
                customers, self._customers = self._customers, []
                hour = self._hour
            if not customers:
                return
            sketch = self._sketches.get(hour)
            if sketch is None:
                sketch = self._sketches[hour] = new_sketch()
            for customer_id in customers:
                sketch.update(customer_id)

    def run(self) -> None:
        """Write every `flush_s` until `close`; so a key is written once in that time."""
        flush_at = time.monotonic() + self._flush_s
        while not self._stopping.wait(min(COUNT_EVERY_S, self._flush_s)):
            self._count()
            if time.monotonic() < flush_at:
                continue
            flush_at = time.monotonic() + self._flush_s
            try:
                self.flush()
            except Exception:  # The boundary of the thread: without it nothing is written again.
                log("ERROR", "writing usage failed", exc_info=True)

    def close(self) -> None:
        """Write what is left, for at most about LAST_FLUSH_S."""
        self._stopping.set()
        self.flush(LAST_FLUSH_S)

    def flush(self, within_s: float = 60.0) -> None:
        """Write what is not written yet; what cannot be is kept for the next time."""
        until = time.monotonic() + within_s
        if not self._flushing.acquire(timeout=within_s):
            return
        try:
            self._flush(until)
        finally:
            self._flushing.release()

    def _flush(self, until: float) -> None:
        self._count()
        with self._counting:
            hours = {hour: s.serialize_compact() for hour, s in self._sketches.items()}
        with self._lock:
            used, self._used = self._used, {}
        try:
            for hour, sketch in hours.items():
                # The whole sketch again, so a repeat or a lost answer changes nothing.
                if self._saved.get(hour) != sketch and time.monotonic() < until:
                    self._store.save_sketch(_begin(hour), sketch)
                    self._saved[hour] = sketch
            while used and time.monotonic() < until:
                key_hash = next(iter(used))
                self._store.save_key_use(key_hash, datetime.fromtimestamp(used[key_hash], UTC))
                del used[key_hash]
        except UsageStoreAway as error:
            self._note_away(error)
        else:
            self._note_back()
        finally:
            self._keep(used)
        self._forget(hours)

    def _keep(self, unwritten: dict[str, float]) -> None:
        with self._lock:
            self._used = {**unwritten, **self._used}

    def _forget(self, hours: Iterable[int]) -> None:
        """Drop what is over: a written hour once the next has passed, any hour in the end.

        The hour before stays, in case the clock is set back: a new sketch would overwrite it.
        """
        this_hour = int(self._now() // _HOUR_S)
        for hour in hours:
            if hour < this_hour - (1 if hour in self._saved else KEPT_HOURS):
                with self._counting:
                    del self._sketches[hour]
                if self._saved.pop(hour, None) is None:
                    log("ERROR", "customers of an hour are lost", hour=_begin(hour).isoformat())

    def _note_away(self, error: UsageStoreAway) -> None:
        if not self._away:
            log("WARNING", "usage cannot be written", reason=str(error))
        self._away = True

    def _note_back(self) -> None:
        if self._away:
            log("INFO", "usage can be written again")
        self._away = False


def _begin(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * _HOUR_S, UTC)
