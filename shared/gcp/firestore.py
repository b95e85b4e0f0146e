"""State in Firestore: models, deployments with their events, training runs, API keys."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import sha256
from typing import Any, TypeVar, cast

from google.api_core.exceptions import Aborted, AlreadyExists, InvalidArgument
from google.api_core.exceptions import NotFound as DocumentMissing
from google.cloud import firestore
from pydantic import TypeAdapter
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from shared import logs
from shared.domain.announcement import Announcement, announce_of, event_name
from shared.domain.deployment import Deployment, Event, Status
from shared.domain.model import Model
from shared.errors import NotFound, PipelineError, Unavailable
from shared.messages import ModelDeclaration

T = TypeVar("T")

CONTENDED_FOR_S = 30
LISTED_AT_MOST = 200
OUTBOX_TIMEOUT_S = 2.0
GLANCE_TIMEOUT_S = 2.0
POSTED_KEPT_FOR = timedelta(days=8)
"""A day longer than Pub/Sub keeps a message that nobody acknowledged."""
POSTING_FOR = timedelta(seconds=60)

_models = TypeAdapter(Model)
_deployments = TypeAdapter(Deployment)
_events = TypeAdapter(Event)
_announcements = TypeAdapter(Announcement)


class _News(threading.local):
    """Says whether this thread recorded an event that nobody announced.

    Each request has a thread of its own, so a step that records nothing never announces what
    another one recorded: its function may not publish.
    """

    is_set = False


class FirestoreState:
    """The pipeline's documents. Every transition goes through `change`, one transaction each."""

    def __init__(self, client: firestore.Client) -> None:
        self._client = client
        self._news = _News()

    def declaration(self, model_id: str) -> ModelDeclaration | None:
        """Return a model's declared configuration, or None for an unknown model."""
        found = self._client.collection("model_configs").document(model_id).get()
        return ModelDeclaration.model_validate(found.to_dict()) if found.exists else None

    def model_ids(self) -> list[str]:
        """Return the ids of all declared models."""
        return sorted(ref.id for ref in self._client.collection("model_configs").list_documents())

    def model(self, model_id: str) -> Model:
        """Return the pipeline's state of a model; a new one where nothing happened yet."""
        return _model(model_id, self._model(model_id).get())

    def deployment(self, deployment_id: str) -> Deployment:
        """Return a deployment; NotFound where there is none."""
        found = self._deployment(deployment_id).get()
        if not found.exists:
            raise NotFound(f"there is no deployment {deployment_id!r}")
        return _deployments.validate_python(found.to_dict())

    def glance(self, deployment_id: str) -> Deployment | None:
        """Return a deployment; None where it is not there, or does not come at once.

        Tried once, for 2 s: it is asked before each step, which itself says what is wrong.
        """
        try:
            found = self._deployment(deployment_id).get(retry=None, timeout=GLANCE_TIMEOUT_S)
            return _deployments.validate_python(found.to_dict()) if found.exists else None
        except Exception as error:  # any fault of the service, or an id that is none: see above
            logs.log("deployment not seen", severity="WARNING", why=type(error).__name__)
            return None

    def deployments(self, model_id: str) -> list[Deployment]:
        """Return a model's newest 200 deployments, newest version first."""
        query = (
            self._client.collection("deployments")
            .where(filter=firestore.FieldFilter("model_id", "==", model_id))
            .order_by("version", direction=firestore.Query.DESCENDING)
            .limit(LISTED_AT_MOST)
        )
        return [_deployments.validate_python(found.to_dict()) for found in query.stream()]

    def every_deployment(self, model_id: str) -> list[Deployment]:
        """Return all of a model's deployments, however many, newest version first."""
        query = self._client.collection("deployments").where(
            filter=firestore.FieldFilter("model_id", "==", model_id)
        )
        found = [_deployments.validate_python(one.to_dict()) for one in query.stream()]
        return sorted(found, key=lambda deployment: -deployment.version)

    def deploying(self, model_id: str) -> list[Deployment]:
        """Return a model's deployments that roll out or wait."""
        query = (
            self._client.collection("deployments")
            .where(filter=firestore.FieldFilter("model_id", "==", model_id))
            .where(filter=firestore.FieldFilter("status", "==", Status.DEPLOYING.value))
        )
        return [_deployments.validate_python(found.to_dict()) for found in query.stream()]

    def events(self, deployment_id: str) -> list[Event]:
        """Return a deployment's history, oldest first."""
        found = self._deployment(deployment_id).collection("events").order_by("__name__").stream()
        return [_events.validate_python(event.to_dict()) for event in found]

    def run(self, run_id: str) -> Mapping[str, Any] | None:
        """Return a training run as stored, or None."""
        return self._client.collection("training_runs").document(run_id).get().to_dict()

    def runs(self, model_id: str) -> list[dict[str, Any]]:
        """Return a model's newest 200 training runs, newest first."""
        query = (
            self._client.collection("training_runs")
            .where(filter=firestore.FieldFilter("model_id", "==", model_id))
            .order_by("run_number", direction=firestore.Query.DESCENDING)
            .limit(LISTED_AT_MOST)
        )
        return [run.to_dict() or {} for run in query.stream()]

    def change(self, model_id: str, move: Callable[[FirestoreBook], T]) -> T:
        """Run `move` on fresh documents in one transaction; Aborted after 30 s of contention.

        All of them read the model's document, so whoever changes it lets nobody else between
        its own read and its commit.
        """

        def attempt(transaction: firestore.Transaction) -> tuple[T, bool]:
            book = FirestoreBook(self._client, transaction, model_id)
            result = move(book)
            return result, book.write()

        result, recorded = in_transaction(self._client, attempt)
        if recorded:
            self._news.is_set = True
        return result

    def outbox(self, at_most: int) -> list[Announcement]:
        """Return recorded events that were not announced yet, the oldest first.

        Tried once, for 2 s: it is asked at the end of every function that recorded something.
        """
        query = self._client.collection("outbox").order_by("__name__").limit(at_most)
        found = query.stream(retry=None, timeout=OUTBOX_TIMEOUT_S)
        return [_announcements.validate_python(waiting.to_dict()) for waiting in found]

    def announced(self, announcement_id: str) -> None:
        """Take an event out of the outbox. Deleting what is gone changes nothing."""
        document = self._client.collection("outbox").document(announcement_id)
        document.delete(retry=None, timeout=OUTBOX_TIMEOUT_S)

    def take_news(self) -> bool:
        """Return True once after this thread recorded an event; reads nothing."""
        # Cleared before the outbox is read: what is recorded meanwhile is found there.
        was_set, self._news.is_set = self._news.is_set, False
        return was_set

    def record_run(self, run_id: str, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create the training run where it is new; return what is stored.

        create() refuses a second write, so a redelivered message finds the first.
        """
        document = self._client.collection("training_runs").document(run_id)
        try:
            document.create(plain(run))
        except AlreadyExists:
            return document.get().to_dict() or {}
        return run

    def decide(
        self, run_id: str, request_id: str, decision: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Keep the gate's decision on a request where there is none; return what is kept.

        A redelivery that decides at the same time finds the first decision.
        """
        document = self._client.collection("training_runs").document(run_id)

        @firestore.transactional
        def attempt(transaction: firestore.Transaction) -> Mapping[str, Any]:
            found = document.get(transaction=transaction).to_dict() or {}
            if earlier := found.get("decisions", {}).get(request_id):
                return cast(Mapping[str, Any], earlier)
            transaction.set(document, {"decisions": {request_id: plain(decision)}}, merge=True)
            return decision

        return cast(Mapping[str, Any], attempt(self._client.transaction()))

    def record_refusal(self, message_id: str, refusal: Mapping[str, Any]) -> None:
        """Keep why a message was refused, under its own id: a redelivery overwrites itself."""
        self._client.collection("refused_messages").document(message_id).set(plain(refusal))

    def _model(self, model_id: str) -> firestore.DocumentReference:
        return self._client.collection("models").document(model_id)

    def _deployment(self, deployment_id: str) -> firestore.DocumentReference:
        return self._client.collection("deployments").document(deployment_id)


class FirestoreBook:
    """The documents of one transaction: read on demand, written together by `write`."""

    def __init__(
        self, client: firestore.Client, transaction: firestore.Transaction, model_id: str
    ) -> None:
        self._client = client
        self._transaction = transaction
        self._model_reference = client.collection("models").document(model_id)
        self._read = _model(model_id, self._model_reference.get(transaction=transaction))
        self.model = self._read
        self._known: dict[str, Deployment | None] = {}
        self._changed: dict[str, Deployment] = {}
        self._events: list[Event] = []

    def find(self, deployment_id: str) -> Deployment | None:
        """Return a deployment as this transaction sees it, or None."""
        if deployment_id not in self._known:
            found = self._reference(deployment_id).get(transaction=self._transaction)
            self._known[deployment_id] = (
                _deployments.validate_python(found.to_dict()) if found.exists else None
            )
        return self._known[deployment_id]

    def deployment(self, deployment_id: str) -> Deployment:
        """Return a deployment as this transaction sees it; NotFound where there is none."""
        found = self.find(deployment_id)
        if found is None:
            raise NotFound(f"there is no deployment {deployment_id!r}")
        return found

    def put(self, deployment: Deployment) -> None:
        """Write it when the transaction commits."""
        self._known[deployment.id] = self._changed[deployment.id] = deployment

    def record(self, event: Event) -> None:
        """Append to the deployment's history when the transaction commits."""
        self._events.append(event)

    def write(self) -> bool:
        """Buffer the writes; the transaction applies all of them or none.

        True where an event is among them: it is in the outbox, too, until it is announced.
        """
        # Firestore takes about one write a second of one document for long: none that says nothing.
        if self.model != self._read:
            self._transaction.set(self._model_reference, plain(_models.dump_python(self.model)))
        for changed in self._changed.values():
            self._transaction.set(
                self._reference(changed.id), plain(_deployments.dump_python(changed))
            )
        for number, event in enumerate(self._events):
            name = event_name(event, number, secrets.token_hex(4))
            history = self._reference(event.deployment_id).collection("events")
            self._transaction.create(history.document(name), plain(_events.dump_python(event)))
            told = announce_of(name, event, self._known.get(event.deployment_id))
            self._transaction.create(
                self._client.collection("outbox").document(name),
                plain(_announcements.dump_python(told)),
            )
        return bool(self._events)

    def _reference(self, deployment_id: str) -> firestore.DocumentReference:
        return self._client.collection("deployments").document(deployment_id)


class FirestoreKeys:
    """API keys: 256 random bits each, of which only the SHA-256 is stored."""

    def __init__(self, client: firestore.Client) -> None:
        self._keys = client.collection("api_keys")

    def create(
        self,
        model_id: str,
        name: str,
        created_by: str,
        lifetime_s: float | None,
        requests_per_minute: int | None = None,
    ) -> tuple[str, str]:
        """Create a key; return its id and the plain key, which is stored nowhere.

        A repeat makes another key: the plain one cannot be had again.
        """
        plain_key = secrets.token_urlsafe(32)
        key_id, document = new_key(
            model_id, name, created_by, lifetime_s, plain_key, requests_per_minute
        )
        self._keys.document(key_id).create(document)
        return key_id, plain_key

    def list(self, model_id: str) -> list[dict[str, Any]]:
        """Return a model's keys, newest first, each with its `id`; never a plain key."""
        query = self._keys.where(filter=firestore.FieldFilter("model_id", "==", model_id))
        found = [{"id": key.id, **(key.to_dict() or {})} for key in query.stream()]
        return sorted(found, key=lambda key: key["created_at"], reverse=True)

    def revoke(self, key_id: str) -> None:
        """Make a key invalid; NotFound where there is none. A repeat changes nothing."""
        try:
            self._keys.document(key_id).update({"is_active": False})
        except DocumentMissing:
            raise NotFound(f"there is no API key {key_id!r}") from None


class FirestorePosts:
    """Which events were posted to the chat: a document each, which Firestore's TTL deletes."""

    def __init__(self, client: firestore.Client) -> None:
        self._client = client

    def claim(self, announcement_id: str, at: datetime) -> bool:
        """Return True where the caller is to post it, False where that was done.

        Unavailable while another delivery is at it. One that died at it blocks for 60 s;
        the transaction lets one of several take over.
        """
        document = self._document(announcement_id)

        def take(transaction: firestore.Transaction) -> bool:
            found = document.get(transaction=transaction).to_dict() or {}
            if found.get("posted"):
                return False
            if found and found["claimed_at"] + POSTING_FOR > at:
                raise Unavailable(f"event {announcement_id!r} is being posted just now")
            kept = {"posted": False, "claimed_at": at, "expires_at": at + POSTED_KEPT_FOR}
            transaction.set(document, kept)
            return True

        return in_transaction(self._client, take)

    def posted(self, announcement_id: str) -> None:
        """Remember that it was posted; a repeat writes the same."""
        self._document(announcement_id).update({"posted": True})

    def give_back(self, announcement_id: str) -> None:
        """Let the next delivery try. Deleting what is gone changes nothing."""
        self._document(announcement_id).delete()

    def _document(self, announcement_id: str) -> firestore.DocumentReference:
        # By digest: the id came with a message, and names have rules of their own.
        name = sha256(announcement_id.encode()).hexdigest()
        return self._client.collection("chat_posts").document(name)


def in_transaction(client: firestore.Client, attempt: Callable[[firestore.Transaction], T]) -> T:
    """Run `attempt` in one transaction, again on contention; Aborted after 30 s of it.

    The client retries ABORTED at commit; locks can also be lost at a read. A repeat is safe: of
    a transaction that was lost, nothing is written.
    """
    for again in Retrying(
        retry=retry_if_exception(_is_contention),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=stop_after_delay(CONTENDED_FOR_S),
        reraise=True,
    ):
        with again:
            return cast(T, firestore.transactional(attempt)(client.transaction()))
    raise AssertionError("unreachable: the last try raises")


def new_key(
    model_id: str,
    name: str,
    created_by: str,
    lifetime_s: float | None,
    plain_key: str,
    requests_per_minute: int | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return the id and the document of an API key; the plain key is in neither."""
    key_id = sha256(plain_key.encode()).hexdigest()
    now = datetime.now(UTC)
    return key_id, {
        "model_id": model_id,
        "name": name,
        "key_hash": key_id,
        "key_prefix": plain_key[:8],
        "is_active": True,
        "created_at": now,
        "created_by": created_by,
        "expires_at": now + timedelta(seconds=lifetime_s) if lifetime_s else None,
        "last_used_at": None,
        "requests_per_minute": requests_per_minute,
    }


def _model(model_id: str, found: firestore.DocumentSnapshot[Any]) -> Model:
    return _models.validate_python(found.to_dict()) if found.exists else Model(model_id)


def _is_contention(error: BaseException | None) -> bool:
    """Say whether the transaction was lost to others, also where a later error hides it.

    The client rolls back after any error, and raises what the rollback meets instead. A
    PipelineError is what the attempt itself says: it stands, whatever was met before it.
    """
    if error is None or isinstance(error, PipelineError):
        return False
    return _is_lost(error) or any(map(_is_contention, {error.__cause__, error.__context__}))


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, InvalidArgument):
        # "The referenced transaction has expired or is no longer valid."
        return any(words in str(error) for words in ("has expired", "no longer valid"))
    # The client turns its fifth ABORTED into a ValueError with this text.
    return isinstance(error, Aborted) or (
        isinstance(error, ValueError) and "Failed to commit transaction" in str(error)
    )


def plain(value: Any) -> Any:
    """Return `value` in Firestore's own types: enums as text, tuples as arrays."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value
