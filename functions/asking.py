"""A version's prediction API asked for many customers, and each answer looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from shared.errors import HealthCheckFailed, Unavailable
from shared.ports import Ports

PASSING = (429, 502, 503, 504)
REFUSING = (401, 403, 404)
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SPLITS_AT_MOST = 500
UNKNOWN_CUSTOMER = "turnout-unknown-customer"


class Candidate:
    """The new version: what it answered whom, and which answers were wrong, in words.

    `answers` holds product ids, best first; `unknown` those whom the model does not know.
    `gave_up` is True where it failed so often that not every failing customer was found.
    """

    def __init__(self, url: str, key: str, top_k: int, ports: Ports) -> None:
        self.answers: dict[str, list[str]] = {}
        self.unknown: set[str] = set()
        self.wrong: dict[str, str] = {}
        self.asked = 0
        self.gave_up = False
        self.url, self.key, self.top_k = url, key, top_k
        self._ports = ports
        self._splits_left = SPLITS_AT_MOST

    def ask(self, customers: Sequence[str]) -> None:
        """Ask for one batch (1 to 1000); where that fails, for its halves, down to the customer.

        Unavailable where it is busy for longer than half a minute.
        """
        status, body = ask_patiently(self.url, self.key, customers, self.top_k, self._ports)
        if status in REFUSING:
            raise HealthCheckFailed(f"/recommend-batch answers {status}: {_detail(body)}")
        results = results_of(status, body, customers)
        if results is not None:
            self.asked += len(customers)
            for result in results:
                self._note(result)
        elif len(customers) == 1:
            self.asked += 1
            self.wrong[customers[0]] = (
                f"{name_of(customers[0])}: /recommend-batch answers {status}, {_detail(body)}"
            )
        elif self._splits_left == 0:
            self.gave_up = True
        else:
            self._splits_left -= 1
            middle = len(customers) // 2
            self.ask(customers[:middle])
            self.ask(customers[middle:])

    def _note(self, result: Mapping[str, Any]) -> None:
        customer, answer = result["customer_id"], result.get("recommendations")
        try:
            check_answer(customer, answer, self.top_k)
        except HealthCheckFailed as fault:
            self.wrong[customer] = str(fault)
            return
        self.answers[customer] = products_of(answer)
        if result.get("known") is False:
            self.unknown.add(customer)


def ask_patiently(
    url: str, key: str, customers: Sequence[str], top_k: int, ports: Ports
) -> tuple[int, Mapping[str, Any]]:
    """Ask once more, ever later, while the candidate is busy; Unavailable when it stays so."""
    for wait_s in (*BACKOFF_S, None):
        status, body = ports.predictions.recommend(url, key, customers, top_k)
        if status not in PASSING:
            return status, body
        if wait_s is not None:
            ports.clock.sleep(wait_s)
    raise Unavailable(f"the candidate answers {status}: {_detail(body)}")


def results_of(
    status: int, body: Mapping[str, Any], customers: Sequence[str]
) -> list[Mapping[str, Any]] | None:
    """Return the results where each customer got one, in the order asked; None otherwise."""
    results = body.get("results")
    if status != 200 or not isinstance(results, list):
        return None
    if not all(isinstance(result, Mapping) for result in results):
        return None
    asked = [result.get("customer_id") for result in results]
    return results if asked == list(customers) else None


def products_of(answer: Any) -> list[str]:
    """Return the product ids of an answer, best first; empty where it is none."""
    items = answer if isinstance(answer, list) else []
    return [str(item["product_id"]) for item in items if isinstance(item, Mapping)]


def check_answer(customer: str, answer: Any, expected: int) -> None:
    """HealthCheckFailed unless `answer` is `expected` distinct products, best first.

    `answer` is the list of {"product_id", "score"} that the prediction API returned.
    """
    who = name_of(customer)
    if not isinstance(answer, list) or len(answer) != expected:
        count = len(answer) if isinstance(answer, list) else "no"
        raise HealthCheckFailed(f"{who} got {count} recommendations, expected {expected}")
    items: list[Any] = [item if isinstance(item, Mapping) else {} for item in answer]
    products = [item.get("product_id") for item in items]
    scores = [item.get("score") for item in items]
    if not all(isinstance(product, str) and product for product in products):
        raise HealthCheckFailed(f"{who} got a recommendation without a product id")
    if len(set(products)) != len(products):
        raise HealthCheckFailed(f"{who} got the same product twice")
    if not all(isinstance(score, (int, float)) and math.isfinite(score) for score in scores):
        raise HealthCheckFailed(f"{who} got a score that is not a finite number")
    if any(a < b for a, b in pairwise(scores)):
        raise HealthCheckFailed(f"{who} got recommendations that are not in order of score")


def name_of(customer: str) -> str:
    """Return the customer as a sentence names it."""
    return "the unknown customer" if customer == UNKNOWN_CUSTOMER else f"customer {customer!r}"


def _detail(body: Mapping[str, Any]) -> str:
    return str(body.get("detail", "no detail"))
