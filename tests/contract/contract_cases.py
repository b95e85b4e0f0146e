"""How many cases the OpenAPI contract suites generate, and which answers are in order.

`TURNOUT_CONTRACT_CASES` says how many each suite generates at least (5000 is the full run);
without it a run takes fewer, so that the whole test suite stays quick.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings

QUICK_CASES = 300


@dataclass
class Cases:
    """What was generated: requests by operation, answers by status."""

    requests: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)

    def note(self, case: Any, response: Any) -> None:
        """Count one request and its answer."""
        self.requests[f"{case.method} {case.path}"] += 1
        self.answers[response.status_code] += 1

    def report(self, name: str) -> str:
        """Return one line for the test report."""
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(self.answers.items()))
        return f"{name}: {self.requests.total()} cases ({statuses}); asked for {wanted()}"


def wanted() -> int:
    """Return how many cases a suite generates at least."""
    return int(os.environ.get("TURNOUT_CONTRACT_CASES", QUICK_CASES))


def config() -> Any:
    """Return schemathesis's configuration: every check it has, valid and invalid requests.

    A valid request may be refused for what a schema cannot say: 412 (it changed), 422
    (it cannot succeed as it is), 503 (no model answers).
    """
    refusals = ["2xx", "3xx", "401", "403", "404", "409", "412", "422", "429", "503"]
    return schemathesis.Config.from_dict(
        {
            "generation": {"mode": "all"},
            "checks": {"positive_data_acceptance": {"expected-statuses": refusals}},
        }
    )


def thorough(operations: int) -> settings:
    """Return Hypothesis's settings for one of `operations` that take input."""
    return settings(
        max_examples=max(1, wanted() // operations),
        deadline=None,
        database=None,
        derandomize="TURNOUT_CONTRACT_CASES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
