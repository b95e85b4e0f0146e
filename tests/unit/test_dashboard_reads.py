"""How many documents of Firestore a page costs: counted at the server, and bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud import firestore

from functions.dashboard.reading import ESTIMATED_FROM, Reader
from functions.dashboard.records import Records
from localcloud.firestore import Firestore
from tests.contract.firestore_backends import connected
from tests.dashboards import INDEXES, MODEL, NOW, PROJECT, Dashboard

HOURS_TODAY = 15
"""Hours since midnight at NOW, this one included."""


class Counting(grpc.ServerInterceptor):
    """Counts the documents that the server hands out, and the calls."""

    def __init__(self) -> None:
        self.documents = 0
        self.calls: Counter[str] = Counter()

    def intercept_service(
        self, continuation: Callable[..., Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Count what goes through one call."""
        handler = continuation(handler_call_details)
        name = handler_call_details.method.rpartition("/")[2]
        if handler is None or handler.unary_stream is None:
            return handler

        def counted(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self.calls[name] += 1
            for response in handler.unary_stream(request, context):
                self.documents += _documents(response)
                yield response

        return grpc.unary_stream_rpc_method_handler(
            counted, handler.request_deserializer, handler.response_serializer
        )

    def clear(self) -> None:
        """Start again at nothing."""
        self.documents = 0
        self.calls.clear()


def _documents(response: Any) -> int:
    kind = type(response).__name__
    if kind == "RunQueryResponse":
        return 1 if response.document.name else 0
    # A document that is missing is read too, and paid for.
    return 1 if kind == "BatchGetDocumentsResponse" else 0


@contextmanager
def counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[firestore.Client, Counting]]:
    """Serve the local Firestore through a counter."""
    service, counting = Firestore(folder, INDEXES), Counting()
    server = grpc.server(ThreadPoolExecutor(max_workers=16), interceptors=[counting])
    server.add_generic_rpc_handlers(tuple(service.grpc_handlers()))
    port = server.add_insecure_port("127.0.0.1:0")
    service.start()
    server.start()
    try:
        with connected(f"127.0.0.1:{port}", PROJECT, monkeypatch) as client:
            yield client, counting
    finally:
        server.stop(grace=5).wait()
        service.stop()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Dashboard, Counting]]:
    with counted(tmp_path, monkeypatch) as (client, counting):
        dashboard = Dashboard(client)
        dashboard.declare()
        yield dashboard, counting


def grow(dashboard: Dashboard, versions: range, days: int) -> None:
    """Add versions that were live, and days of hours of the last of them."""
    for number in versions:
        live = dashboard.live(number)
    writer = dashboard.client.batch()
    for ago in range(days * 24):
        at = (NOW - timedelta(hours=ago)).replace(minute=0)
        hour = {
            "deployment_id": live.id,
            "model_id": MODEL,
            "hour": at,
            "request_count": 10,
            "unique_customers": 5,
            "avg_latency_ms": 2.0,
            "p50_latency_ms": 2.0,
            "p95_latency_ms": 3.0,
            "p99_latency_ms": 4.0,
            "error_count": 0,
            "error_rate": 0.0,
        }
        name = f"{live.id}-{at:%Y%m%d%H}"
        writer.set(dashboard.client.collection("serving_metrics").document(name), hour)
    writer.commit()


def read(counting: Counting, ask: Callable[[], object]) -> int:
    counting.clear()
    ask()
    return counting.documents


def test_model_costs_the_same_with_a_short_and_a_long_history(
    world: tuple[Dashboard, Counting],
) -> None:
    dashboard, counting = world
    reader = Reader(dashboard.ports, Records(dashboard.client))
    grow(dashboard, range(1, 13), days=1)
    short = read(counting, lambda: reader.model(MODEL))
    grow(dashboard, range(13, 61), days=10)
    long = read(counting, lambda: reader.model(MODEL))
    # Declaration, state, newest versions and one more (to know of a next page), rollback
    # target, the live version's run, today's hours of the versions that served today (two).
    expected = 1 + 1 + (ESTIMATED_FROM + 1) + 1 + 1 + HOURS_TODAY
    assert short == expected == 30
    assert long == expected + HOURS_TODAY
    assert counting.calls.total() == 6


def test_lists_cost_their_page_and_a_constant(world: tuple[Dashboard, Counting]) -> None:
    dashboard, counting = world
    reader = Reader(dashboard.ports, Records(dashboard.client))
    grow(dashboard, range(1, 41), days=1)
    # Declaration and state; the live version where runs are compared with it.
    assert read(counting, lambda: reader.deployments(MODEL, None, 20)) == 2 + 21
    assert read(counting, lambda: reader.runs(MODEL, None, 20)) == 3 + 21
    assert read(counting, lambda: reader.audit(MODEL, None, 20)) == 2 + 21
    assert read(counting, lambda: reader.compare(MODEL, 40)) == 4
    assert read(counting, lambda: reader.deployment("movies-40-auto")) == 2


def test_progress_of_a_rollout_costs_a_constant(world: tuple[Dashboard, Counting]) -> None:
    dashboard, counting = world
    reader = Reader(dashboard.ports, Records(dashboard.client))
    grow(dashboard, range(1, 31), days=1)
    rolling = dashboard.rolling(31)
    assert read(counting, lambda: reader.deployment(rolling.id)) == 2 + ESTIMATED_FROM + 1
