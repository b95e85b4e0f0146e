"""Who gets which message when, until it is acknowledged or dead.

A message is free, leased (somebody works on it until a deadline) or acknowledged. A lease
that runs out frees the message after the retry policy's rest; nothing has to notice the
moment, since `available_us` is written with the lease. So a kill at any time loses nothing.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from localcloud.database import Database
from localcloud.pubsub.backoff import backoff_us
from localcloud.pubsub.bells import Bells
from localcloud.pubsub.errors import InvalidArgument
from localcloud.pubsub.filters import parse_filter
from localcloud.pubsub.names import project_of, short_name
from localcloud.pubsub.rpc import SECOND_US, PubsubMessage, Topic, duration_us
from localcloud.pubsub.subscriptions import Subscriptions, retry_policy_of
from localcloud.pubsub.topics import Topics

# Of the messages of a subscription (?1) published after ?2: those not acknowledged, and of
# those with an ordering key only the oldest, so that a key's next message waits for the ack.
_IN_LINE = """
    FROM deliveries AS d
    WHERE subscription = ?1 AND acked_us IS NULL AND published_us > ?2
      AND (ordering_key = '' OR NOT EXISTS (
        SELECT 1 FROM deliveries AS older
        WHERE older.subscription = ?1 AND older.ordering_key = d.ordering_key
          AND older.ordering_key != '' AND older.acked_us IS NULL
          AND older.published_us > ?2 AND older.message_id < d.message_id))
"""

_ACK_ID = re.compile(r"(?P<owner>.+):(?P<number>[0-9]{1,18})-(?P<lease>[0-9]{1,18})")


@dataclass(frozen=True)
class Leased:
    """One message handed out; `attempt` counts from 1, `size` is in bytes."""

    ack_id: str
    message: Any
    attempt: int
    size: int


class Deliveries:
    """Leases, acknowledgements and dead letters of every subscription."""

    def __init__(
        self,
        database: Database,
        topics: Topics,
        subscriptions: Subscriptions,
        bells: Bells,
        now_us: Callable[[], int],
    ) -> None:
        self._database = database
        self._topics = topics
        self._subscriptions = subscriptions
        self._bells = bells
        self._now_us = now_us

    def lease(
        self, name: str, count: int, size: int, deadline_s: float = 0, holder: str | None = None
    ) -> list[Leased]:
        """Hand out up to `count` messages of together about `size` bytes (always at least one).

        They are the caller's for `deadline_s` (0: the subscription's own ack deadline).
        """
        with self._database.transaction() as db:
            subscription = self._subscriptions.attached(name)
            self._bury_exhausted(subscription)
            now_us = self._now_us()
            rows = db.execute(
                f"SELECT d.* {_IN_LINE} AND available_us <= ?3"
                " ORDER BY available_us, message_id LIMIT ?4",
                (name, self._oldest_us(subscription), now_us, count),
            ).fetchall()
            until_us = now_us + int((deadline_s or subscription.ack_deadline_seconds) * SECOND_US)
            leased: list[Leased] = []
            for row in rows:
                if leased and row["size"] > size:
                    break
                size -= row["size"]
                leased.append(self._hand_out(subscription, row, until_us, holder))
            return leased

    def next_free_s(self, name: str) -> float | None:
        """Return in how many seconds a message becomes free by itself (None: none will)."""
        with self._database.transaction() as db:
            subscription = self._subscriptions.attached(name)
            free_us: int | None = db.execute(
                f"SELECT min(available_us) {_IN_LINE}", (name, self._oldest_us(subscription))
            ).fetchone()[0]
        return None if free_us is None else max(0.0, (free_us - self._now_us()) / SECOND_US)

    def outstanding(self, name: str, holder: str) -> tuple[int, int]:
        """Return how many messages, and bytes of them, `holder` works on."""
        row = self._database.row(
            "SELECT count(*) AS messages, coalesce(sum(size), 0) AS bytes FROM deliveries"
            " WHERE holder = ? AND subscription = ? AND acked_us IS NULL AND leased_until_us > ?",
            holder,
            name,
            self._now_us(),
        )
        return (row["messages"], row["bytes"]) if row else (0, 0)

    def acknowledge(self, name: str, ack_ids: Sequence[str]) -> None:
        """End the delivery of messages; a late or a repeated acknowledgement counts as well."""
        with self._database.transaction():
            subscription = self._subscriptions.get(name)
            for ack_id in ack_ids:
                self._finish(subscription, _parse(name, ack_id)[0])
        self._subscriptions.mark_active(name)
        self._bells.of(name).ring()

    def extend(self, name: str, ack_ids: Sequence[str], deadline_s: int) -> None:
        """Move the deadline of leases to `deadline_s` from now; 0 gives the messages back.

        A lease that is no longer the message's newest is left as it is.
        """
        now_us = self._now_us()
        with self._database.transaction() as db:
            subscription = self._subscriptions.get(name)
            for ack_id in ack_ids:
                number, lease = _parse(name, ack_id)
                row = db.execute(
                    "SELECT * FROM deliveries WHERE subscription = ? AND message_id = ?"
                    " AND lease = ? AND acked_us IS NULL AND leased_until_us > ?",
                    (name, number, lease, now_us),
                ).fetchone()
                if row is None:
                    continue
                if deadline_s:
                    self._hold(subscription, row, now_us + deadline_s * SECOND_US)
                elif not self._bury(subscription, row):
                    self._give_back(subscription, row)
        self._bells.of(name).ring()

    def release_leases(self, name: str) -> None:
        """Free what a push worker held when the process died; repeating it frees nothing new."""
        with self._database.transaction() as db:
            db.execute(
                "UPDATE deliveries SET leased_until_us = NULL, holder = NULL, available_us = ?"
                " WHERE subscription = ? AND acked_us IS NULL AND leased_until_us IS NOT NULL",
                (self._now_us(), name),
            )
        self._bells.of(name).ring()

    def seek(self, name: str, moment_us: int) -> None:
        """Acknowledge what was published before `moment_us` and deliver again what came since.

        Again means what the subscription or its topic still retains. Repeating it is safe:
        it states a position.
        """
        with self._database.transaction() as db:
            subscription = self._subscriptions.attached(name)
            earlier = db.execute(
                "SELECT message_id FROM deliveries WHERE subscription = ? AND published_us < ?"
                " AND acked_us IS NULL",
                (name, moment_us),
            ).fetchall()
            for row in earlier:
                self._finish(subscription, row["message_id"])
            db.execute(
                "UPDATE deliveries SET acked_us = NULL, leased_until_us = NULL, holder = NULL,"
                " attempts = 0, available_us = ? WHERE subscription = ? AND published_us >= ?"
                " AND acked_us IS NOT NULL",
                (self._now_us(), name, moment_us),
            )
            self._replay_from_topic(subscription, moment_us)
        self._bells.of(name).ring()

    def bury_all_exhausted(self) -> None:
        """Forward the dead letters of subscriptions from which nobody pulls at the moment."""
        for subscription in self._subscriptions.all():
            if subscription.HasField("dead_letter_policy") and not subscription.detached:
                with self._database.transaction():
                    self._bury_exhausted(subscription)

    def purge(self) -> None:
        """Drop what is older than its retention, and messages nobody refers to any more."""
        now_us = self._now_us()
        with self._database.transaction() as db:
            for subscription in self._subscriptions.all():
                db.execute(
                    "DELETE FROM deliveries WHERE subscription = ? AND published_us <= ?",
                    (subscription.name, self._oldest_us(subscription)),
                )
            kept = {
                row["name"]: duration_us(Topic.FromString(row["config"]).message_retention_duration)
                for row in db.execute("SELECT name, config FROM topics")
            }
            for row in db.execute("SELECT DISTINCT topic FROM messages").fetchall():
                db.execute(
                    "DELETE FROM messages WHERE topic = ? AND published_us <= ? AND NOT EXISTS"
                    " (SELECT 1 FROM deliveries WHERE message_id = messages.id)",
                    (row["topic"], now_us - kept.get(row["topic"], 0)),
                )

    def _hand_out(
        self, subscription: Any, row: sqlite3.Row, until_us: int, holder: str | None
    ) -> Leased:
        attempt, lease = row["attempts"] + 1, row["lease"] + 1
        with self._database.transaction() as db:
            db.execute(
                "UPDATE deliveries SET attempts = ?, lease = ?, holder = ?"
                " WHERE subscription = ? AND message_id = ?",
                (attempt, lease, holder, subscription.name, row["message_id"]),
            )
            self._hold(subscription, {**row, "attempts": attempt}, until_us)
        ack_id = f"{subscription.name}:{row['message_id']}-{lease}"
        return Leased(ack_id, self._message(row["message_id"]), attempt, row["size"])

    def _hold(self, subscription: Any, row: Any, until_us: int) -> None:
        """Keep a message leased until `until_us`; free after its rest, or then to be buried."""
        free_us = until_us
        if not self._exhausted(subscription, row["attempts"]):
            free_us += backoff_us(retry_policy_of(subscription), row["attempts"])
        with self._database.transaction() as db:
            db.execute(
                "UPDATE deliveries SET available_us = ?, leased_until_us = ?"
                " WHERE subscription = ? AND message_id = ?",
                (free_us, until_us, subscription.name, row["message_id"]),
            )

    def _give_back(self, subscription: Any, row: sqlite3.Row) -> None:
        """End a lease; the message is free after its rest."""
        free_us = self._now_us() + backoff_us(retry_policy_of(subscription), row["attempts"])
        with self._database.transaction() as db:
            db.execute(
                "UPDATE deliveries SET available_us = ?, leased_until_us = NULL, holder = NULL"
                " WHERE subscription = ? AND message_id = ?",
                (free_us, subscription.name, row["message_id"]),
            )

    def _finish(self, subscription: Any, number: int) -> None:
        key = (subscription.name, number)
        with self._database.transaction() as db:
            if subscription.retain_acked_messages:
                db.execute(
                    "UPDATE deliveries SET acked_us = ?, holder = NULL, leased_until_us = NULL"
                    " WHERE subscription = ? AND message_id = ? AND acked_us IS NULL",
                    (self._now_us(), *key),
                )
            else:
                db.execute("DELETE FROM deliveries WHERE subscription = ? AND message_id = ?", key)

    def _exhausted(self, subscription: Any, attempts: int) -> bool:
        policy = subscription.dead_letter_policy
        return bool(policy.dead_letter_topic) and attempts >= policy.max_delivery_attempts

    def _bury_exhausted(self, subscription: Any) -> None:
        if not subscription.HasField("dead_letter_policy"):
            return
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT * FROM deliveries WHERE subscription = ? AND acked_us IS NULL"
                " AND available_us <= ? AND attempts >= ? ORDER BY message_id",
                (
                    subscription.name,
                    self._now_us(),
                    subscription.dead_letter_policy.max_delivery_attempts,
                ),
            ).fetchall()
            for row in rows:
                self._bury(subscription, row)

    def _bury(self, subscription: Any, row: sqlite3.Row) -> bool:
        """Forward an exhausted message to the dead-letter topic; False leaves it in delivery.

        Forwarding and acknowledging are one commit, so a kill in between repeats neither.
        """
        if not self._exhausted(subscription, row["attempts"]):
            return False
        message = self._message(row["message_id"])
        published = datetime.fromtimestamp(row["published_us"] / SECOND_US, UTC)
        message.attributes.update(
            {
                "CloudPubSubDeadLetterSourceDeliveryCount": str(row["attempts"]),
                "CloudPubSubDeadLetterSourceSubscription": short_name(subscription.name),
                "CloudPubSubDeadLetterSourceSubscriptionProject": project_of(subscription.name),
                "CloudPubSubDeadLetterSourceTopicPublishTime": published.isoformat(
                    timespec="milliseconds"
                ),
            }
        )
        with self._database.transaction():
            if not self._topics.forward(subscription.dead_letter_policy.dead_letter_topic, message):
                return False
            self._finish(subscription, row["message_id"])
        return True

    def _message(self, number: int) -> Any:
        row = self._database.row("SELECT body FROM messages WHERE id = ?", number)
        assert row is not None, f"delivery of message {number}, which was purged"
        return PubsubMessage.FromString(row["body"])

    def _oldest_us(self, subscription: Any) -> int:
        return self._now_us() - duration_us(subscription.message_retention_duration)

    def _replay_from_topic(self, subscription: Any, moment_us: int) -> None:
        """Put back what the topic's own retention still holds and this subscription does not."""
        with self._database.transaction() as db:
            if not self._topics.exists(subscription.topic):
                return
            topic = self._topics.get(subscription.topic)
            since_us = self._now_us() - duration_us(topic.message_retention_duration)
            rows = db.execute(
                "SELECT id, body, published_us FROM messages WHERE topic = ?"
                " AND published_us >= ? AND published_us > ? AND NOT EXISTS (SELECT 1 FROM"
                " deliveries WHERE subscription = ? AND message_id = messages.id)",
                (subscription.topic, moment_us, since_us, subscription.name),
            ).fetchall()
            for row in rows:
                message = PubsubMessage.FromString(row["body"])
                if not parse_filter(subscription.filter)(message.attributes):
                    continue
                key = message.ordering_key if subscription.enable_message_ordering else ""
                db.execute(
                    "INSERT INTO deliveries (subscription, message_id, ordering_key, size,"
                    " published_us, available_us, attempts, lease) VALUES (?, ?, ?, ?, ?, ?, 0, 0)",
                    (
                        subscription.name,
                        row["id"],
                        key,
                        len(row["body"]),
                        row["published_us"],
                        self._now_us(),
                    ),
                )


def _parse(subscription: str, ack_id: str) -> tuple[int, int]:
    """Return message number and lease number of an ack id of `subscription`."""
    match = _ACK_ID.fullmatch(ack_id)
    if match is None:
        raise InvalidArgument(f"Invalid ack id (ack_id={ack_id})")
    if match["owner"] != subscription:
        raise InvalidArgument(
            f"ack id {ack_id} belongs to another subscription than {subscription}"
        )
    return int(match["number"]), int(match["lease"])
