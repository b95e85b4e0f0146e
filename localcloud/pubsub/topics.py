"""Topics: what they may declare, and publishing to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from localcloud.database import Database
from localcloud.pubsub.bells import Bells
from localcloud.pubsub.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from localcloud.pubsub.filters import parse_filter
from localcloud.pubsub.names import check_labels, check_name, check_project
from localcloud.pubsub.rpc import (
    SECOND_US,
    PubsubMessage,
    Subscription,
    Topic,
    check_mask,
    copy_fields,
    duration_us,
    page,
    refuse_unsupported,
    timestamp,
)
from localcloud.pubsub.schemas import BINARY, DELETED, JSON, Schemas

DELETED_TOPIC = "_deleted-topic_"
# Limits: cloud.google.com/pubsub/quotas#resource_limits.
MAX_MESSAGES = 1000
MAX_BYTES = 10_000_000
MAX_ATTRIBUTES = 100
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 1024
MAX_ORDERING_KEY_BYTES = 1024
MIN_RETENTION_US = 600 * SECOND_US
MAX_RETENTION_US = 31 * 86_400 * SECOND_US

_SUPPORTED = ("name", "labels", "schema_settings", "message_retention_duration")
_MUTABLE = ("labels", "schema_settings", "message_retention_duration")
_OUTPUT_ONLY = ("state", "satisfies_pzs")
_ENCODINGS = {JSON: "JSON", BINARY: "BINARY"}


class Topics:
    """The topics of all projects, and the messages published to them."""

    def __init__(
        self, database: Database, schemas: Schemas, bells: Bells, now_us: Callable[[], int]
    ) -> None:
        self._database = database
        self._schemas = schemas
        self._bells = bells
        self._now_us = now_us

    def create(self, topic: Any) -> Any:
        """Store a topic; AlreadyExists when there is one of that name."""
        check_name(topic.name, "topics")
        made = Topic()
        made.CopyFrom(topic)
        for field in _OUTPUT_ONLY:
            made.ClearField(field)
        with self._database.transaction() as db:
            self._check(made)
            # A repeated create finds the first one and changes nothing.
            if self.exists(made.name):
                raise AlreadyExists("Topic", made.name)
            db.execute("INSERT INTO topics VALUES (?, ?)", (made.name, made.SerializeToString()))
        return made

    def get(self, name: str) -> Any:
        """Return the topic `name`."""
        row = self._database.row(
            "SELECT config FROM topics WHERE name = ?", check_name(name, "topics")
        )
        if row is None:
            raise NotFound("Topic", name)
        return Topic.FromString(row["config"])

    def exists(self, name: str) -> bool:
        """Say whether there is a topic `name`."""
        return self._database.row("SELECT 1 FROM topics WHERE name = ?", name) is not None

    def update(self, topic: Any, paths: Collection[str]) -> Any:
        """Set the fields `paths` of a topic to what `topic` says, and return all of it."""
        check_mask(paths, topic, _MUTABLE, ("name", *_OUTPUT_ONLY))
        with self._database.transaction() as db:
            changed = self.get(topic.name)
            copy_fields(paths, topic, changed)
            self._check(changed)
            # Repeating it writes the same values again.
            db.execute(
                "UPDATE topics SET config = ? WHERE name = ?",
                (changed.SerializeToString(), changed.name),
            )
        return changed

    def list_page(self, project: str, page_size: int, page_token: str) -> tuple[list[Any], str]:
        """Return a page of a project's topics by name, and the next page's token."""
        prefix, limit = f"{check_project(project)}/topics/", page(page_size)
        rows = self._database.rows(
            "SELECT config FROM topics WHERE name GLOB ? AND name > ? ORDER BY name LIMIT ?",
            prefix + "*",
            page_token,
            limit + 1,
        )
        found = [Topic.FromString(row["config"]) for row in rows]
        return found[:limit], found[limit - 1].name if len(found) > limit else ""

    def delete(self, name: str) -> None:
        """Remove a topic; its subscriptions stay and keep their backlog."""
        with self._database.transaction() as db:
            self.get(name)
            db.execute("DELETE FROM topics WHERE name = ?", (name,))
            for row in db.execute(
                "SELECT config FROM subscriptions WHERE topic = ?", (name,)
            ).fetchall():
                orphan = Subscription.FromString(row["config"])
                orphan.topic = DELETED_TOPIC
                db.execute(
                    "UPDATE subscriptions SET topic = ?, config = ? WHERE name = ?",
                    (DELETED_TOPIC, orphan.SerializeToString(), orphan.name),
                )

    def forget_schema(self, schema: str) -> None:
        """Mark the topics that use `schema` as Google does when it is deleted."""
        with self._database.transaction() as db:
            for row in db.execute("SELECT config FROM topics").fetchall():
                topic = Topic.FromString(row["config"])
                if topic.schema_settings.schema == schema:
                    topic.schema_settings.schema = DELETED
                    db.execute(
                        "UPDATE topics SET config = ? WHERE name = ?",
                        (topic.SerializeToString(), topic.name),
                    )

    def publish(self, name: str, messages: Sequence[Any]) -> list[str]:
        """Store `messages` for every attached subscription and return their ids.

        All or none. What a client publishes again after a lost answer gets a new id, as on
        Google's: subscribers tell repeats apart by what is in the message.
        """
        check_messages(messages)
        with self._database.transaction():
            topic = self.get(name)
            checked = [self._conform(topic, message) for message in messages]
            return [str(number) for number in self._store(name, checked)]

    def forward(self, name: str, message: Any) -> bool:
        """Store a dead letter on topic `name`; False when the topic cannot take it now."""
        with self._database.transaction():
            try:
                topic = self.get(name)
                self._store(name, [self._conform(topic, message)])
            except (NotFound, InvalidArgument, FailedPrecondition):
                return False
        return True

    def _store(self, topic: str, messages: Iterable[Any]) -> list[int]:
        numbers = []
        with self._database.transaction() as db:
            rows = self._database.rows("SELECT config FROM subscriptions WHERE topic = ?", topic)
            attached = [Subscription.FromString(row["config"]) for row in rows]
            # Google's publish times have milliseconds.
            now_us = self._now_us() // 1000 * 1000
            for message in messages:
                number = self._next_id()
                message.message_id = str(number)
                message.publish_time.CopyFrom(timestamp(now_us))
                body = message.SerializeToString()
                db.execute(
                    "INSERT INTO messages VALUES (?, ?, ?, ?)", (number, topic, body, now_us)
                )
                for subscription in attached:
                    if not parse_filter(subscription.filter)(message.attributes):
                        continue
                    key = message.ordering_key if subscription.enable_message_ordering else ""
                    db.execute(
                        "INSERT INTO deliveries (subscription, message_id, ordering_key, size,"
                        " published_us, available_us, attempts, lease)"
                        " VALUES (?, ?, ?, ?, ?, ?, 0, 0)",
                        (subscription.name, number, key, len(body), now_us, now_us),
                    )
                numbers.append(number)
        for subscription in attached:
            self._bells.of(subscription.name).ring()
        return numbers

    def _next_id(self) -> int:
        """Return an id greater than every id given out before, also by a data folder since lost."""
        row = self._database.row("SELECT seq FROM sqlite_sequence WHERE name = 'messages'")
        return max(self._now_us(), row["seq"] + 1 if row else 0)

    def _conform(self, topic: Any, message: Any) -> Any:
        """Return a copy of `message`, checked against the topic's schema and marked with it."""
        copy = PubsubMessage()
        copy.CopyFrom(message)
        if not topic.HasField("schema_settings"):
            return copy
        settings = topic.schema_settings
        if settings.schema == DELETED:
            raise FailedPrecondition(
                f"the schema of {topic.name} was deleted; update the topic's schema_settings"
            )
        revision = self._schemas.validate(settings.schema, settings.encoding, message.data)
        copy.attributes["googclient_schemaname"] = settings.schema
        copy.attributes["googclient_schemaencoding"] = _ENCODINGS[settings.encoding]
        copy.attributes["googclient_schemarevisionid"] = revision
        return copy

    def _check(self, topic: Any) -> None:
        refuse_unsupported(topic, _SUPPORTED)
        check_labels(topic.labels)
        if topic.HasField("message_retention_duration"):
            retention_us = duration_us(topic.message_retention_duration)
            if not MIN_RETENTION_US <= retention_us <= MAX_RETENTION_US:
                raise InvalidArgument(
                    "message_retention_duration of a topic: expected 10 minutes to 31 days"
                )
        if topic.HasField("schema_settings"):
            self._check_schema_settings(topic.schema_settings)

    def _check_schema_settings(self, settings: Any) -> None:
        if settings.encoding not in _ENCODINGS:
            raise InvalidArgument("Invalid schema encoding: expected JSON or BINARY")
        if settings.schema == DELETED:
            return
        revision = self._schemas.get(settings.schema).revision_id
        for field in ("first_revision_id", "last_revision_id"):
            wanted = getattr(settings, field)
            if wanted and wanted != revision:
                raise NotFound("Schema revision", f"{settings.schema}@{wanted}")


def check_messages(messages: Sequence[Any]) -> None:
    """Raise InvalidArgument unless `messages` may be published together."""
    if not messages:
        raise InvalidArgument("No messages to publish")
    if len(messages) > MAX_MESSAGES:
        raise InvalidArgument(f"Too many messages to publish: at most {MAX_MESSAGES}")
    size = sum(message.ByteSize() for message in messages)
    if size > MAX_BYTES:
        raise InvalidArgument(f"The request has {size} bytes; at most {MAX_BYTES} are allowed")
    if len({message.ordering_key for message in messages}) > 1:
        raise InvalidArgument("All messages of one request must have the same ordering_key")
    for message in messages:
        _check_message(message)


def _check_message(message: Any) -> None:
    if not message.data and not message.attributes:
        raise InvalidArgument("Some messages are empty: each needs data or an attribute")
    if len(message.ordering_key.encode()) > MAX_ORDERING_KEY_BYTES:
        raise InvalidArgument(f"ordering_key is longer than {MAX_ORDERING_KEY_BYTES} bytes")
    if len(message.attributes) > MAX_ATTRIBUTES:
        raise InvalidArgument(
            f"{len(message.attributes)} attributes; at most {MAX_ATTRIBUTES} are allowed"
        )
    for key, value in message.attributes.items():
        if not key or len(key.encode()) > MAX_KEY_BYTES:
            raise InvalidArgument(f"attribute key {key!r}: expected 1 to {MAX_KEY_BYTES} bytes")
        if key.startswith("goog"):
            raise InvalidArgument(f'attribute key {key!r}: keys must not begin with "goog"')
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise InvalidArgument(
                f"the value of attribute {key!r} is longer than {MAX_VALUE_BYTES} bytes"
            )
