"""A local cloud that notes every Firestore call: `python -m benchmarks.counted_cloud FOLDER`.

One JSON line a call in `FOLDER/firestore-calls.log`, with what it would be billed as: a read for
each document returned or found missing, at least one a query, one for every 1,000 counted; a write
or a delete for each of a commit's.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from localcloud.server import LocalCloud

CALLS = "firestore-calls.log"
_COUNTED_A_READ = 1_000


class Counted:
    """A service whose calls are noted; everything else is the service's own."""

    def __init__(self, service: Any, path: Path) -> None:
        self._service, self._path = service, path
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def grpc_handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the service's handlers, each behind a count."""
        return [_Counting(inner, self._note) for inner in self._service.grpc_handlers()]

    def _note(self, method: str, request: Any, answers: Sequence[Any]) -> None:
        billed = billed_as(method, request, answers)
        line = json.dumps({"at": time.time(), "method": method, **billed})
        with self._lock, self._path.open("a") as file:
            file.write(line + "\n")


class _Counting(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, inner: Any, note: Callable[[str, Any, Sequence[Any]], None]) -> None:
        self._inner, self._note = inner, note

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, noting what it was asked and answered."""
        handler = self._inner.service(details)
        method = str(details.method).rsplit("/", 1)[-1]
        if handler is None or handler.request_streaming:
            return handler
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:

            def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
                answers = []
                for answer in handler.unary_stream(request, context):
                    answers.append(answer)
                    yield answer
                self._note(method, request, answers)

            return grpc.unary_stream_rpc_method_handler(stream, *codecs)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            answer = handler.unary_unary(request, context)
            self._note(method, request, [answer])
            return answer

        return grpc.unary_unary_rpc_method_handler(unary, *codecs)


class CountedCloud(LocalCloud):
    """The same cloud, counting."""

    def _serve_grpc(self, address: str) -> grpc.Server:
        self._firestore: Any = Counted(self._firestore, self.folder / CALLS)
        return super()._serve_grpc(address)


def billed_as(method: str, request: Any, answers: Sequence[Any]) -> dict[str, int]:
    """Return the reads, writes and deletes of one call."""
    billed: Counter[str] = Counter(reads=0, writes=0, deletes=0)
    if method == "GetDocument":
        billed["reads"] = 1
    elif method == "BatchGetDocuments":
        billed["reads"] = sum(bool(answer.WhichOneof("result")) for answer in answers)
    elif method == "RunQuery":
        billed["reads"] = max(1, sum(answer.HasField("document") for answer in answers))
    elif method == "ListDocuments":
        billed["reads"] = max(1, sum(len(answer.documents) for answer in answers))
    elif method == "RunAggregationQuery":
        counted = max(
            (
                value.integer_value
                for answer in answers
                for value in answer.result.aggregate_fields.values()
            ),
            default=0,
        )
        billed["reads"] = max(1, -(-counted // _COUNTED_A_READ))
    elif method in ("Commit", "BatchWrite"):
        for write in request.writes:
            billed["deletes" if write.WhichOneof("operation") == "delete" else "writes"] += 1
    elif method in ("CreateDocument", "UpdateDocument"):
        billed["writes"] = 1
    elif method == "DeleteDocument":
        billed["deletes"] = 1
    return dict(billed)


def stay(cloud: LocalCloud) -> None:
    """Run a cloud until SIGTERM or SIGINT."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    cloud.start()
    ended.wait()
    cloud.stop()


if __name__ == "__main__":
    stay(CountedCloud(Path(sys.argv[1])))
