"""What was measured by revision and block, asked of the fake and of the real adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.cloud import monitoring_v3

from localcloud.monitoring import Monitoring
from localcloud.run.measurement import Listener, Measurement
from shared.config import Settings
from shared.gcp.monitoring import RunMetrics
from shared.ports import RequestBlocks
from tests.contract.run_world import PROJECT, REGION, client
from tests.fakes import FakeRequestBlocks

SERVICE = "model-serving-movies"
V1, V2 = f"{SERVICE}-v1-1", f"{SERVICE}-v2-1"
BEGIN = datetime(2026, 11, 24, 12, tzinfo=UTC)
Count = Callable[..., None]


class Source:
    """A source that measures what a test says was requested."""

    project = PROJECT

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def count(
        self,
        service: str,
        revision: str,
        at: datetime,
        requests: int,
        errors: int = 0,
        latency_ms: float = 10.0,
    ) -> None:
        for code in [500] * errors + [200] * (requests - errors):
            for listener in self._listeners:
                listener(Measurement(REGION, service, revision, code, latency_ms, at.timestamp()))


@pytest.fixture(params=["fake", "local Monitoring"])
def measured(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[RequestBlocks, Count]]:
    if request.param == "fake":
        fake = FakeRequestBlocks()
        yield fake, fake.count
        return
    source = Source()
    later = (BEGIN + timedelta(days=1)).timestamp()
    monitoring = Monitoring(tmp_path, source, clock=lambda: later)
    monitoring.start()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers(tuple(monitoring.grpc_handlers()))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with grpc.insecure_channel(target) as channel:
        settings = Settings(PROJECT, REGION, "", frozenset(), "", target)
        yield RunMetrics(client(monitoring_v3.MetricServiceClient, channel), settings), source.count
    server.stop(None).wait()
    monitoring.stop()


def minute(number: float) -> datetime:
    return BEGIN + timedelta(minutes=number)


def test_requests_are_given_by_revision_and_block(
    measured: tuple[RequestBlocks, Count],
) -> None:
    metrics, count = measured
    count(SERVICE, V1, minute(0.5), 20, errors=2, latency_ms=30)
    count(SERVICE, V1, minute(2.5), 10)
    count(SERVICE, V2, minute(1.2), 5, errors=5)
    count("model-serving-other", V2, minute(1.2), 9)

    found = metrics.window(SERVICE, BEGIN, 60, 4)

    assert found.keys() == {V1, V2}
    assert [side.requests for side in found[V1]] == [20, 0, 10, 0]
    assert [side.errors for side in found[V1]] == [2, 0, 0, 0]
    assert [side.requests for side in found[V2]] == [0, 5, 0, 0]
    assert [side.errors for side in found[V2]] == [0, 5, 0, 0]
    slow, _, quick, empty = [side.latencies for side in found[V1]]
    assert slow is not None
    assert slow.count == 20
    assert slow.percentile(50) == pytest.approx(30, rel=0.1)
    assert quick is not None
    assert quick.percentile(95) == pytest.approx(10, rel=0.1)
    assert empty is None


def test_what_lies_outside_of_the_window_is_not_in_it(
    measured: tuple[RequestBlocks, Count],
) -> None:
    metrics, count = measured
    for number in (-0.5, 0.5, 1.5, 2.5):
        count(SERVICE, V1, minute(number), 1)
    [sides] = metrics.window(SERVICE, BEGIN, 60, 2).values()
    assert [side.requests for side in sides] == [1, 1]


def test_longer_blocks_have_the_sum_of_the_minutes(
    measured: tuple[RequestBlocks, Count],
) -> None:
    metrics, count = measured
    for number in range(6):
        count(SERVICE, V1, minute(number + 0.5), number + 1, errors=1)
    [sides] = metrics.window(SERVICE, BEGIN, 180, 2).values()
    assert [side.requests for side in sides] == [6, 15]
    assert [side.errors for side in sides] == [3, 3]


def test_nothing_measured_is_nothing(measured: tuple[RequestBlocks, Count]) -> None:
    metrics, count = measured
    count(SERVICE, V1, minute(0.5), 3)
    assert metrics.window(SERVICE, minute(10), 60, 5) == {}
    assert metrics.window(SERVICE, BEGIN, 60, 0) == {}


def test_block_that_begins_within_a_minute_counts_every_request_once(
    measured: tuple[RequestBlocks, Count],
) -> None:
    metrics, count = measured
    for number in range(4):
        count(SERVICE, V1, minute(number + 0.5), 7, errors=1)
    [sides] = metrics.window(SERVICE, minute(-0.3), 60, 6).values()
    assert sum(side.requests for side in sides) == 28
    assert sum(side.errors for side in sides) == 4
