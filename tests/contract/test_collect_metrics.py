"""Serving metrics through Google's clients: Monitoring and Firestore on real listeners."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import functions_framework
import grpc
import pytest
import requests
from google.cloud import firestore, monitoring_v3, run_v2

from functions.collect_metrics import collect_all
from localcloud.firestore import Firestore
from localcloud.monitoring import Monitoring
from localcloud.run.measurement import Listener, Measurement
from serving.firestore_usage import FirestoreUsage
from serving.usage import Usage
from shared import wiring
from shared.config import Settings
from shared.domain.deployment import Deployment, ModelConfig
from shared.domain.rollout import Strategy, plan_rollout
from shared.errors import Unavailable
from shared.gcp.firestore import FirestoreState
from shared.gcp.monitoring import RunMetrics
from shared.gcp.serving_metrics import FirestoreServingHours
from shared.messages import CollectMetrics, ModelDeclaration
from shared.ports import MetricsPorts
from tests.contract.run_world import (
    BY_REVISION,
    PARENT,
    PROJECT,
    REGION,
    client,
    done,
    template,
    until,
    world,
)
from tests.fakes import FakeClock

SERVICE = "model-serving-movies"
V3, V4 = f"{SERVICE}-v3-1", f"{SERVICE}-v4-1"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
# The local Monitoring's buckets grow by a tenth.
BUCKET = 0.1


class Requests:
    """A source that measures what a test says was requested."""

    project = PROJECT

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def count(
        self, at: datetime, *latencies_ms: float, code: int = 200, revision: str = V3
    ) -> None:
        for latency_ms in latencies_ms:
            for listener in self._listeners:
                listener(Measurement(REGION, SERVICE, revision, code, latency_ms, at.timestamp()))


class Cloud:
    """Firestore and Monitoring on one listener, the model movies with versions 3 and 4."""

    def __init__(
        self, folder: Path, source: Any, clock: FakeClock, visible_after_s: float = 0
    ) -> None:
        self.clock = clock
        self._firestore = Firestore(
            folder / "firestore", ROOT / "terraform" / "firestore.indexes.json"
        )
        self._monitoring = Monitoring(
            folder / "monitoring",
            source,
            visible_after_s=visible_after_s,
            clock=lambda: clock.now().timestamp(),
        )
        self._firestore.start()
        self._monitoring.start()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16))
        for service in (self._firestore, self._monitoring):
            self._server.add_generic_rpc_handlers(tuple(service.grpc_handlers()))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        os.environ["FIRESTORE_EMULATOR_HOST"] = self.target
        self.documents = firestore.Client(project=PROJECT)
        self._channel = grpc.insecure_channel(self.target)
        state = FirestoreState(self.documents)
        declared = ModelDeclaration(model_id="movies", image="i", service_account="s@example.com")
        self.documents.document("model_configs/movies").set(declared.model_dump(mode="json"))
        for version in (3, 4):
            state.change("movies", lambda book, v=version: book.put(deployment(v)))
        self.ports = MetricsPorts(
            state, self.metrics(PROJECT), FirestoreServingHours(self.documents), clock
        )

    def close(self) -> None:
        self._channel.close()
        self.documents.close()
        del os.environ["FIRESTORE_EMULATOR_HOST"]
        self._server.stop(None).wait()
        self._monitoring.stop()
        self._firestore.stop()

    def metrics(self, project: str) -> RunMetrics:
        settings = Settings(project, REGION, "", frozenset(), "", self.target)
        return RunMetrics(client(monitoring_v3.MetricServiceClient, self._channel), settings)

    def collect(self) -> int:
        return int(collect_all(CollectMetrics(model_id="movies"), self.ports)["written"]["movies"])

    def hours(self) -> dict[str, dict[str, Any]]:
        """Return the documents by name."""
        found = self.documents.collection("serving_metrics").stream()
        return {one.id: one.to_dict() for one in found}

    def instance(self, version: str) -> Usage:
        """Return the usage of a serving container that just started."""
        usage = FirestoreUsage(PROJECT, "movies", version, os.urandom(8).hex())
        return Usage(usage, now=lambda: self.clock.now().timestamp())


def deployment(version: int) -> Deployment:
    return Deployment(
        id=f"movies-4{version}-auto",
        model_id="movies",
        version=version,
        training_run=40 + version,
        request_id="auto",
        artifact_uri=f"gs://training/movies/run-4{version}",
        config=ModelConfig("movies", "i", "s@example.com"),
        plan=plan_rollout(Strategy.IMMEDIATE, (), 0),
        deployed_by="ops@example.com",
        created_at=NOON,
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON + timedelta(minutes=67))


@pytest.fixture
def source() -> Requests:
    return Requests()


@pytest.fixture
def cloud(tmp_path: Path, source: Requests, clock: FakeClock) -> Iterator[Cloud]:
    made = Cloud(tmp_path, source, clock)
    yield made
    made.close()


def test_hour_of_each_version_is_what_was_sent(cloud: Cloud, source: Requests) -> None:
    latencies = [float(ms) for ms in range(1, 101)]
    source.count(NOON, *latencies[:50])
    source.count(NOON + timedelta(minutes=59, seconds=59), *latencies[50:])
    source.count(NOON + timedelta(minutes=30), 500, code=503, revision=V4)
    source.count(NOON + timedelta(minutes=30), 5, 5, code=401, revision=V4)
    source.count(NOON + timedelta(minutes=30), 5, 5, code=200, revision=V4)

    assert cloud.collect() == 2

    hours = cloud.hours()
    assert set(hours) == {"movies-43-auto-2026112412", "movies-44-auto-2026112412"}
    third = hours["movies-43-auto-2026112412"]
    assert third["avg_latency_ms"] == pytest.approx(50.5)
    assert third["p50_latency_ms"] == pytest.approx(50, rel=BUCKET)
    assert third["p95_latency_ms"] == pytest.approx(95, rel=BUCKET)
    assert third["p99_latency_ms"] == pytest.approx(99, rel=BUCKET)
    fourth = hours["movies-44-auto-2026112412"]
    assert fourth["p99_latency_ms"] == pytest.approx(500, rel=BUCKET)
    exact = {
        name: value
        for name, value in fourth.items()
        if not name.startswith("p") and name != "avg_latency_ms"
    }
    assert exact == {
        "deployment_id": "movies-44-auto",
        "model_id": "movies",
        "hour": NOON,
        "request_count": 5,
        "unique_customers": 0,
        "error_count": 1,
        "error_rate": 0.2,
        "collected_at": NOON + timedelta(minutes=67),
    }


def test_collected_twice_the_documents_are_the_same(cloud: Cloud, source: Requests) -> None:
    source.count(NOON, 5, 6, 7)
    cloud.collect()
    first = cloud.hours()
    cloud.collect()
    assert cloud.hours() == first


def test_measurements_that_come_late_are_in_the_next_collection(
    cloud: Cloud, source: Requests, clock: FakeClock
) -> None:
    source.count(NOON, 5)
    cloud.collect()
    source.count(NOON + timedelta(minutes=58), 5, 5, code=500)
    clock.sleep(3600)
    cloud.collect()
    hour = cloud.hours()["movies-43-auto-2026112412"]
    assert (hour["request_count"], hour["error_count"]) == (3, 2)


def test_measurements_still_invisible_are_collected_once_they_are_there(
    tmp_path: Path, source: Requests
) -> None:
    clock = FakeClock(NOON + timedelta(minutes=61))
    cloud = Cloud(tmp_path, source, clock, visible_after_s=180)
    try:
        source.count(NOON + timedelta(minutes=10), 5)
        source.count(NOON + timedelta(minutes=59, seconds=30), 5)
        cloud.collect()
        assert cloud.hours()["movies-43-auto-2026112412"]["request_count"] == 1
        clock.sleep(3600)
        cloud.collect()
        assert cloud.hours()["movies-43-auto-2026112412"]["request_count"] == 2
    finally:
        cloud.close()


def test_running_hour_goes_up_to_the_last_full_minute_and_grows(
    cloud: Cloud, source: Requests, clock: FakeClock
) -> None:
    source.count(NOON + timedelta(minutes=65), 5)
    cloud.collect()
    running = cloud.hours()["movies-43-auto-2026112413"]
    assert running["request_count"] == 1
    assert running["hour"] <= running["collected_at"] < running["hour"] + timedelta(hours=1)
    source.count(NOON + timedelta(minutes=70), 5, 5)
    clock.sleep(300)
    cloud.collect()
    assert cloud.hours()["movies-43-auto-2026112413"]["request_count"] == 3


def test_hours_without_requests_have_no_document(
    cloud: Cloud, source: Requests, clock: FakeClock
) -> None:
    source.count(NOON, 5)
    clock.sleep(2 * 3600)
    source.count(NOON + timedelta(hours=2), 5)
    assert cloud.collect() == 2
    assert set(cloud.hours()) == {"movies-43-auto-2026112412", "movies-43-auto-2026112414"}


@pytest.mark.parametrize("outage_h", [10, 100])
def test_outage_is_caught_up_for_three_days_at_most(
    cloud: Cloud, source: Requests, clock: FakeClock, outage_h: int
) -> None:
    cloud.collect()
    for hour in range(outage_h):
        source.count(NOON + timedelta(hours=1 + hour, minutes=30), 5)
    clock.sleep(outage_h * 3600)
    assert cloud.collect() == min(outage_h, 72)
    assert cloud.collect() == 3


def test_attempts_of_one_version_count_together_and_v0_does_not(
    cloud: Cloud, source: Requests
) -> None:
    source.count(NOON, 5, revision=V3)
    source.count(NOON, 15, code=503, revision=f"{SERVICE}-v3-2")
    source.count(NOON, 5, code=503, revision=f"{SERVICE}-v0-1")
    assert cloud.collect() == 1
    hour = cloud.hours()["movies-43-auto-2026112412"]
    assert (hour["request_count"], hour["avg_latency_ms"]) == (2, pytest.approx(10))


def test_customers_of_two_instances_and_of_a_restarted_one_count_once(
    cloud: Cloud, source: Requests, clock: FakeClock
) -> None:
    """3 standard errors of a union; the hashes are fixed, so it holds always or never."""
    clock.time = NOON + timedelta(minutes=30)
    source.count(clock.now(), 5)
    source.count(clock.now(), 5, revision=V4)
    for numbers in (range(6_000), range(4_000, 10_000), range(100)):
        instance = cloud.instance("v3")
        instance.note_customers(f"C{number}" for number in numbers)
        instance.flush()
        instance.flush()
    other = cloud.instance("v4")
    other.note_customers(["C1", "C2", "C1"])
    other.flush()
    clock.sleep(3600)

    cloud.collect()

    hours = cloud.hours()
    found = hours["movies-43-auto-2026112412"]["unique_customers"]
    assert found == pytest.approx(10_000, rel=3 * 0.0162)
    assert hours["movies-44-auto-2026112412"]["unique_customers"] == 2


def test_customers_flushed_late_are_in_the_next_collection(
    cloud: Cloud, source: Requests, clock: FakeClock
) -> None:
    source.count(NOON, 5)
    instance = cloud.instance("v3")
    clock.time = NOON
    instance.note_customers(["C1"])
    instance.flush()
    instance.note_customers(["C2"])
    clock.time = NOON + timedelta(minutes=67)
    cloud.collect()
    assert cloud.hours()["movies-43-auto-2026112412"]["unique_customers"] == 1
    instance.flush()
    cloud.collect()
    assert cloud.hours()["movies-43-auto-2026112412"]["unique_customers"] == 2


def test_monitoring_that_refuses_leaves_everything_to_the_next_time(
    cloud: Cloud, source: Requests
) -> None:
    source.count(NOON, 5)
    good = cloud.ports
    cloud.ports = MetricsPorts(good.state, cloud.metrics("another-project"), good.hours, good.clock)
    with pytest.raises(Unavailable, match=r"request_count.*another-project"):
        cloud.collect()
    assert cloud.hours() == {}
    assert good.hours.collected_until("movies") is None


def test_requests_through_the_front_door_are_counted_with_those_at_the_tag(
    tmp_path: Path,
) -> None:
    service_name = f"{PARENT}/services/{SERVICE}"
    with world(tmp_path) as running:
        made = run_v2.Service(template=_template(), invoker_iam_disabled=True)
        done(running.services.create_service(parent=PARENT, service=made, service_id=SERVICE))
        targets = [
            run_v2.TrafficTarget(type_=BY_REVISION, revision=V3, percent=100),
            run_v2.TrafficTarget(type_=BY_REVISION, revision=V3, tag="ver-3"),
        ]
        service = done(
            running.services.update_service(
                request=run_v2.UpdateServiceRequest(
                    service=run_v2.Service(name=service_name, traffic=targets),
                    update_mask={"paths": ["traffic"]},
                )
            )
        )
        began = datetime.now(UTC)
        cloud = Cloud(tmp_path / "cloud", running.cloud_run, FakeClock(began))
        try:
            with requests.Session() as session:
                for _ in range(6):
                    session.get(service.uri)
                session.get(f"{service.uri}/status?500")
                session.get(f"{service.uri}/sleep?0.2")
                tag = next(s.uri for s in service.traffic_statuses if s.tag)
                session.get(f"{tag}/health")
            # Ahead of the requests' minute, which is measured once it has ended.
            cloud.clock.time = datetime.now(UTC) + timedelta(minutes=2)

            def counted() -> bool:
                cloud.collect()
                return sum(hour["request_count"] for hour in cloud.hours().values()) == 9

            # A caller has its answer a moment before the request counts as ended.
            until(counted, "all requests are counted")
            assert sum(hour["error_count"] for hour in cloud.hours().values()) == 1
            assert max(hour["p99_latency_ms"] for hour in cloud.hours().values()) > 180
        finally:
            cloud.close()


def test_function_answers_the_scheduler_with_how_much_was_written(
    cloud: Cloud, source: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [wiring.settings, wiring.firestore_client, wiring.state, wiring.metrics_ports]
    monkeypatch.setenv("TURNOUT_PROJECT", PROJECT)
    monkeypatch.setenv("TURNOUT_REGION", REGION)
    monkeypatch.setenv("TURNOUT_GRPC_EMULATOR_HOST", cloud.target)
    monkeypatch.syspath_prepend(str(ROOT))
    for each in made:
        each.cache_clear()
    try:
        cloud.clock.time = datetime.now(UTC)
        source.count(datetime.now(UTC) - timedelta(hours=1), 5)
        app = functions_framework.create_app(
            "collect_metrics", str(ROOT / "functions" / "main.py"), "http"
        )
        answer = app.test_client().post("/", data=json.dumps({}))
        assert (answer.status_code, answer.get_json()) == (200, {"written": {"movies": 1}})
        refused = app.test_client().post("/", data=json.dumps({"model": "movies"}))
        assert refused.status_code == 400
    finally:
        for each in made:
            each.cache_clear()


def _template() -> Any:
    made = template()
    made.revision = V3
    return made
