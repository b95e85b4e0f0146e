"""The dashboard's own queries and records in Firestore; every one reads a bounded number."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

from google.api_core.exceptions import AlreadyExists
from google.cloud import firestore
from pydantic import TypeAdapter

from functions.dashboard.errors import OtherRequest, TooMany
from shared.domain.deployment import Deployment, Event, Status
from shared.errors import NotFound, Refused
from shared.gcp.firestore import in_transaction, plain

KEYS_LISTED_AT_MOST = 200
HEALTH_CHECK = "check_health"
"""Who makes the keys of `functions.check_health`."""
HOURS_AT_MOST = 2000
REMEMBERED_FOR = timedelta(days=1)

_deployments = TypeAdapter(Deployment)
_events = TypeAdapter(Event)
_EVENT_PATH = re.compile(r"(deployments|audit)/[a-z0-9-]{1,100}/events/[0-9A-Za-z.-]{1,100}")

Page = tuple[list[Any], str | None]
"""Items, and the cursor of the next page (None on the last)."""


@dataclass(frozen=True)
class Remembered:
    """What is kept of a request with an Idempotency-Key: a nonce, and its answer once there."""

    nonce: str
    answer: Mapping[str, str] | None


class Records:
    """Pages of deployments, runs, events and metrics; keys; limits; repeated requests."""

    def __init__(self, client: firestore.Client) -> None:
        self._client = client

    def deployments(self, model_id: str, cursor: str | None, limit: int) -> Page:
        """Return versions, newest first; the cursor is the last one's version."""
        return self._numbered("deployments", "version", model_id, cursor, limit, _deployment)

    def runs(self, model_id: str, cursor: str | None, limit: int) -> Page:
        """Return training runs as stored, newest first; the cursor is the last one's number."""
        return self._numbered("training_runs", "run_number", model_id, cursor, limit, dict)

    def that_were_live(self, model_id: str, at_most: int) -> list[Deployment]:
        """Return the versions that stopped being live last, the latest first.

        One that was rolled back from is not among them.
        """
        query = (
            self._client.collection("deployments")
            .where(filter=firestore.FieldFilter("model_id", "==", model_id))
            .where(filter=firestore.FieldFilter("status", "==", Status.INACTIVE.value))
            .order_by("deactivated_at", direction=firestore.Query.DESCENDING)
            .limit(at_most)
        )
        return [_deployment(found.to_dict() or {}) for found in query.stream()]

    def deployments_of(self, deployment_ids: Sequence[str]) -> list[Deployment]:
        """Return those of the ids that exist, in one call."""
        wanted = [self._client.collection("deployments").document(one) for one in deployment_ids]
        if not wanted:
            return []
        return [
            _deployment(found.to_dict() or {})
            for found in self._client.get_all(wanted)
            if found.exists
        ]

    def events(self, deployment_id: str, cursor: str | None, limit: int) -> Page:
        """Return a deployment's events, newest first."""
        within = self._client.collection("deployments").document(deployment_id)
        return self._history(within.collection("events"), cursor, limit)

    def audit(self, model_id: str, cursor: str | None, limit: int) -> Page:
        """Return everything that happened to a model, newest first: one index over all events."""
        query = self._client.collection_group("events").where(
            filter=firestore.FieldFilter("model_id", "==", model_id)
        )
        return self._history(query, cursor, limit)

    def note(self, event: Event) -> None:
        """Append to the model's audit trail what is no deployment's own event.

        A repeat appends again: it was done again.
        """
        self._audit(event.model_id, event.at).create(plain(_events.dump_python(event)))

    def hours(self, field: str, value: str, since: datetime) -> list[dict[str, Any]]:
        """Return the hourly metrics with `field` (deployment_id or model_id) == `value`."""
        query = (
            self._client.collection("serving_metrics")
            .where(filter=firestore.FieldFilter(field, "==", value))
            .where(filter=firestore.FieldFilter("hour", ">=", since))
            .order_by("hour")
            .limit(HOURS_AT_MOST)
        )
        return [found.to_dict() or {} for found in query.stream()]

    def key(self, key_id: str) -> dict[str, Any]:
        """Return a key's document with its `id`; NotFound where there is none."""
        found = self._client.collection("api_keys").document(key_id).get()
        if not found.exists:
            raise NotFound("there is no such API key")
        return {"id": key_id, **(found.to_dict() or {})}

    def keys(self, model_id: str) -> list[dict[str, Any]]:
        """Return a model's keys, newest first, each with its `id`.

        At most 200 that were not revoked, however old they are, and those of the newest 200.
        The health checks' own, one for each deployment and revoked at its end, are left out.
        """
        of_model = self._client.collection("api_keys").where(
            filter=firestore.FieldFilter("model_id", "==", model_id)
        )
        newest = of_model.order_by("created_at", direction=firestore.Query.DESCENDING)
        # Two equalities need no index of their own.
        valid = of_model.where(filter=firestore.FieldFilter("is_active", "==", True))
        found = {
            one.id: {"id": one.id, **(one.to_dict() or {})}
            for query in (newest, valid)
            for one in query.limit(KEYS_LISTED_AT_MOST).stream()
        }
        listed = [key for key in found.values() if key["created_by"] != HEALTH_CHECK]
        return sorted(listed, key=itemgetter("created_at"), reverse=True)

    def create_key(self, made: tuple[str, dict[str, Any]], event: Event) -> None:
        """Store a key and its event together; a repeat of the same key changes nothing."""
        key_id, document = made
        batch = self._client.batch()
        batch.create(self._client.collection("api_keys").document(key_id), document)
        batch.create(self._audit(event.model_id, event.at), plain(_events.dump_python(event)))
        try:
            batch.commit()
        except AlreadyExists:
            return

    def revoke_key(self, key_id: str, event: Event) -> None:
        """Make a key invalid, with its event. A repeat leaves the key as it is."""
        batch = self._client.batch()
        batch.update(self._client.collection("api_keys").document(key_id), {"is_active": False})
        batch.create(self._audit(event.model_id, event.at), plain(_events.dump_python(event)))
        batch.commit()

    def count(self, name: str, at_most: int, now: datetime) -> None:
        """Count one more `name` in this hour, over all instances; TooMany past `at_most`.

        A transaction that runs again reads again, so nothing is counted twice.
        """
        hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        document = self._client.collection("rate_limits").document(f"{name}-{hour:%Y%m%d%H}")

        def take(transaction: firestore.Transaction) -> bool:
            counted = int((document.get(transaction=transaction).to_dict() or {}).get("count", 0))
            if counted >= at_most:
                return False
            transaction.set(
                document, {"count": counted + 1, "expires_at": hour + timedelta(hours=2)}
            )
            return True

        if not in_transaction(self._client, take):
            left_s = int((hour + timedelta(hours=1) - now).total_seconds()) + 1
            raise TooMany(f"at most {at_most} an hour", left_s)

    def remember(self, request: str, content: str, now: datetime) -> Remembered:
        """Return what is kept of the request; OtherRequest where its content was another.

        `request` and `content` are digests. create() lets the first one write; Firestore's
        own TTL on `expires_at` deletes it after a day.
        """
        document = self._client.collection("idempotency").document(request)
        kept: dict[str, Any] = {
            "content": content,
            "nonce": secrets.token_hex(32),
            "answer": None,
            "expires_at": now + REMEMBERED_FOR,
        }
        try:
            document.create(kept)
        except AlreadyExists:
            kept = document.get().to_dict() or kept
        if kept["content"] != content:
            raise OtherRequest(
                "the same Idempotency-Key came with another body; take a new key for a new request"
            )
        return Remembered(kept["nonce"], kept["answer"])

    def remember_answer(self, request: str, answer: Mapping[str, str]) -> Mapping[str, str]:
        """Keep the answer unless there is one; return the one that is kept."""
        document = self._client.collection("idempotency").document(request)

        def keep(transaction: firestore.Transaction) -> Mapping[str, str]:
            found = document.get(transaction=transaction).to_dict() or {}
            if earlier := found.get("answer"):
                return dict(earlier)
            transaction.set(document, {**found, "answer": dict(answer)})
            return answer

        return in_transaction(self._client, keep)

    def _numbered(
        self,
        collection: str,
        number: str,
        model_id: str,
        cursor: str | None,
        limit: int,
        make: Any,
    ) -> Page:
        query = (
            self._client.collection(collection)
            .where(filter=firestore.FieldFilter("model_id", "==", model_id))
            .order_by(number, direction=firestore.Query.DESCENDING)
        )
        if cursor:
            query = query.start_after({number: _number(cursor)})
        found = [one.to_dict() or {} for one in query.limit(limit + 1).stream()]
        more = len(found) > limit
        return [make(one) for one in found[:limit]], str(found[limit - 1][number]) if more else None

    def _history(self, query: Any, cursor: str | None, limit: int) -> Page:
        query = query.order_by("at", direction=firestore.Query.DESCENDING)
        if cursor:
            after = self._client.document(_path(cursor)).get()
            if not after.exists:
                raise Refused("cursor: no such place; start again without a cursor")
            query = query.start_after(after)
        found = list(query.limit(limit + 1).stream())
        more = len(found) > limit
        items = [_events.validate_python(one.to_dict()) for one in found[:limit]]
        return items, _cursor(found[limit - 1].reference.path) if more else None

    def _audit(self, model_id: str, at: datetime) -> firestore.DocumentReference:
        # Below `events`, as a deployment's own: one query then finds all of a model.
        stamp = at.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        trail = self._client.collection("audit").document(model_id).collection("events")
        made: firestore.DocumentReference = trail.document(f"{stamp}-{secrets.token_hex(4)}")
        return made


def _deployment(document: Mapping[str, Any]) -> Deployment:
    return _deployments.validate_python(document)


def _number(cursor: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", cursor):
        raise Refused("cursor: take it from next_cursor as it is")
    return int(cursor)


def _cursor(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode()).decode().rstrip("=")


def _path(cursor: str) -> str:
    try:
        path = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        path = ""
    if not _EVENT_PATH.fullmatch(path):
        raise Refused("cursor: take it from next_cursor as it is")
    return path
