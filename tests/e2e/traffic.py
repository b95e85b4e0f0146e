"""Prediction traffic that never stops, and what the split was while each request was sent."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import requests
from google.cloud import run_v2

from tests.e2e.world import served, specified
from tests.models import CUSTOMERS

ASKED_PRODUCTS = 5


@dataclass(frozen=True)
class Answer:
    """One request: sent and answered (monotonic, s), by which version, and what went wrong."""

    sent_at: float
    answered_at: float
    version: str
    failure: str


class Traffic:
    """Asks for one customer at a time over kept-alive connections, from entry to exit."""

    def __init__(self, url: str, key: str, threads: int = 4, per_second: float = 100) -> None:
        self._url = f"{url}/recommend"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._pause_s = threads / per_second
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(threads)]
        self.answers: list[Answer] = []

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def failures(self) -> list[str]:
        """Return what went wrong so far."""
        return [answer.failure for answer in list(self.answers) if answer.failure]

    def versions(self, since: float = 0.0, to: float = math.inf) -> Counter[str]:
        """Count the versions that answered requests sent and answered within that time."""
        return Counter(
            answer.version
            for answer in list(self.answers)
            if since <= answer.sent_at and answer.answered_at <= to and not answer.failure
        )

    def _ask(self) -> None:
        with requests.Session() as session:
            number = 0
            while not self._over.wait(self._pause_s):
                number += 1
                self.answers.append(self._once(session, CUSTOMERS[number % len(CUSTOMERS)]))

    def _once(self, session: requests.Session, customer: str) -> Answer:
        sent_at = time.monotonic()
        version, failure = "", ""
        try:
            answer = session.post(
                self._url,
                json={"customer_id": customer, "top_k": ASKED_PRODUCTS},
                headers=self._headers,
                timeout=30,
            )
            body = answer.json()
            version = str(body.get("model_version", ""))
            if answer.status_code != 200 or len(body["recommendations"]) != ASKED_PRODUCTS:
                failure = f"{answer.status_code}: {answer.text[:300]}"
        except (requests.RequestException, ValueError, KeyError) as error:
            failure = f"{type(error).__name__}: {error}"
        return Answer(sent_at, time.monotonic(), version, failure)


@dataclass
class Period:
    """A time in which one split was served, surely: between two looks that both saw it."""

    split: dict[str, int]
    since: float
    to: float


class SplitWatch:
    """Looks at a service all the time, from entry to exit.

    Only looks that find the same split written and served count: before a split is served it
    is written, so between two such looks nothing else was.
    """

    def __init__(self, look: Callable[[], run_v2.Service]) -> None:
        self._look = look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.periods: list[Period] = []

    def __enter__(self) -> SplitWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def splits(self) -> list[dict[str, int]]:
        """Return every split that was seen, in order."""
        return [period.split for period in list(self.periods)]

    def _watch(self) -> None:
        while not self._over.wait(0.03):
            asked_at = time.monotonic()
            service = self._look()
            split = served(service)
            if split != specified(service):
                continue
            if self.periods and self.periods[-1].split == split:
                self.periods[-1].to = asked_at
            else:
                now = time.monotonic()
                self.periods.append(Period(split, now, now))


def assert_fits(counts: Counter[str], split: dict[str, int], p_value: float = 1e-6) -> None:
    """Fail unless the counts may come from the split: an exact two-sided binomial test each.

    The front door draws for every request on its own, so a version's count is binomial.
    """
    total = sum(counts.values())
    assert set(counts) <= set(split), f"{counts} for a split of {split}"
    for version, percent in split.items():
        p = binomial_p_value(counts[version], total, percent / 100)
        assert p >= p_value, f"{counts} does not fit {split} (p = {p:.2g} for {version})"


def binomial_p_value(count: int, total: int, share: float) -> float:
    """Return twice the smaller tail's probability, at most 1."""
    if share in (0.0, 1.0):
        return float(count == total * share)

    def probability(k: int) -> float:
        ways = math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        return math.exp(ways + k * math.log(share) + (total - k) * math.log1p(-share))

    low = sum(probability(k) for k in range(count + 1))
    high = sum(probability(k) for k in range(count, total + 1))
    return min(1.0, 2 * min(low, high))
