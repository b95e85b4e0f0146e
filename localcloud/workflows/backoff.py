"""The pauses between the attempts of a `try` with `retry`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from localcloud.workflows import limits
from localcloud.workflows.errors import failure
from localcloud.workflows.values import FunctionReference, Value, is_number, type_name

BACKOFF_ATTRIBUTES = ("initial_delay", "max_delay", "multiplier")


@dataclass(frozen=True)
class Backoff:
    """A retry policy with its values; iterates over the pauses, in seconds, one a retry."""

    predicate: FunctionReference
    max_retries: int
    initial_delay_s: float
    max_delay_s: float
    multiplier: float

    def __iter__(self) -> Iterator[float]:
        delay = self.initial_delay_s
        for _ in range(self.max_retries):
            yield min(delay, self.max_delay_s)
            delay = min(delay * self.multiplier, self.max_delay_s)


def backoff(predicate: Value, max_retries: Value, delays: Value) -> Backoff:
    """Return the policy of these values; TypeError (a workflow's) for what cannot be one."""
    if not isinstance(predicate, FunctionReference):
        raise failure("TypeError", f"a predicate is a function, not {type_name(predicate)}")
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise failure("TypeError", "max_retries is an integer, not below 0")
    if not isinstance(delays, dict) or set(delays) != set(BACKOFF_ATTRIBUTES):
        raise failure("TypeError", f"backoff is a map of {', '.join(BACKOFF_ATTRIBUTES)}")
    initial, maximum, multiplier = (delays[name] for name in BACKOFF_ATTRIBUTES)
    for name, value in (("initial_delay", initial), ("max_delay", maximum)):
        if not is_number(value) or not 0 <= value <= limits.SLEEP_S:
            raise failure("TypeError", f"{name} is a number of seconds, not below 0")
    if not is_number(multiplier) or multiplier < 1:
        raise failure("TypeError", "multiplier is a number, not below 1")
    return Backoff(predicate, max_retries, float(initial), float(maximum), float(multiplier))
