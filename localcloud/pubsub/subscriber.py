"""google.pubsub.v1.Subscriber over gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from localcloud.pubsub.bells import Bells
from localcloud.pubsub.deliveries import Deliveries, Leased
from localcloud.pubsub.errors import FailedPrecondition, InvalidArgument, Unavailable
from localcloud.pubsub.push import PushFleet
from localcloud.pubsub.rpc import (
    SECOND_US,
    ReceivedMessage,
    Subscription,
    service,
    streaming,
    unary,
)
from localcloud.pubsub.streams import Stream
from localcloud.pubsub.subscriptions import MAX_ACK_DEADLINE_S, Subscriptions

# How long Pull waits for a first message; Google answers empty after a while, too.
MAX_PULL_WAIT_S = 30.0
MAX_PULL_MESSAGES = 1000
# Bytes of messages in one answer: with PUBSUB_EMULATOR_HOST set, Google's client takes gRPC's
# default of 4 MiB. One message alone may exceed it, as it may be as large as 10 MB.
MAX_ANSWER_BYTES = 3_500_000


class Subscriber:
    """Decodes requests, calls subscriptions and deliveries, encodes answers."""

    def __init__(
        self, subscriptions: Subscriptions, deliveries: Deliveries, bells: Bells, fleet: PushFleet
    ) -> None:
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._bells = bells
        self._fleet = fleet
        self._stopping = False

    def stop(self) -> None:
        """End every waiting Pull and every stream, so that their clients connect again."""
        self._stopping = True
        self._bells.ring_all()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the service's methods."""
        return service(
            "google.pubsub.v1.Subscriber",
            {
                "CreateSubscription": unary(self._create, types.Subscription),
                "GetSubscription": unary(
                    lambda request, _: self._subscriptions.get(request.subscription),
                    types.GetSubscriptionRequest,
                ),
                "UpdateSubscription": unary(self._update, types.UpdateSubscriptionRequest),
                "ListSubscriptions": unary(self._list, types.ListSubscriptionsRequest),
                "DeleteSubscription": unary(self._delete, types.DeleteSubscriptionRequest),
                "ModifyPushConfig": unary(self._modify_push, types.ModifyPushConfigRequest),
                "Pull": unary(self._pull, types.PullRequest),
                "StreamingPull": streaming(self._streaming_pull, types.StreamingPullRequest),
                "Acknowledge": unary(self._acknowledge, types.AcknowledgeRequest),
                "ModifyAckDeadline": unary(self._extend, types.ModifyAckDeadlineRequest),
                "Seek": unary(self._seek, types.SeekRequest),
            },
            {
                method: f"snapshots (Subscriber.{method})"
                for method in (
                    "GetSnapshot", "ListSnapshots", "CreateSnapshot", "UpdateSnapshot",
                    "DeleteSnapshot",
                )
            },
        )  # fmt: skip

    def _create(self, request: Any, _context: grpc.ServicerContext) -> Any:
        made = self._subscriptions.create(request)
        self._fleet.reconcile()
        return made

    def _update(self, request: Any, _context: grpc.ServicerContext) -> Any:
        changed = self._subscriptions.update(request.subscription, list(request.update_mask.paths))
        self._fleet.reconcile()
        return changed

    def _modify_push(self, request: Any, _context: grpc.ServicerContext) -> Any:
        changed = Subscription(name=request.subscription, push_config=request.push_config)
        self._subscriptions.update(changed, ["push_config"])
        self._fleet.reconcile()
        return empty_pb2.Empty()

    def _list(self, request: Any, _context: grpc.ServicerContext) -> Any:
        found, token = self._subscriptions.list_page(
            request.project, request.page_size, request.page_token
        )
        return types.ListSubscriptionsResponse.pb()(subscriptions=found, next_page_token=token)

    def _delete(self, request: Any, _context: grpc.ServicerContext) -> Any:
        self._subscriptions.delete(request.subscription)
        self._fleet.reconcile()
        return empty_pb2.Empty()

    def _acknowledge(self, request: Any, _context: grpc.ServicerContext) -> Any:
        _require_ack_ids(request.ack_ids)
        self._deliveries.acknowledge(request.subscription, request.ack_ids)
        return empty_pb2.Empty()

    def _extend(self, request: Any, _context: grpc.ServicerContext) -> Any:
        _require_ack_ids(request.ack_ids)
        if not 0 <= request.ack_deadline_seconds <= MAX_ACK_DEADLINE_S:
            raise InvalidArgument(
                f"ack_deadline_seconds is {request.ack_deadline_seconds}; expected 0 to "
                f"{MAX_ACK_DEADLINE_S}"
            )
        self._deliveries.extend(request.subscription, request.ack_ids, request.ack_deadline_seconds)
        return empty_pb2.Empty()

    def _seek(self, request: Any, _context: grpc.ServicerContext) -> Any:
        target = request.WhichOneof("target")
        if target != "time":
            raise InvalidArgument("Seek needs a time; the local Pub/Sub has no snapshots")
        moment_us = request.time.seconds * SECOND_US + request.time.nanos // 1000
        self._deliveries.seek(request.subscription, moment_us)
        return types.SeekResponse.pb()()

    def _pull(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.max_messages <= 0:
            raise InvalidArgument("No max_messages specified: expected at least 1")
        self._require_pull(request.subscription)
        count = min(request.max_messages, MAX_PULL_MESSAGES)
        bell = self._bells.of(request.subscription)
        context.add_callback(bell.ring)
        # Answering a little before the client gives up spares it an error.
        wait_s = min(MAX_PULL_WAIT_S, (context.time_remaining() or MAX_PULL_WAIT_S) - 1.0)
        deadline = time.monotonic() + (0 if request.return_immediately else max(0.0, wait_s))
        while True:
            seen = bell.rung
            # Nothing is leased for a client that has hung up: it could not be answered.
            if self._stopping or not context.is_active():
                raise Unavailable("the local Pub/Sub is stopping, or the client is gone")
            leased = self._deliveries.lease(request.subscription, count, MAX_ANSWER_BYTES)
            remaining_s = deadline - time.monotonic()
            if leased or remaining_s <= 0:
                break
            free_s = self._deliveries.next_free_s(request.subscription)
            bell.wait(seen, remaining_s if free_s is None else min(free_s, remaining_s))
        self._subscriptions.mark_active(request.subscription)
        return types.PullResponse.pb()(
            received_messages=self._received(request.subscription, leased)
        )

    def _streaming_pull(
        self, requests: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        first = next(requests, None)
        if first is None:
            return
        subscription = self._require_pull(first.subscription)
        bell = self._bells.of(first.subscription)
        stream = Stream(first, self._deliveries, bell)
        stream.read_in_background(requests)
        if not context.add_callback(stream.close):
            return  # The client is gone already.
        while not stream.closed:
            if self._stopping:
                raise Unavailable("the local Pub/Sub is stopping")
            seen = bell.rung
            if stream.error is not None:
                raise stream.error
            leased = stream.lease(MAX_PULL_MESSAGES, MAX_ANSWER_BYTES)
            if not leased:
                bell.wait(seen, stream.patience_s())
                continue
            self._subscriptions.mark_active(first.subscription)
            yield types.StreamingPullResponse.pb()(
                received_messages=self._received(first.subscription, leased),
                subscription_properties={
                    "message_ordering_enabled": subscription.enable_message_ordering
                },
            )

    def _require_pull(self, name: str) -> Any:
        subscription = self._subscriptions.attached(name)
        if subscription.push_config.push_endpoint:
            raise FailedPrecondition(
                f"{name} is a push subscription: clear its push_config to pull from it"
            )
        return subscription

    def _received(self, name: str, leased: Sequence[Leased]) -> list[Any]:
        # The attempt is told only where a dead-letter policy counts it.
        counted = self._subscriptions.get(name).HasField("dead_letter_policy")
        return [
            ReceivedMessage(
                ack_id=entry.ack_id,
                message=entry.message,
                delivery_attempt=entry.attempt if counted else 0,
            )
            for entry in leased
        ]


def _require_ack_ids(ack_ids: Sequence[str]) -> None:
    if not ack_ids:
        raise InvalidArgument("No ack ids specified.")
