"""What must have happened in a long run: a kind that never did would not have been tested."""

from __future__ import annotations

from tests.chaos.play import PORTS
from tests.chaos.scheduling import Fault

KINDS = (
    *("message", "message again", "message out of order"),
    *("judge says wait", "judge says advance", "judge says hold", "judge says abort"),
    *("message started", "message waiting", "message known", "message listed", "message refused"),
    "crash before a call",
    *(f"{fault}: {port}" for fault in Fault for port in PORTS),
    *("stale etag", "transaction conflict", "service changed by others"),
    *("step tried again", "call timed out, and goes on", "execution ended from outside"),
    *("second execution turned away", "stray call", "stray call refused"),
    *("rollback", "rollback refused", "cancel", "cancel refused"),
    *("pause", "resume", "approve", "skip", "traffic changed by hand"),
    *("reconcile started", "reconcile aborted", "reconcile completed", "reconcile drift"),
    *("reconcile cleared", "rollout replaced", "version deployed again"),
)
