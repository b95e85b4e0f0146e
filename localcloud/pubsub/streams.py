"""One StreamingPull: what its client asked for, and what it is still working on."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import grpc

from localcloud.pubsub.bells import Bell
from localcloud.pubsub.deliveries import Deliveries, Leased
from localcloud.pubsub.errors import InvalidArgument, Refusal
from localcloud.pubsub.rpc import refuse_unknown_fields
from localcloud.pubsub.subscriptions import MAX_ACK_DEADLINE_S, check_ack_deadline

# A stream that is full looks again at least this often: leases that run out make room silently.
FULL_RECHECK_S = 1.0
_ONLY_AT_FIRST = (
    "subscription", "max_outstanding_messages", "max_outstanding_bytes", "protocol_version",
)  # fmt: skip


class Stream:
    """Leases messages for one client within the limits it set, and takes its acknowledgements."""

    def __init__(self, first: Any, deliveries: Deliveries, bell: Bell) -> None:
        refuse_unknown_fields(first)
        check_ack_deadline(first.stream_ack_deadline_seconds)
        self._name = first.subscription
        self._deadline_s = first.stream_ack_deadline_seconds
        self._max_messages = first.max_outstanding_messages
        self._max_bytes = first.max_outstanding_bytes
        self._deliveries = deliveries
        self._bell = bell
        self._holder = uuid.uuid4().hex
        self._full = False
        self.closed = False
        self.error: Refusal | None = None
        self._apply(first)

    def read_in_background(self, requests: Iterator[Any]) -> None:
        """Carry out the client's further requests in a thread of their own."""
        threading.Thread(
            target=self._read, args=(requests,), name=f"stream {self._name}", daemon=True
        ).start()

    def close(self) -> None:
        """End the stream; what its client holds stays leased until the deadline."""
        self.closed = True
        self._bell.ring()

    def lease(self, count: int, size: int) -> list[Leased]:
        """Hand out what the client has room for: at most `count` messages, about `size` bytes."""
        messages, held = self._deliveries.outstanding(self._name, self._holder)
        if self._max_messages > 0:
            count = min(count, self._max_messages - messages)
        if self._max_bytes > 0:
            size = min(size, self._max_bytes - held)
        self._full = count <= 0 or size <= 0
        if self._full:
            return []
        return self._deliveries.lease(self._name, count, size, self._deadline_s, self._holder)

    def patience_s(self) -> float | None:
        """Return how long to wait, without a ring of the bell, before leasing again."""
        free_s = self._deliveries.next_free_s(self._name)
        # A message may be free that there is no room for: then the clock decides.
        return FULL_RECHECK_S if self._full else free_s

    def _read(self, requests: Iterator[Any]) -> None:
        try:
            for request in requests:
                self._check_later(request)
                self._apply(request)
        except Refusal as refusal:
            self.error = refusal
            self._bell.ring()
            return
        except grpc.RpcError:
            pass  # The client hung up: the end of a stream, not an error.
        self.close()

    def _check_later(self, request: Any) -> None:
        refuse_unknown_fields(request)
        for field in _ONLY_AT_FIRST:
            if getattr(request, field):
                raise InvalidArgument(f"{field} may only be set in a stream's first request")

    def _apply(self, request: Any) -> None:
        if request.stream_ack_deadline_seconds:
            check_ack_deadline(request.stream_ack_deadline_seconds)
            self._deadline_s = request.stream_ack_deadline_seconds
        if request.ack_ids:
            self._deliveries.acknowledge(self._name, request.ack_ids)
        deadlines = request.modify_deadline_seconds
        if len(deadlines) != len(request.modify_deadline_ack_ids):
            raise InvalidArgument(
                "modify_deadline_seconds and modify_deadline_ack_ids differ in length"
            )
        for deadline_s, ack_id in zip(deadlines, request.modify_deadline_ack_ids, strict=True):
            if not 0 <= deadline_s <= MAX_ACK_DEADLINE_S:
                raise InvalidArgument(f"modify_deadline_seconds of {deadline_s}: expected 0 to 600")
            self._deliveries.extend(self._name, [ack_id], deadline_s)
