"""Webhooks that judge a canary: asked over HTTP, believed only where they answer as agreed."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from typing import Any

import requests

from shared.domain.canary import Judgement, Verdict

TIMEOUT_S = 10.0
BYTES_AT_MOST = 64 * 1024
WHY_AT_MOST = 300


class HttpJudges:
    """POSTs a stage's facts, and reads {"verdict": "pass|fail|inconclusive", "why"}."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s

    def ask(self, url: str, facts: Mapping[str, Any]) -> Judgement:
        """Return what the webhook says; whatever is no answer in time is inconclusive.

        The facts are the same until the next block of measurements, so asking again is safe
        as far as the webhook is.
        """
        answers: queue.Queue[Judgement] = queue.Queue()
        # The connection's own timeout starts anew with each byte: a thread that nobody waits
        # for any more is what ends the wait.
        threading.Thread(
            target=lambda: answers.put(self._judgement(url, facts)), daemon=True
        ).start()
        try:
            return answers.get(timeout=self._timeout_s)
        except queue.Empty:
            return _none(url, f"no answer within {self._timeout_s:g} s")

    def _judgement(self, url: str, facts: Mapping[str, Any]) -> Judgement:
        # A redirect leads where no policy said, so it is no answer. No proxy, cookies or
        # credentials of the environment either.
        try:
            with requests.Session() as session:
                session.trust_env = False
                with session.post(
                    url, json=facts, timeout=self._timeout_s, allow_redirects=False, stream=True
                ) as answer:
                    if answer.status_code != 200:
                        return _none(url, f"it answered {answer.status_code}")
                    body = next(answer.iter_content(BYTES_AT_MOST + 1), b"")
        except requests.RequestException as error:
            # The type only: the text quotes the URL.
            return _none(url, type(error).__name__)
        return _read(url, body)


def _read(url: str, body: bytes) -> Judgement:
    try:
        # Longer than is read, it is cut off, and no JSON.
        found = json.loads(body)
        verdict, why = Verdict(found["verdict"]), str(found.get("why", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return _none(url, 'its answer is not {"verdict": "pass|fail|inconclusive", "why"}')
    said = "".join(c if c.isprintable() else " " for c in why)[:WHY_AT_MOST]
    return Judgement(verdict, f"{_named(url)} says {verdict}{f': {said}' if said else ''}")


def _none(url: str, why: str) -> Judgement:
    return Judgement(Verdict.INCONCLUSIVE, f"{_named(url)} gave no verdict: {why}")


def _named(url: str) -> str:
    """Return the webhook's host: the rest of the URL may be a secret."""
    return f"the webhook at {url.split('/')[2].rsplit('@', 1)[-1]}"
