"""The time an execution lives by: the machine's, or a test's in which an hour passes at once."""

from __future__ import annotations

import threading
import time
from typing import Protocol

FOREVER_S = threading.TIMEOUT_MAX
POLL_S = 0.005


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> float:
        """Return seconds since 1970 (UTC)."""
        ...

    def sleep(self, seconds: float, wakeup: threading.Event) -> None:
        """Return after `seconds`, or as soon as `wakeup` is set."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return seconds since 1970 (UTC)."""
        return time.time()

    def sleep(self, seconds: float, wakeup: threading.Event) -> None:
        """Wait `seconds` of real time, less when `wakeup` is set."""
        wakeup.wait(min(max(seconds, 0.0), FOREVER_S))


class FakeClock:
    """A clock that only moves when it is told to, or (by default) when somebody sleeps.

    `advancing=True`: a sleep returns at once and moves the time to its end.
    `advancing=False`: a sleep lasts until `advance` has moved the time past its end.
    `sleeps` lists, in seconds, every sleep asked for. HTTP timeouts stay in real time.
    """

    def __init__(self, start: float = 1_767_225_600.0, advancing: bool = True) -> None:
        self.sleeps: list[float] = []
        self._now = start
        self._advancing = advancing
        self._asleep = 0
        self._changed = threading.Condition()

    def now(self) -> float:
        """Return the time the clock stands at, in seconds since 1970."""
        with self._changed:
            return self._now

    def advance(self, seconds: float) -> None:
        """Move the time on; whoever slept until then wakes."""
        with self._changed:
            self._now += seconds
            self._changed.notify_all()

    def sleep(self, seconds: float, wakeup: threading.Event) -> None:
        """Sleep in this clock's time; `wakeup` ends it at once."""
        with self._changed:
            self.sleeps.append(seconds)
            until = self._now + seconds
            if self._advancing:
                self._now = max(self._now, until)
                return
            self._asleep += 1
            self._changed.notify_all()
            try:
                # An Event cannot notify this condition, so it is looked at in short turns.
                while self._now < until and not wakeup.is_set():
                    self._changed.wait(POLL_S)
            finally:
                self._asleep -= 1

    def wait_until_asleep(self, sleepers: int = 1, timeout_s: float = 10.0) -> None:
        """Return once `sleepers` are asleep; TimeoutError after `timeout_s` real seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._asleep >= sleepers, timeout_s):
                raise TimeoutError(f"{self._asleep} asleep after {timeout_s:g} s, not {sleepers}")
