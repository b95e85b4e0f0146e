"""One Pub/Sub as a test sees it: Google's unmodified clients and a project of the test's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.cloud import pubsub
from google.cloud.pubsub_v1.subscriber.message import Message
from google.pubsub_v1 import SchemaServiceClient

TIMEOUT_S = 20


@dataclass(frozen=True)
class Cloud:
    """Clients and short ways to make things; names are given without their project."""

    project: str
    publisher: pubsub.PublisherClient
    subscriber: pubsub.SubscriberClient
    schemas: SchemaServiceClient

    def topic(self, name: str = "events") -> str:
        """Return the full name of a topic."""
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str = "worker") -> str:
        """Return the full name of a subscription."""
        return f"projects/{self.project}/subscriptions/{name}"

    def make_topic(self, name: str = "events", **fields: Any) -> str:
        """Create a topic and return its full name."""
        made = self.publisher.create_topic(request={"name": self.topic(name), **fields})
        return str(made.name)

    def make_subscription(self, name: str = "worker", topic: str = "events", **fields: Any) -> str:
        """Create a subscription and return its full name."""
        made = self.subscriber.create_subscription(
            request={"name": self.subscription(name), "topic": self.topic(topic), **fields}
        )
        return str(made.name)

    def publish(self, *data: bytes, topic: str = "events", **attributes: str) -> list[str]:
        """Publish each of `data` and return the message ids."""
        futures = [self.publisher.publish(self.topic(topic), entry, **attributes) for entry in data]
        return [future.result(TIMEOUT_S) for future in futures]

    def pull(self, name: str = "worker", count: int = 1, most: int = 100) -> list[Any]:
        """Pull until `count` messages came and return them, not acknowledged."""
        received: list[Any] = []
        deadline = time.monotonic() + TIMEOUT_S
        while len(received) < count:
            assert time.monotonic() < deadline, f"{len(received)} of {count} messages came"
            answer = self.subscriber.pull(
                request={"subscription": self.subscription(name), "max_messages": most},
                timeout=TIMEOUT_S,
            )
            received.extend(answer.received_messages)
        return received

    def pull_now(self, name: str = "worker") -> list[Any]:
        """Return what is free at this moment."""
        request = {
            "subscription": self.subscription(name),
            "max_messages": 100,
            "return_immediately": True,
        }
        with pytest.warns(DeprecationWarning, match="return_immediately"):
            return list(self.subscriber.pull(request=request).received_messages)

    def acknowledge(self, *received: Any, name: str = "worker") -> None:
        """Acknowledge received messages."""
        self.subscriber.acknowledge(
            subscription=self.subscription(name), ack_ids=[entry.ack_id for entry in received]
        )

    def extend(self, *received: Any, deadline_s: int, name: str = "worker") -> None:
        """Move the deadlines of received messages; 0 gives them back."""
        self.subscriber.modify_ack_deadline(
            subscription=self.subscription(name),
            ack_ids=[entry.ack_id for entry in received],
            ack_deadline_seconds=deadline_s,
        )


@contextmanager
def connected(address: str, project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Connect as a program would: through the environment's PUBSUB_EMULATOR_HOST."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    with grpc.insecure_channel(address) as channel:
        transport = SchemaServiceClient.get_transport_class("grpc")
        publisher = pubsub.PublisherClient(
            publisher_options=pubsub.types.PublisherOptions(enable_message_ordering=True)
        )
        subscriber = pubsub.SubscriberClient()
        yield Cloud(
            project,
            publisher,
            subscriber,
            SchemaServiceClient(transport=transport(channel=channel)),
        )
        publisher.stop()
        publisher.transport.close()
        subscriber.close()


@contextmanager
def subscribed(
    cloud: Cloud,
    subscription: str,
    work: Callable[[Message], None],
    limits: pubsub.types.FlowControl | tuple[()] = (),
) -> Iterator[None]:
    """Run a streaming pull that gives every message to `work`, and end it in good order."""
    pull = cloud.subscriber.subscribe(subscription, work, flow_control=limits)
    try:
        yield
    finally:
        pull.cancel()
        pull.result(TIMEOUT_S)


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true answer of `condition`; fail with `what` when none comes in time."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"it never came to this: {what}"
        time.sleep(0.02)
