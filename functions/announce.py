"""Publish what was recorded: the outbox, oldest first, to the topic `deployment-events`."""

from __future__ import annotations

from datetime import timedelta

from google.api_core.exceptions import InvalidArgument

from shared import logs, tracing, wiring
from shared.domain.announcement import Announcement, encode
from shared.domain.deployment import Status
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
                _end_trace(told, ports)
                ports.state.announced(told.id)
                _log(told)
                count += 1
    except Exception as error:  # the boundary of what is only told: the outbox keeps it
        logs.log("events wait", severity="WARNING", why=f"{type(error).__name__}: {error}")
    return count


def _end_trace(told: Announcement, ports: Ports) -> None:
    """Record the root span of a deployment whose rollout this event ended, and send it.

    Told again, it is recorded again with the same ids and times.
    """
    event = told.event
    if event.before != Status.DEPLOYING or not event.after:
        return
    deployment = ports.state.glance(event.deployment_id)
    if deployment is None:
        return
    tracing.record(
        deployment.trace,
        deployment.trace_parent,
        f"deploy {told.subject}",
        deployment.created_at,
        event.at,
        {**tracing.about(deployment), "turnout.status": event.after},
        failure="" if event.after == Status.ACTIVE else event.reason,
    )
    tracing.flush()


def _log(told: Announcement) -> None:
    """Write the transition as one line: what Cloud Monitoring counts and alerts on."""
    event = told.event
    logs.log(
        "transition",
        action=event.action,
        model_id=event.model_id,
        deployment_id=event.deployment_id,
        version=told.version,
        before=event.before,
        after=event.after,
        actor=event.actor,
        why=event.reason,
        at=event.at,
    )


def announce_own() -> None:
    """Announce where this process recorded something; what only looked reads no outbox."""
    if wiring.state().take_news():
        announce(wiring.ports())
