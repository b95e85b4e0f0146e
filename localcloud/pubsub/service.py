"""Pub/Sub as the local cloud starts and stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from localcloud.database import Database
from localcloud.identity import Identity
from localcloud.pubsub.bells import Bells
from localcloud.pubsub.deliveries import Deliveries
from localcloud.pubsub.publisher import Publisher
from localcloud.pubsub.push import PushFleet
from localcloud.pubsub.schema_service import SchemaService
from localcloud.pubsub.schemas import Schemas
from localcloud.pubsub.storage import SCHEMA
from localcloud.pubsub.subscriber import Subscriber
from localcloud.pubsub.subscriptions import Subscriptions
from localcloud.pubsub.topics import Topics

BURY_EVERY_S = 1.0
PURGE_EVERY_S = 60.0


def _now_us() -> int:
    return time.time_ns() // 1000


class PubSub:
    """Publisher, Subscriber and SchemaService over one SQLite file in `folder`.

    The gRPC server must accept messages of up to 10 MB
    (`grpc.max_receive_message_length`, whose default is 4 MB).
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._database = Database(folder / "pubsub.sqlite", SCHEMA)
        bells = Bells()
        schemas = Schemas(self._database, _now_us)
        topics = Topics(self._database, schemas, bells, _now_us)
        self._subscriptions = Subscriptions(self._database, topics, bells, _now_us)
        self._deliveries = Deliveries(self._database, topics, self._subscriptions, bells, _now_us)
        self._fleet = PushFleet(self._subscriptions, self._deliveries, bells, identity)
        self._publisher = Publisher(topics, self._subscriptions, self._fleet)
        self._subscriber = Subscriber(self._subscriptions, self._deliveries, bells, self._fleet)
        self._schema_service = SchemaService(self._database, schemas, topics)
        self._stopping = threading.Event()
        self._housekeeper = threading.Thread(
            target=self._keep_house, name="pubsub housekeeping", daemon=True
        )

    def grpc_handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the three services."""
        return (
            self._publisher.handler(),
            self._subscriber.handler(),
            self._schema_service.handler(),
        )

    def start(self) -> None:
        """Begin to push, to bury dead letters and to drop what is too old."""
        # Time in which the cloud did not run is nobody's neglect: it expires no subscription.
        self._subscriptions.mark_active()
        self._fleet.start()
        self._housekeeper.start()

    def stop(self) -> None:
        """End streams, waiting pulls, pushes and threads; everything acknowledged is on disk."""
        self._stopping.set()
        self._subscriber.stop()
        self._fleet.stop()
        self._housekeeper.join()
        self._database.close()

    def _keep_house(self) -> None:
        next_purge = time.monotonic()
        while not self._stopping.wait(BURY_EVERY_S):
            self._deliveries.bury_all_exhausted()
            if time.monotonic() >= next_purge:
                if self._subscriptions.delete_expired():
                    self._fleet.reconcile()
                self._deliveries.purge()
                next_purge = time.monotonic() + PURGE_EVERY_S
