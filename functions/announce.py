"""Publish what was recorded: the outbox, oldest first, to the topic `deployment-events`."""

from __future__ import annotations

from datetime import timedelta

from google.api_core.exceptions import InvalidArgument

from shared import logs, wiring
from shared.domain.announcement import encode
from shared.ports import Ports

AT_ONCE = 50
WITHIN = timedelta(seconds=3)


def announce(ports: Ports) -> int:
    """Publish what the outbox holds and return how many; never raises.

    Announcing is never worth failing or holding up what it tells of: it stops at the first
    fault, or after 3 s, and reconcile takes the rest. An event leaves the outbox only once
    Pub/Sub has acknowledged it, so it arrives at least once; a repeat carries the same id.
    """
    until, count = ports.clock.now() + WITHIN, 0
    try:
        while waiting := ports.state.outbox(AT_ONCE):
            for told in waiting:
                if ports.clock.now() > until:
                    return count
                data, attributes = encode(told, ports.settings.project)
                try:
                    ports.events.publish(data, attributes)
                except InvalidArgument as error:
                    # Whatever the topic's schema refuses would keep all later ones waiting.
                    logs.log("event refused", severity="ERROR", id=told.id, why=str(error))
                ports.state.announced(told.id)
                count += 1
    except Exception as error:  # the boundary of what is only told: the outbox keeps it
        logs.log("events wait", severity="WARNING", why=f"{type(error).__name__}: {error}")
    return count


def announce_own() -> None:
    """Announce where this process recorded something; what only looked reads no outbox."""
    if wiring.state().take_news():
        announce(wiring.ports())
