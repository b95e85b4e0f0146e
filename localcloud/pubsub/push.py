"""HTTP delivery: posts each message to the subscription's endpoint until it is accepted.

Source: cloud.google.com/pubsub/docs/push.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import sqlite3
import threading
import time
from typing import Any

import requests

from localcloud.identity import Identity
from localcloud.pubsub.bells import Bells
from localcloud.pubsub.deliveries import Deliveries, Leased
from localcloud.pubsub.errors import Refusal
from localcloud.pubsub.subscriptions import Subscriptions

ACKNOWLEDGED = frozenset({102, 200, 201, 202, 204})
# At most this many requests under way a subscription.
CONCURRENCY = 8
# A lease outlives the request it is for, so that nobody repeats one that is still under way.
LEASE_MARGIN_S = 15
STOP_GRACE_S = 5

log = logging.getLogger(__name__)


class PushFleet:
    """One worker a push subscription, so that a slow endpoint holds up nobody else's."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        deliveries: Deliveries,
        bells: Bells,
        identity: Identity,
    ) -> None:
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._bells = bells
        self._identity = identity
        self._lock = threading.Lock()
        self._workers: dict[str, PushWorker] = {}
        self._running = False

    def start(self) -> None:
        """Begin to push; what was under way when the process died is pushed again."""
        for subscription in self._subscriptions.all():
            if _is_push(subscription):
                self._deliveries.release_leases(subscription.name)
        self._running = True
        self.reconcile()

    def reconcile(self) -> None:
        """Give every push subscription a worker and end those that lost theirs."""
        with self._lock:
            if not self._running:
                return
            wanted = {entry.name for entry in self._subscriptions.all() if _is_push(entry)}
            for name in self._workers.keys() - wanted:
                self._workers.pop(name).ask_to_stop()
            for name in wanted - self._workers.keys():
                worker = PushWorker(
                    name, self._subscriptions, self._deliveries, self._bells, self._identity
                )
                self._workers[name] = worker
                worker.start()

    def stop(self) -> None:
        """End the workers; requests still under way after a few seconds are left behind.

        Their messages stay leased and are pushed again after the next start.
        """
        with self._lock:
            self._running = False
            workers = list(self._workers.values())
            self._workers.clear()
        for worker in workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + STOP_GRACE_S
        for worker in workers:
            worker.wait_until_idle(deadline)


class PushWorker:
    """Leases a subscription's messages one by one and posts up to CONCURRENCY at a time."""

    def __init__(
        self,
        name: str,
        subscriptions: Subscriptions,
        deliveries: Deliveries,
        bells: Bells,
        identity: Identity,
    ) -> None:
        self._name = name
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._bell = bells.of(name)
        self._identity = identity
        self._slots = threading.BoundedSemaphore(CONCURRENCY)
        self._stopping = threading.Event()
        self._dispatcher = threading.Thread(target=self._dispatch, name=f"push {name}", daemon=True)

    def start(self) -> None:
        """Begin to dispatch."""
        self._dispatcher.start()

    def ask_to_stop(self) -> None:
        """Lease nothing more."""
        self._stopping.set()
        self._bell.ring()

    def wait_until_idle(self, deadline: float) -> None:
        """Wait for the requests under way, at most until `deadline` (monotonic seconds)."""
        self._dispatcher.join(max(0.0, deadline - time.monotonic()))
        for _ in range(CONCURRENCY):
            if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
                log.warning("push requests of %s are still under way", self._name)
                return

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            if not self._slots.acquire(timeout=1):
                continue
            if not self._dispatch_next():
                self._slots.release()

    def _dispatch_next(self) -> bool:
        """Start one delivery in a thread of its own, which frees the slot; False: none was due."""
        seen = self._bell.rung
        if self._stopping.is_set():
            return False
        try:
            subscription = self._subscriptions.get(self._name)
            leased = self._deliveries.lease(
                self._name,
                count=1,
                size=0,
                deadline_s=subscription.ack_deadline_seconds + LEASE_MARGIN_S,
            )
            if not leased:
                self._bell.wait(seen, self._deliveries.next_free_s(self._name))
                return False
        except Refusal:
            # Deleted or detached just now; whoever did it also ends this worker.
            self._stopping.wait(0.1)
            return False
        threading.Thread(
            target=self._deliver, args=(subscription, leased[0]), name=f"post {self._name}",
            daemon=True,
        ).start()  # fmt: skip
        return True

    def _deliver(self, subscription: Any, leased: Leased) -> None:
        try:
            accepted = self._post(subscription, leased)
            # The subscription may be gone by now, and after stop() the database closed:
            # either way there is nobody left to tell.
            with contextlib.suppress(Refusal, sqlite3.ProgrammingError):
                if accepted:
                    self._deliveries.acknowledge(self._name, [leased.ack_id])
                else:
                    self._deliveries.extend(self._name, [leased.ack_id], 0)
        finally:
            self._slots.release()

    def _post(self, subscription: Any, leased: Leased) -> bool:
        """Say whether the endpoint accepted the message within the ack deadline."""
        config = subscription.push_config
        headers = {
            "Content-Type": "application/json",
            "User-Agent": (
                "APIs-Google; (+https://developers.google.com/webmasters/APIs-Google.html)"
            ),
        }
        if config.oidc_token.service_account_email:
            audience = config.oidc_token.audience or config.push_endpoint
            token = self._identity.mint(audience, config.oidc_token.service_account_email)
            headers["Authorization"] = f"Bearer {token}"
        with requests.Session() as session:
            # A proxy of the environment is for the world outside, not for loopback.
            session.trust_env = False
            try:
                answer = session.post(
                    config.push_endpoint,
                    data=push_body(subscription, leased),
                    headers=headers,
                    timeout=subscription.ack_deadline_seconds,
                    allow_redirects=False,
                    stream=True,
                )
            except requests.RequestException as error:
                log.warning(
                    "push of message %s on %s failed: %s",
                    leased.message.message_id, self._name, error,
                )  # fmt: skip
                return False
            if answer.status_code not in ACKNOWLEDGED:
                log.warning(
                    "push of message %s on %s was answered with %d",
                    leased.message.message_id, self._name, answer.status_code,
                )  # fmt: skip
            return answer.status_code in ACKNOWLEDGED


def push_body(subscription: Any, leased: Leased) -> bytes:
    """Return the wrapped JSON body of a push request.

    Names come in both spellings, as Google sends them; empty fields are left out.
    """
    message = leased.message
    published = message.publish_time.ToJsonString()
    wrapped: dict[str, Any] = {
        "messageId": message.message_id,
        "message_id": message.message_id,
        "publishTime": published,
        "publish_time": published,
    }
    if message.data:
        wrapped["data"] = base64.b64encode(message.data).decode()
    if message.attributes:
        wrapped["attributes"] = dict(message.attributes)
    if message.ordering_key:
        wrapped["orderingKey"] = message.ordering_key
    body: dict[str, Any] = {"message": wrapped, "subscription": subscription.name}
    if subscription.HasField("dead_letter_policy"):
        body["deliveryAttempt"] = leased.attempt
    return json.dumps(body).encode()


def _is_push(subscription: Any) -> bool:
    return bool(subscription.push_config.push_endpoint) and not subscription.detached
