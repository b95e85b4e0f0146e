"""What others are told of a transition: a CloudEvent, and a line for people.

The CloudEvent follows the Pub/Sub binding's binary mode: the event's attributes are the
message's, prefixed with `ce-`, and the data are JSON as deployment_event.proto says.
https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shared.domain.deployment import Deployment, Event

SCHEMA_VERSION = 1
TYPE_PREFIX = "dev.turnout.deployment."


@dataclass(frozen=True)
class Announcement:
    """An event to be told, under the name of its document, so that a repeat is recognisable.

    `version` and `training_run` are the deployment's; 0 where they are not known.
    """

    id: str
    event: Event
    version: int = 0
    training_run: int = 0

    @property
    def subject(self) -> str:
        """The model and its version, as people call it: `movies v3`."""
        version = f" v{self.version}" if self.version else ""
        return f"{self.event.model_id}{version}"


def announce_of(name: str, event: Event, deployment: Deployment | None) -> Announcement:
    """Return what is told of `event`, whose document has that name."""
    if deployment is None:
        return Announcement(name, event)
    return Announcement(name, event, deployment.version, deployment.training_run)


def event_name(event: Event, number: int, unique: str) -> str:
    """Return an event document's name: names sort by time, then by `number`.

    `unique` keeps two writers of one instant apart.
    """
    stamp = event.at.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{stamp}-{number:02d}-{unique}"


def type_of(action: str) -> str:
    """Return the CloudEvent's type: `dev.turnout.deployment.traffic_wanted`."""
    return TYPE_PREFIX + re.sub(r"[^a-z0-9]+", "_", action.lower()).strip("_")


def encode(told: Announcement, project: str) -> tuple[bytes, dict[str, str]]:
    """Return the message's data and attributes."""
    event = told.event
    at = event.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    data = {
        "schema_version": SCHEMA_VERSION,
        "model_id": event.model_id,
        "deployment_id": event.deployment_id,
        "version": told.version,
        "training_run": told.training_run,
        "action": event.action,
        "before": event.before,
        "after": event.after,
        "reason": event.reason,
        "actor": event.actor,
        "source": event.source,
        "traffic": dict(event.traffic),
        "at": at,
    }
    attributes = {
        "ce-specversion": "1.0",
        "ce-id": told.id,
        "ce-type": type_of(event.action),
        "ce-source": f"/projects/{project}/models/{event.model_id}",
        "ce-subject": event.deployment_id,
        "ce-time": at,
        "content-type": "application/json",
    }
    return json.dumps(data).encode(), {name: value for name, value in attributes.items() if value}


def decode(data: bytes, attributes: Mapping[str, str]) -> Announcement:
    """Return what `encode` made a message of; ValueError for any other message."""
    try:
        found: dict[str, Any] = json.loads(data)
        if found["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {found['schema_version']} is unknown")
        event = Event(
            deployment_id=str(found.get("deployment_id", "")),
            model_id=str(found["model_id"]),
            at=datetime.fromisoformat(found["at"]),
            actor=str(found["actor"]),
            action=str(found["action"]),
            reason=str(found.get("reason", "")),
            before=str(found.get("before", "")),
            after=str(found.get("after", "")),
            traffic={str(name): int(share) for name, share in found.get("traffic", {}).items()},
            source=str(found.get("source", "")),
        )
        return Announcement(
            attributes["ce-id"],
            event,
            int(found.get("version", 0)),
            int(found.get("training_run", 0)),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a deployment event: {type(error).__name__}: {error}") from None
