"""google.pubsub.v1.Publisher over gRPC."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from localcloud.pubsub.push import PushFleet
from localcloud.pubsub.rpc import service, unary
from localcloud.pubsub.subscriptions import Subscriptions
from localcloud.pubsub.topics import Topics


class Publisher:
    """Decodes requests, calls topics and subscriptions, encodes answers."""

    def __init__(self, topics: Topics, subscriptions: Subscriptions, fleet: PushFleet) -> None:
        self._topics = topics
        self._subscriptions = subscriptions
        self._fleet = fleet

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the service's methods."""
        return service(
            "google.pubsub.v1.Publisher",
            {
                "CreateTopic": unary(lambda topic, _: self._topics.create(topic), types.Topic),
                "UpdateTopic": unary(self._update, types.UpdateTopicRequest),
                "Publish": unary(self._publish, types.PublishRequest),
                "GetTopic": unary(
                    lambda request, _: self._topics.get(request.topic), types.GetTopicRequest
                ),
                "ListTopics": unary(self._list, types.ListTopicsRequest),
                "ListTopicSubscriptions": unary(
                    self._list_subscriptions, types.ListTopicSubscriptionsRequest
                ),
                "DeleteTopic": unary(self._delete, types.DeleteTopicRequest),
                "DetachSubscription": unary(self._detach, types.DetachSubscriptionRequest),
            },
            {"ListTopicSnapshots": "snapshots (Publisher.ListTopicSnapshots)"},
        )

    def _update(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._topics.update(request.topic, list(request.update_mask.paths))

    def _publish(self, request: Any, _context: grpc.ServicerContext) -> Any:
        ids = self._topics.publish(request.topic, request.messages)
        return types.PublishResponse.pb()(message_ids=ids)

    def _list(self, request: Any, _context: grpc.ServicerContext) -> Any:
        topics, token = self._topics.list_page(
            request.project, request.page_size, request.page_token
        )
        return types.ListTopicsResponse.pb()(topics=topics, next_page_token=token)

    def _list_subscriptions(self, request: Any, _context: grpc.ServicerContext) -> Any:
        names, token = self._subscriptions.names_on(
            request.topic, request.page_size, request.page_token
        )
        return types.ListTopicSubscriptionsResponse.pb()(subscriptions=names, next_page_token=token)

    def _delete(self, request: Any, _context: grpc.ServicerContext) -> Any:
        self._topics.delete(request.topic)
        return empty_pb2.Empty()

    def _detach(self, request: Any, _context: grpc.ServicerContext) -> Any:
        self._subscriptions.detach(request.subscription)
        self._fleet.reconcile()
        return types.DetachSubscriptionResponse.pb()()
