"""Subscriptions: what they may declare, and where that is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit

from localcloud.database import Database
from localcloud.pubsub.backoff import (
    AT_ONCE,
    DEFAULT_POLICY,
    DEFAULT_PUSH,
    MAX_BACKOFF_S,
    RetryPolicy,
)
from localcloud.pubsub.bells import Bells
from localcloud.pubsub.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unimplemented,
)
from localcloud.pubsub.filters import parse_filter
from localcloud.pubsub.names import check_labels, check_name, check_project
from localcloud.pubsub.rpc import (
    SECOND_US,
    Subscription,
    check_mask,
    copy_fields,
    duration_us,
    page,
    refuse_unsupported,
)
from localcloud.pubsub.topics import MAX_RETENTION_US, MIN_RETENTION_US, Topics

MIN_ACK_DEADLINE_S, MAX_ACK_DEADLINE_S = 10, 600
MIN_ATTEMPTS, MAX_ATTEMPTS = 5, 100
DAY_S = 86_400
DEFAULT_RETENTION_S = 7 * DAY_S
DEFAULT_EXPIRATION_S = 31 * DAY_S

_MUTABLE = (
    "ack_deadline_seconds",
    "push_config",
    "retain_acked_messages",
    "message_retention_duration",
    "labels",
    "expiration_policy",
    "dead_letter_policy",
    "retry_policy",
)
_FIXED = ("name", "topic", "filter", "enable_message_ordering")
_OUTPUT_ONLY = (
    "detached",
    "state",
    "topic_message_retention_duration",
    "analytics_hub_subscription_info",
)


class Subscriptions:
    """The subscriptions of all projects."""

    def __init__(
        self, database: Database, topics: Topics, bells: Bells, now_us: Callable[[], int]
    ) -> None:
        self._database = database
        self._topics = topics
        self._bells = bells
        self._now_us = now_us

    def create(self, subscription: Any) -> Any:
        """Store a subscription with its defaults filled in; it gets what is published from now."""
        check_name(subscription.name, "subscriptions")
        made = Subscription()
        made.CopyFrom(subscription)
        for field in _OUTPUT_ONLY:
            made.ClearField(field)
        with self._database.transaction() as db:
            # A repeated create finds the first one and changes nothing.
            if self._find(made.name) is not None:
                raise AlreadyExists("Subscription", made.name)
            self._topics.get(made.topic)
            self._check(made)
            made.state = Subscription.ACTIVE
            db.execute(
                "INSERT INTO subscriptions VALUES (?, ?, ?, ?)",
                (made.name, made.topic, made.SerializeToString(), self._now_us()),
            )
        return made

    def get(self, name: str) -> Any:
        """Return the subscription `name`."""
        found = self._find(check_name(name, "subscriptions"))
        if found is None:
            raise NotFound("Subscription", name)
        return found

    def attached(self, name: str) -> Any:
        """Return the subscription `name`; FailedPrecondition when it is detached."""
        found = self.get(name)
        if found.detached:
            raise FailedPrecondition(f"Subscription is detached (resource={name})")
        return found

    def all(self) -> list[Any]:
        """Return every subscription there is."""
        rows = self._database.rows("SELECT config FROM subscriptions ORDER BY name")
        return [Subscription.FromString(row["config"]) for row in rows]

    def update(self, subscription: Any, paths: Collection[str]) -> Any:
        """Set the fields `paths` to what `subscription` says, and return all of it."""
        check_mask(paths, subscription, _MUTABLE, (*_FIXED, *_OUTPUT_ONLY))
        with self._database.transaction():
            changed = self.get(subscription.name)
            copy_fields(paths, subscription, changed)
            self._check(changed)
            # Repeating it writes the same values again.
            self._save(changed)
        self._bells.of(changed.name).ring()
        return changed

    def detach(self, name: str) -> None:
        """Cut a subscription off from its topic and drop its backlog; repeating changes nothing."""
        with self._database.transaction() as db:
            changed = self.get(name)
            changed.detached = True
            self._save(changed)
            db.execute("DELETE FROM deliveries WHERE subscription = ?", (name,))
        self._bells.of(name).ring()

    def delete(self, name: str) -> None:
        """Remove a subscription and its backlog."""
        with self._database.transaction() as db:
            self.get(name)
            db.execute("DELETE FROM deliveries WHERE subscription = ?", (name,))
            db.execute("DELETE FROM subscriptions WHERE name = ?", (name,))
        self._bells.of(name).ring()

    def list_page(self, project: str, page_size: int, page_token: str) -> tuple[list[Any], str]:
        """Return a page of a project's subscriptions by name, and the next page's token."""
        prefix, limit = f"{check_project(project)}/subscriptions/", page(page_size)
        rows = self._database.rows(
            "SELECT config FROM subscriptions WHERE name GLOB ? AND name > ? ORDER BY name LIMIT ?",
            prefix + "*",
            page_token,
            limit + 1,
        )
        found = [Subscription.FromString(row["config"]) for row in rows]
        return found[:limit], found[limit - 1].name if len(found) > limit else ""

    def names_on(self, topic: str, page_size: int, page_token: str) -> tuple[list[str], str]:
        """Return a page of the names of a topic's subscriptions, and the next page's token."""
        self._topics.get(topic)
        limit = page(page_size)
        rows = self._database.rows(
            "SELECT name FROM subscriptions WHERE topic = ? AND name > ? ORDER BY name LIMIT ?",
            topic,
            page_token,
            limit + 1,
        )
        found = [row["name"] for row in rows]
        return found[:limit], found[limit - 1] if len(found) > limit else ""

    def mark_active(self, name: str | None = None) -> None:
        """Note that `name` (None: every one) is in use, which puts off its expiration."""
        now_us = self._now_us()
        with self._database.transaction() as db:
            # Once a minute is exact enough for a lifetime of at least a day.
            db.execute(
                "UPDATE subscriptions SET active_us = ?1 WHERE active_us < ?1 - ?2"
                " AND (?3 IS NULL OR name = ?3)",
                (now_us, 60 * SECOND_US, name),
            )

    def delete_expired(self) -> list[str]:
        """Delete the subscriptions unused for longer than their expiration policy allows."""
        now_us, expired = self._now_us(), []
        for row in self._database.rows("SELECT config, active_us FROM subscriptions"):
            subscription = Subscription.FromString(row["config"])
            lifetime_us = duration_us(subscription.expiration_policy.ttl)
            if lifetime_us and row["active_us"] + lifetime_us < now_us:
                with contextlib.suppress(NotFound):  # Somebody else deleted it meanwhile.
                    self.delete(subscription.name)
                expired.append(subscription.name)
        return expired

    def _find(self, name: str) -> Any | None:
        row = self._database.row("SELECT config FROM subscriptions WHERE name = ?", name)
        return None if row is None else Subscription.FromString(row["config"])

    def _save(self, subscription: Any) -> None:
        with self._database.transaction() as db:
            db.execute(
                "UPDATE subscriptions SET config = ?, active_us = ? WHERE name = ?",
                (subscription.SerializeToString(), self._now_us(), subscription.name),
            )

    def _check(self, subscription: Any) -> None:
        """Fill in Google's defaults and raise for what is wrong or not supported."""
        refuse_unsupported(subscription, (*_MUTABLE, *_FIXED), _OUTPUT_ONLY)
        check_labels(subscription.labels)
        parse_filter(subscription.filter)
        subscription.ack_deadline_seconds = subscription.ack_deadline_seconds or 10
        check_ack_deadline(subscription.ack_deadline_seconds)
        _check_push_config(subscription.push_config)
        # As Google's answers, which always carry one: an empty one means pull.
        subscription.push_config.SetInParent()
        _check_lifetimes(subscription)
        if subscription.HasField("retry_policy"):
            _check_retry_policy(subscription.retry_policy)
        if subscription.HasField("dead_letter_policy"):
            self._check_dead_letter_policy(subscription.dead_letter_policy)

    def _check_dead_letter_policy(self, policy: Any) -> None:
        self._topics.get(policy.dead_letter_topic)
        policy.max_delivery_attempts = policy.max_delivery_attempts or MIN_ATTEMPTS
        if not MIN_ATTEMPTS <= policy.max_delivery_attempts <= MAX_ATTEMPTS:
            raise OutOfRange(
                f"max_delivery_attempts is {policy.max_delivery_attempts}; expected "
                f"{MIN_ATTEMPTS} to {MAX_ATTEMPTS}"
            )


def check_ack_deadline(deadline_s: int) -> None:
    """Raise InvalidArgument unless a subscription or a stream may have this ack deadline."""
    if not MIN_ACK_DEADLINE_S <= deadline_s <= MAX_ACK_DEADLINE_S:
        raise InvalidArgument(
            f"ack deadline of {deadline_s} s: expected {MIN_ACK_DEADLINE_S} to "
            f"{MAX_ACK_DEADLINE_S} s"
        )


def retry_policy_of(subscription: Any) -> RetryPolicy:
    """Return how a subscription's messages rest after a failed delivery."""
    if subscription.HasField("retry_policy"):
        policy = subscription.retry_policy
        return RetryPolicy(duration_us(policy.minimum_backoff), duration_us(policy.maximum_backoff))
    return DEFAULT_PUSH if subscription.push_config.push_endpoint else AT_ONCE


def _check_push_config(config: Any) -> None:
    refuse_unsupported(config, {"push_endpoint", "attributes", "oidc_token", "pubsub_wrapper"})
    for key, value in config.attributes.items():
        if (key, value) != ("x-goog-version", "v1"):
            raise Unimplemented(f"PushConfig.attributes {key}={value}")
    if not config.push_endpoint:
        if config.HasField("oidc_token"):
            raise InvalidArgument("push_config.oidc_token needs a push_endpoint")
        return
    url = urlsplit(config.push_endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InvalidArgument(
            f"Unsupported push_endpoint {config.push_endpoint!r}: expected an http(s) URL"
        )
    if config.HasField("oidc_token") and not config.oidc_token.service_account_email:
        raise InvalidArgument("push_config.oidc_token needs a service_account_email")


def _check_lifetimes(subscription: Any) -> None:
    if not subscription.HasField("message_retention_duration"):
        subscription.message_retention_duration.seconds = DEFAULT_RETENTION_S
    retention_us = duration_us(subscription.message_retention_duration)
    if not MIN_RETENTION_US <= retention_us <= MAX_RETENTION_US:
        raise InvalidArgument("message_retention_duration: expected 10 minutes to 31 days")
    if not subscription.HasField("expiration_policy"):
        subscription.expiration_policy.ttl.seconds = DEFAULT_EXPIRATION_S
    # A policy without a ttl means that the subscription never expires.
    if subscription.expiration_policy.HasField("ttl"):
        lifetime_us = duration_us(subscription.expiration_policy.ttl)
        if lifetime_us < max(DAY_S * SECOND_US, retention_us):
            raise InvalidArgument(
                "expiration_policy.ttl: expected at least one day and at least the "
                "message_retention_duration"
            )


def _check_retry_policy(policy: Any) -> None:
    if not policy.HasField("minimum_backoff"):
        policy.minimum_backoff.seconds = DEFAULT_POLICY.minimum_us // SECOND_US
    if not policy.HasField("maximum_backoff"):
        policy.maximum_backoff.seconds = DEFAULT_POLICY.maximum_us // SECOND_US
    minimum_us, maximum_us = (
        duration_us(policy.minimum_backoff),
        duration_us(policy.maximum_backoff),
    )
    for name, value_us in (("minimum_backoff", minimum_us), ("maximum_backoff", maximum_us)):
        if not 0 <= value_us <= MAX_BACKOFF_S * SECOND_US:
            raise InvalidArgument(
                f"The value for {name} is out of bounds: {value_us / SECOND_US:g} s; "
                f"expected 0 to {MAX_BACKOFF_S} s"
            )
    if minimum_us > maximum_us:
        raise InvalidArgument("retry_policy: minimum_backoff is longer than maximum_backoff")
