"""How long each part of a start took, for its log line."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

_T = TypeVar("_T")


@dataclass
class Timings:
    """The parts measured so far, in milliseconds."""

    parts: dict[str, int] = field(default_factory=dict)

    def measure(self, part: str, work: Callable[[], _T]) -> _T:
        """Run `work` and note its time as `<part>_ms`; returns its result."""
        started = time.monotonic()
        result = work()
        self.parts[f"{part}_ms"] = round((time.monotonic() - started) * 1000)
        return result
