"""How many requests a key may send in a minute, over all instances together.

The count is one number in the store, of a key and a clock minute. An instance takes a share of the
minute's requests ahead and spends it without asking; the shares become smaller as the minute's
number runs out, so that little of it is left with an instance that gets no more requests. No more
is ever given than the limit: the sum is the store's own. What a minute is, each instance's clock
says. While the store is away, an instance lets one part in AWAY_PARTS of the limit through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from serving.errors import KeyStoreAway, TooManyRequests
from serving.logs import log

# An instance takes so many parts of what is left, and no less than the smallest part of the limit.
PARTS = 8
SMALLEST_PART = 20
AWAY_PARTS = 10
_MINUTE_S = 60

Take = Callable[[str, int, int], int]


class Limits:
    """Counts the requests of one process; safe to use from many threads.

    `take(key_hash, minute, requests)` adds to what all instances took of that minute and returns
    the sum, or raises KeyStoreAway. `now` is Unix time in s.
    """

    def __init__(self, take: Take, now: Callable[[], float]) -> None:
        self._take = take
        self._now = now
        self._shares: dict[str, _Share] = {}

    def spend(self, key_hash: str, per_minute: int) -> None:
        """Count one request of a key that may send so many; TooManyRequests past them."""
        share = self._shares.get(key_hash)
        if share is None:
            share = self._shares.setdefault(key_hash, _Share())
        now = self._now()
        minute = int(now // _MINUTE_S)
        # One request of the key takes the next share, the others wait for it.
        with share.lock:
            if minute > share.minute:
                share.begin(minute, per_minute)
            if share.here == 0 and share.left > 0:
                self._take_more(key_hash, per_minute, share)
            if share.here == 0:
                raise TooManyRequests(per_minute, int(_MINUTE_S - now % _MINUTE_S) + 1)
            share.here -= 1

    def _take_more(self, key_hash: str, per_minute: int, share: _Share) -> None:
        wanted = max(share.left // PARTS, -(-per_minute // SMALLEST_PART), 1)
        try:
            taken = self._take(key_hash, share.minute, wanted)
        except KeyStoreAway as error:
            share.here, share.left = max(per_minute // AWAY_PARTS, 1), 0
            log("WARNING", "requests of a key are counted here alone", reason=str(error))
            return
        before = taken - wanted
        share.here = min(max(per_minute - before, 0), wanted)
        share.left = max(per_minute - taken, 0)


class _Share:
    """What an instance may still let through of a minute, and what it believes is left to take."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.minute = -1
        self.here = 0
        self.left = 0

    def begin(self, minute: int, per_minute: int) -> None:
        """Begin a minute: nothing is here yet, and all may be left."""
        self.minute, self.here, self.left = minute, 0, per_minute
