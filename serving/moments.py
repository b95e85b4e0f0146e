"""When an instance started."""

from __future__ import annotations

import time


class Moments:
    """When this instance began to start, and when it could first answer; ns since 1970, or 0."""

    def __init__(self, started_at: float) -> None:
        """Take the start as a time on the monotonic clock."""
        self.began = time.time_ns() - round((time.monotonic() - started_at) * 1e9)
        self.ready = 0

    def note_ready(self) -> None:
        """Remember the first time only."""
        self.ready = self.ready or time.time_ns()
