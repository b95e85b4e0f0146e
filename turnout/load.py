"""Prediction traffic as applications send it, every answer counted."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import requests

TIMEOUT_S = 30


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent (Unix time, s), how long it took, which version answered.

    `failure` is empty for a good answer and otherwise says what went wrong.
    """

    at: float
    latency_ms: float
    version: str
    failure: str


class Load:
    """Asks for one customer at a time from several connections until it is stopped."""

    def __init__(
        self, url: str, key: str, customers: Sequence[str], connections: int, per_second: float
    ) -> None:
        self._url = f"{url}/recommend"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._customers = customers
        self._pause_s = connections / per_second
        self._ended = threading.Event()
        self.answers: list[Answer] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(number,), daemon=True)
            for number in range(connections)
        ]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Answer]:
        """Stop after the requests in flight; return every answer in the order of sending."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return sorted(self.answers, key=lambda answer: answer.at)

    def _ask(self, number: int) -> None:
        chosen = random.Random(number)
        session = requests.Session()
        while not self._ended.wait(chosen.uniform(0.5, 1.5) * self._pause_s):
            at = time.time()
            version, failure = "", ""
            try:
                answer = session.post(
                    self._url,
                    json={"customer_id": chosen.choice(self._customers), "top_k": 10},
                    headers=self._headers,
                    timeout=TIMEOUT_S,
                )
                body = answer.json()
                version = str(body.get("model_version", ""))
                if answer.status_code != 200 or len(body.get("recommendations", [])) != 10:
                    failure = f"{answer.status_code}: {body.get('detail', 'not ten products')}"
            except (requests.RequestException, ValueError) as error:
                failure = f"{type(error).__name__}: {error}"
            self.answers.append(Answer(at, (time.time() - at) * 1000, version, failure))


def versions(answers: Sequence[Answer]) -> Counter[str]:
    """Count the good answers of each version."""
    return Counter(answer.version for answer in answers if not answer.failure)


def plausible(count: int, total: int, percent: int) -> bool:
    """Return whether `count` of `total` fits a share of `percent`, within five deviations.

    Each request is a draw of its own, so the count is binomial; with 0 and 100 % the bound
    is exact.
    """
    share = percent / 100
    deviation = (total * share * (1 - share)) ** 0.5
    allowed = 5 * deviation + 1 if deviation else 0
    return abs(count - total * share) <= allowed
