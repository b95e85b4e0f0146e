"""Pub/Sub: topics, schemas and subscriptions over gRPC, kept in SQLite, pushed over HTTP.

service.py      the object that the local cloud starts and stops
publisher.py, subscriber.py, schema_service.py, rpc.py
                how it is spoken to (google.pubsub.v1)
topics.py, subscriptions.py, schemas.py, filters.py, names.py
                what a resource may be, and where it is kept
deliveries.py, backoff.py, bells.py
                who gets which message when, until it is acknowledged or dead
push.py         HTTP delivery
storage.py      the tables
"""

from localcloud.pubsub.service import PubSub

__all__ = ["PubSub"]
