"""What the front door measured about one request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measurement:
    """A request that reached an instance; latency without the wait for one, in ms."""

    region: str
    service: str
    revision: str
    response_code: int
    latency_ms: float
    finished_at: float  # Unix time, s


Listener = Callable[[Measurement], None]
