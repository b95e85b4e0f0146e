"""What the use cases rely on behind their ports, asked of the fakes and of the real adapters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest

from shared.domain.announcement import Announcement
from shared.domain.deployment import (
    Deployment,
    Event,
    Status,
    Step,
    StepName,
    StepState,
    service_of,
)
from shared.domain.marks import metrics_of
from shared.domain.model import Book, Lock, LockKind, Model
from shared.domain.rollout import Strategy, plan_rollout
from shared.errors import ArtifactsRefused, NotFound, Refused, Unavailable
from shared.messages import ModelDeclaration
from shared.ports import JobState, JobView, Ports, ServiceView, Stale
from tests.contract.ports_backends import (
    BACKENDS,
    CRASHING_RUN,
    HANGING_RUN,
    WHY_IT_CRASHES,
    WHY_IT_FAILS,
    Backend,
    until,
)

AT = datetime(2026, 11, 24, 14, 30, 15, 123456, tzinfo=UTC)
ELSEWHERE = "europe-west3"
_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Backend]:
    with BACKENDS[request.param](tmp_path_factory.mktemp("cloud")) as made:
        yield made


@pytest.fixture
def ports(backend: Backend) -> Ports:
    return backend.ports


@pytest.fixture
def model_id() -> str:
    """An id that no other test uses."""
    return f"model-{next(_numbers)}"


def declaration(model_id: str, **fields: Any) -> ModelDeclaration:
    return ModelDeclaration(
        model_id=model_id,
        image="serving",
        service_account="serving@turnout-test",
        cpu="1",
        **fields,
    )


def deployment(model_id: str, version: int = 1, **fields: Any) -> Deployment:
    run = fields.pop("training_run", version)
    given: dict[str, Any] = {
        "id": f"{model_id}-{run}-auto",
        "model_id": model_id,
        "version": version,
        "training_run": run,
        "request_id": "auto",
        "artifact_uri": f"gs://training/run-{run}",
        "config": declaration(model_id).config,
        "plan": plan_rollout(Strategy.GRADUAL, (10, 50), 90),
        "deployed_by": "ops@example.com",
        "created_at": AT,
        "serving_model_path": f"gs://serving/models/{model_id}/v{version}/",
        "artifact_digest": f"sha256:{version}",
    }
    return Deployment(**{**given, **fields})


def put(ports: Ports, *deployments: Deployment) -> None:
    def move(book: Book) -> None:
        for made in deployments:
            book.put(made)

    ports.state.change(deployments[0].model_id, move)


def event(made: Deployment, action: str, at: datetime = AT) -> Event:
    return Event(
        made.id,
        made.model_id,
        at,
        actor="ops@example.com",
        action=action,
        reason="to see it",
        before="deploying",
        after="active",
        traffic={"model-v1-1": 90, "model-v2-1": 10},
        source="dashboard 203.0.113.9",
    )


# State


def test_what_does_not_exist_is_none_new_or_not_found(ports: Ports, model_id: str) -> None:
    assert ports.state.declaration(model_id) is None
    assert model_id not in ports.state.model_ids()
    assert ports.state.model(model_id) == Model(model_id)
    assert ports.state.deployments(model_id) == []
    assert ports.state.run(f"{model_id}-1") is None
    with pytest.raises(NotFound, match="no-such"):
        ports.state.deployment("no-such")
    with pytest.raises(NotFound, match="no-such"):
        ports.state.change(model_id, lambda book: book.deployment("no-such"))
    assert ports.state.change(model_id, lambda book: book.find("no-such")) is None
    assert ports.state.glance("no-such") is None
    assert ports.state.glance("no/id") is None


def test_declared_model_is_found_with_its_policy(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    backend.declare(declaration(model_id))
    assert ports.state.declaration(model_id) == declaration(model_id)
    assert model_id in ports.state.model_ids()


def test_model_and_deployment_come_back_as_they_were_written(ports: Ports, model_id: str) -> None:
    model = Model(
        model_id,
        next_version=3,
        token=7,
        lock=Lock(LockKind.ABORT, "some-deployment", 7, AT),
        waiting="another",
        active="a-third",
        desired={f"model-serving-{model_id}-v1-1": 100},
        drift="LATEST 100 % is written",
        collected_at=AT,
    )
    made = deployment(
        model_id,
        status=Status.FAILED,
        token=7,
        execution="executions/1",
        metrics={"recall_at_100": 0.25},
        recall_at_100=0.25,
        healthy=True,
        config=declaration(
            model_id,
            prepare={"top_k": 50, "customers": 1000, "tasks": 4},
            retrieval={"kind": "approximate", "minimum_recall": 0.9},
        ).config,
        prepare_execution="jobs/prepare/executions/1",
        prepared_digest="sha256:prepared",
        prepared_customers=1000,
        snapshot={"model-v1-1": 100},
        steps={
            StepName.COPY_ARTIFACTS.value: Step(StepState.DONE, AT, AT, "3 files"),
            StepName.HEALTH_CHECKS.value: Step(StepState.FAILED, AT, AT, error="NaN"),
        },
        reason="NaN",
        deactivated_at=AT,
        redeploys=1,
        revision_gone=True,
        trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        trace_parent="00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00",
    )

    def write(book: Book) -> None:
        book.model = model
        book.put(made)

    ports.state.change(model_id, write)
    assert ports.state.model(model_id) == model
    assert ports.state.deployment(made.id) == made
    assert ports.state.glance(made.id) == made


def test_deployments_are_the_models_own_newest_version_first(ports: Ports, model_id: str) -> None:
    versions = [deployment(model_id, version) for version in (2, 1, 10)]
    put(ports, *versions, deployment(f"{model_id}-other"))
    assert [found.version for found in ports.state.deployments(model_id)] == [10, 2, 1]


def test_all_versions_are_found_and_those_that_are_deploying(ports: Ports, model_id: str) -> None:
    ended = [deployment(model_id, version, status=Status.INACTIVE) for version in (1, 12)]
    rolling = [deployment(model_id, version) for version in (3, 2)]
    put(ports, *ended, *rolling)
    put(ports, deployment(f"{model_id}-other"))
    found = ports.state.every_deployment(model_id)
    assert [one.version for one in found] == [12, 3, 2, 1]
    assert sorted(one.version for one in ports.state.deploying(model_id)) == [2, 3]


def test_transaction_sees_what_it_has_put_itself(ports: Ports, model_id: str) -> None:
    made = deployment(model_id)

    def move(book: Book) -> Deployment:
        book.put(made)
        return book.deployment(made.id)

    assert ports.state.change(model_id, move) == made


def test_move_that_raises_writes_nothing(backend: Backend, ports: Ports, model_id: str) -> None:
    made = deployment(model_id)

    def move(book: Book) -> None:
        book.model = replace(book.model, token=5)
        book.put(made)
        book.record(event(made, "requested"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ports.state.change(model_id, move)
    assert ports.state.model(model_id) == Model(model_id)
    assert ports.state.deployments(model_id) == []
    assert backend.events(made.id) == []


def test_move_runs_again_from_fresh_documents_when_another_writer_came_between(
    ports: Ports, model_id: str
) -> None:
    put(ports, deployment(model_id))
    seen: list[int] = []

    def count(book: Book) -> None:
        book.model = replace(book.model, token=book.model.token + 1)

    def move(book: Book) -> int:
        seen.append(book.model.token)
        if len(seen) == 1:
            ports.state.change(model_id, count)
        count(book)
        return book.model.token

    assert ports.state.change(model_id, move) == 2
    assert seen == [0, 1]
    assert ports.state.model(model_id).token == 2


def test_moves_that_leave_the_model_as_it_is_do_not_keep_each_other_waiting(
    ports: Ports, model_id: str
) -> None:
    """Each writes a document of its own, and both have only read the model's."""
    first, second = (deployment(model_id, version) for version in (1, 2))
    tried: list[int] = []

    def move(book: Book) -> None:
        tried.append(book.model.token)
        if len(tried) == 1:
            ports.state.change(model_id, lambda other: other.put(second))
        book.put(first)

    ports.state.change(model_id, move)
    assert len(tried) == 1
    assert [found.version for found in ports.state.deployments(model_id)] == [2, 1]
    assert ports.state.model(model_id) == Model(model_id)


def outbox_of(ports: Ports, model_id: str) -> list[Announcement]:
    return [one for one in ports.state.outbox(1000) if one.event.model_id == model_id]


def test_recorded_events_wait_in_the_outbox_with_their_version_until_they_are_announced(
    ports: Ports, model_id: str
) -> None:
    made = deployment(model_id, 7, training_run=41)
    later = event(made, "active", AT + timedelta(seconds=1))
    asked, started = event(made, "requested"), event(made, "started")
    ports.state.take_news()
    put(ports, made)
    assert not ports.state.take_news(), "nothing was recorded"

    def record(*events: Event) -> None:
        def move(book: Book) -> None:
            book.put(book.deployment(made.id))
            for one in events:
                book.record(one)

        ports.state.change(model_id, move)

    record(later)
    record(asked, started)
    assert ports.state.take_news()
    assert not ports.state.take_news(), "it is told once"
    waiting = outbox_of(ports, model_id)
    assert [one.event for one in waiting] == [asked, started, later], "the oldest first"
    assert {(one.version, one.training_run) for one in waiting} == {(7, 41)}
    assert len({one.id for one in waiting}) == 3

    for _ in range(2):
        ports.state.announced(waiting[0].id)
    assert outbox_of(ports, model_id) == waiting[1:]
    assert len(ports.state.outbox(1)) == 1


def test_move_that_raises_leaves_nothing_in_the_outbox(ports: Ports, model_id: str) -> None:
    def move(book: Book) -> None:
        book.record(event(deployment(model_id), "requested"))
        raise ZeroDivisionError

    ports.state.take_news()
    with pytest.raises(ZeroDivisionError):
        ports.state.change(model_id, move)
    assert outbox_of(ports, model_id) == []
    assert not ports.state.take_news()


def test_event_is_claimed_by_one_of_many_deliveries_and_never_again_once_posted(
    backend: Backend, model_id: str
) -> None:
    def claim(_: int) -> bool | None:
        try:
            return backend.posts.claim(model_id, AT)
        except Unavailable:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(claim, range(8)), key=str) == [None] * 7 + [True]
    backend.posts.give_back(model_id)
    assert backend.posts.claim(model_id, AT)
    with pytest.raises(Unavailable, match="just now"):
        backend.posts.claim(model_id, AT + timedelta(seconds=59))
    assert backend.posts.claim(model_id, AT + timedelta(seconds=60)), "whoever had it died"
    backend.posts.posted(model_id)
    assert not backend.posts.claim(model_id, AT + timedelta(hours=1))


def test_moves_of_many_writers_are_each_applied_once(ports: Ports, model_id: str) -> None:
    def take(book: Book) -> int:
        book.model = replace(book.model, next_version=book.model.next_version + 1)
        return book.model.next_version - 1

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: ports.state.change(model_id, take), range(12)))
    assert sorted(taken) == list(range(1, 13))


def test_events_come_back_whole_and_oldest_first(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    made = deployment(model_id)
    events = [event(made, "requested"), event(made, "started"), event(made, "rolled back")]
    events[2] = replace(events[2], at=AT + timedelta(seconds=1))

    def first(book: Book) -> None:
        book.put(made)
        book.record(events[0])
        book.record(events[1])

    ports.state.change(model_id, first)
    ports.state.change(model_id, lambda book: book.record(events[2]))
    assert backend.events(made.id) == events


def test_run_is_recorded_once_and_its_decision_kept_once(ports: Ports, model_id: str) -> None:
    run_id = f"{model_id}-1"
    first, second = {"artifact_uri": "gs://training/a"}, {"artifact_uri": "gs://training/b"}
    assert ports.state.record_run(run_id, first) == first
    assert ports.state.record_run(run_id, second) == first

    yes = {"deploy": True, "why": "better", "at": AT}
    no = {"deploy": False, "why": "not better", "at": AT}
    assert ports.state.decide(run_id, "auto", yes) == yes
    assert ports.state.decide(run_id, "auto", no) == yes
    assert ports.state.decide(run_id, "again", no) == no
    assert ports.state.run(run_id) == {**first, "decisions": {"auto": yes, "again": no}}


def test_refusal_is_recorded_again_under_the_same_id(ports: Ports, model_id: str) -> None:
    for _ in range(2):
        ports.state.record_refusal(f"message-{model_id}", {"reason": "no such model", "at": AT})


# Objects


def test_objects_are_listed_below_their_prefix_by_name(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    for name in ("b/2", "a", "b/1"):
        backend.train(f"{model_id}/run-1/{name}", name.encode())
    backend.train(f"{model_id}/run-10/a", b"another run")
    found = ports.objects.list("training", f"{model_id}/run-1/")
    assert [stored.name.removeprefix(f"{model_id}/run-1/") for stored in found] == [
        "a",
        "b/1",
        "b/2",
    ]
    assert [stored.size for stored in found] == [1, 3, 3]
    assert len({stored.generation for stored in found}) == 3


def test_bucket_that_does_not_exist_is_refused_with_its_name(ports: Ports) -> None:
    with pytest.raises(ArtifactsRefused, match="no-such-bucket"):
        ports.objects.list("no-such-bucket", "")


def test_copy_has_the_sources_checksum_and_a_repeat_finds_it(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    backend.train(f"{model_id}/file", b"content")
    [source] = ports.objects.list("training", f"{model_id}/file")
    made = ports.objects.copy("training", source, "serving", f"{model_id}/copy")

    assert (made.name, made.size, made.crc32c) == (f"{model_id}/copy", 7, source.crc32c)
    assert ports.objects.read("serving", f"{model_id}/copy") == b"content"
    assert ports.objects.copy("training", source, "serving", f"{model_id}/copy") == made
    assert ports.objects.list("serving", f"{model_id}/") == [made]


def test_source_that_changed_since_it_was_listed_is_refused(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    backend.train(f"{model_id}/file", b"content")
    [source] = ports.objects.list("training", f"{model_id}/file")
    backend.train(f"{model_id}/file", b"changed")
    with pytest.raises(ArtifactsRefused):
        ports.objects.copy("training", source, "serving", f"{model_id}/copy")
    gone = replace(source, name=f"{model_id}/gone")
    with pytest.raises(ArtifactsRefused):
        ports.objects.copy("training", gone, "serving", f"{model_id}/copy")
    assert ports.objects.read("serving", f"{model_id}/copy") is None


def test_copy_never_replaces_another_object(backend: Backend, ports: Ports, model_id: str) -> None:
    backend.train(f"{model_id}/file", b"content")
    [source] = ports.objects.list("training", f"{model_id}/file")
    assert ports.objects.create("serving", f"{model_id}/copy", b"other", "text/plain")
    with pytest.raises(ArtifactsRefused):
        ports.objects.copy("training", source, "serving", f"{model_id}/copy")
    assert ports.objects.read("serving", f"{model_id}/copy") == b"other"


def test_object_is_created_once(ports: Ports, model_id: str) -> None:
    assert ports.objects.create("serving", f"{model_id}/manifest", b"1", "application/json")
    assert not ports.objects.create("serving", f"{model_id}/manifest", b"2", "application/json")
    assert ports.objects.read("serving", f"{model_id}/manifest") == b"1"


def test_object_is_deleted_in_its_generation_and_no_other(ports: Ports, model_id: str) -> None:
    name = f"{model_id}/file"
    assert ports.objects.create("serving", name, b"1", "text/plain")
    [old] = ports.objects.list("serving", name)
    for _ in range(2):
        ports.objects.delete("serving", old)
        assert ports.objects.list("serving", name) == []
    assert ports.objects.create("serving", name, b"2", "text/plain")
    ports.objects.delete("serving", old)
    assert ports.objects.read("serving", name) == b"2"


# Cloud Run and the prediction API of its revisions


@pytest.fixture(scope="module")
def serving_id(backend: Backend) -> str:
    """A model elsewhere whose first version, `movies-N-v1-1`, is ready beside the empty v0."""
    model_id = f"movies-{next(_numbers)}"
    backend.declare(declaration(model_id, region=ELSEWHERE))
    pin(backend.ports, model_id)
    make(backend.ports, deployment(model_id))
    return model_id


def v(model_id: str, version: int) -> str:
    return f"{service_of(model_id)}-v{version}-1"


def pin(ports: Ports, model_id: str) -> None:
    seen = ports.cloud_run.service(service_of(model_id))
    ports.cloud_run.write_traffic(seen, {v(model_id, 0): 100}, {}, 1)


def make(ports: Ports, made: Deployment) -> bool | None:
    """Make the revision of a deployment; return whether it became ready."""
    seen = ports.cloud_run.service(made.config.service)
    revision = made.revision_of_attempt(1)
    ports.cloud_run.write_template(seen, made, revision)
    found = until(
        lambda: ports.cloud_run.revision(made.config.service, revision),
        lambda view: view is not None and view.ready is not None,
    )
    assert found
    return found.ready


def split_of(ports: Ports, model_id: str, split: dict[str, int]) -> ServiceView:
    """Return the service once it serves the split."""
    return until(
        lambda: ports.cloud_run.service(service_of(model_id)),
        lambda seen: dict(seen.split) == split,
    )


def test_service_that_does_not_exist_is_not_found(ports: Ports) -> None:
    with pytest.raises(NotFound, match="no-such-service"):
        ports.cloud_run.service("no-such-service")


def test_service_of_a_model_that_is_declared_later_is_found_in_its_region(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    with pytest.raises(NotFound, match=model_id):
        ports.cloud_run.service(service_of(model_id))
    backend.declare(declaration(model_id, region=ELSEWHERE))
    assert ports.cloud_run.service(service_of(model_id)).name == service_of(model_id)


def test_new_service_sends_all_traffic_to_the_latest_which_is_the_empty_v0(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    backend.declare(declaration(model_id))
    seen = ports.cloud_run.service(service_of(model_id))
    assert seen.name == service_of(model_id)
    assert dict(seen.split) == {v(model_id, 0): 100}
    assert not seen.names_all
    assert dict(seen.tags) == dict(seen.tag_urls) == {}

    status, body = ports.predictions.health(seen.url)
    assert status == 503
    assert body["reason"]

    pin(ports, model_id)
    pinned = split_of(ports, model_id, {v(model_id, 0): 100})
    assert pinned.names_all
    assert dict(pinned.written) == {v(model_id, 0): 100}
    assert "1" in pinned.annotations.values()

    backend.by_hand(service_of(model_id), {None: 100})
    assert not ports.cloud_run.service(service_of(model_id)).names_all


def test_write_of_the_same_split_changes_the_etag_so_that_a_slower_writer_is_stale(
    ports: Ports, serving_id: str
) -> None:
    seen = ports.cloud_run.service(service_of(serving_id))
    split = dict(seen.written)
    ports.cloud_run.write_traffic(seen, split, seen.tags, 2)
    with pytest.raises(Stale):
        ports.cloud_run.write_traffic(seen, {v(serving_id, 1): 100}, seen.tags, 1)
    made = deployment(serving_id, 8)
    with pytest.raises(Stale):
        ports.cloud_run.write_template(seen, made, made.revision_of_attempt(1))
    assert dict(ports.cloud_run.service(service_of(serving_id)).written) == split
    assert ports.cloud_run.revision(service_of(serving_id), v(serving_id, 8)) is None


def test_service_and_revision_keep_what_the_documents_can_be_told_from(
    ports: Ports, model_id: str, backend: Backend
) -> None:
    backend.declare(declaration(model_id))
    service = service_of(model_id)
    assert (ports.cloud_run.service(service).token, ports.cloud_run.service(service).lived) == (
        0,
        (),
    )
    pin(ports, model_id)
    config = replace(
        declaration(model_id).config, env={"EXTRA": "1"}, cpu="1", memory="1Gi", max_instances=3
    )
    made = deployment(
        model_id, 2, config=config, metrics={"recall_at_100": 0.5}, prepared_digest="sha256:p"
    )
    assert make(ports, made)
    for token, version in ((2, 2), (3, 0), (4, 2)):
        seen = ports.cloud_run.service(service)
        ports.cloud_run.write_traffic(seen, {v(model_id, version): 100}, {}, token)
    seen = ports.cloud_run.service(service)
    ports.cloud_run.write_traffic(seen, {v(model_id, 0): 60, v(model_id, 2): 40}, {}, 5)
    seen = ports.cloud_run.service(service)
    assert (seen.token, seen.lived) == (5, (2,))

    newest, first = ports.cloud_run.facts(service)
    assert (newest.name, first.name) == (v(model_id, 2), v(model_id, 0))
    assert newest.created_at >= first.created_at
    assert (newest.image, newest.service_account) == (config.image, config.service_account)
    assert (newest.cpu, newest.memory, newest.max_instances) == ("1", "1Gi", 3)
    assert (newest.concurrency, newest.startup_timeout_s) == (80, config.startup_timeout_s)
    assert {name: newest.env[name] for name in ("EXTRA", "MODEL_DIGEST", "PREPARED_DIGEST")} == {
        "EXTRA": "1",
        "MODEL_DIGEST": made.artifact_digest,
        "PREPARED_DIGEST": "sha256:p",
    }
    assert newest.annotations["turnout/deployment"] == made.id
    assert newest.annotations["turnout/requested-by"] == made.deployed_by
    assert metrics_of(newest.annotations) == made.metrics


def test_change_by_hand_makes_a_slower_writer_stale(
    backend: Backend, ports: Ports, serving_id: str
) -> None:
    seen = ports.cloud_run.service(service_of(serving_id))
    backend.by_hand(service_of(serving_id), {v(serving_id, 0): 100})
    with pytest.raises(Stale):
        ports.cloud_run.write_traffic(seen, {v(serving_id, 1): 100}, {}, 9)


def test_new_revision_gets_no_traffic_and_answers_at_its_tag_as_itself(
    ports: Ports, model_id: str, backend: Backend
) -> None:
    backend.declare(declaration(model_id))
    pin(ports, model_id)
    made = deployment(model_id, 3)
    assert make(ports, made)
    seen = split_of(ports, model_id, {v(model_id, 0): 100})

    ports.cloud_run.write_traffic(seen, seen.split, {"ver-3": v(model_id, 3)}, 2)
    tagged = until(
        lambda: ports.cloud_run.service(service_of(model_id)), lambda view: bool(view.tag_urls)
    )
    assert dict(tagged.split) == {v(model_id, 0): 100}
    assert dict(tagged.tags) == {"ver-3": v(model_id, 3)}
    status, body = ports.predictions.health(tagged.tag_urls["ver-3"])
    assert status == 200
    assert body["status"] == "healthy"
    assert body["model_id"] == model_id
    assert body["model_version"] == "v3"
    assert body["training_run"] == 3
    assert body["artifact_digest"] == "sha256:3"

    _, key = ports.keys.create(model_id, "a test", "test_ports", 60)
    status, body = ports.predictions.recommend(tagged.tag_urls["ver-3"], key, ["b", "a"], 3)
    assert status == 200
    assert [result["customer_id"] for result in body["results"]] == ["b", "a"]
    assert [len(result["recommendations"]) for result in body["results"]] == [3, 3]
    assert ports.predictions.recommend(tagged.tag_urls["ver-3"], "wrong", ["a"], 3)[0] == 401


def test_new_revision_brings_the_services_least_number_of_instances(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    backend.declare(declaration(model_id))
    pin(ports, model_id)
    for version, least in ((1, 2), (2, 0)):
        config = declaration(model_id, min_instances=least).config
        make(ports, deployment(model_id, version, config=config))
        assert backend.least_instances(service_of(model_id)) == least


def test_split_is_served_by_named_revisions(ports: Ports, serving_id: str) -> None:
    shares = {v(serving_id, 0): 70, v(serving_id, 1): 30}
    seen = ports.cloud_run.service(service_of(serving_id))
    ports.cloud_run.write_traffic(seen, {**shares, "never": 0}, {"ver-1": v(serving_id, 1)}, 3)
    served = split_of(ports, serving_id, shares)
    assert dict(served.written) == shares
    assert set(served.tag_urls) == {"ver-1"}


@pytest.mark.parametrize("percent", [99, 101])
def test_split_that_does_not_sum_to_100_is_refused(
    ports: Ports, serving_id: str, percent: int
) -> None:
    seen = ports.cloud_run.service(service_of(serving_id))
    with pytest.raises(Refused, match=str(percent)):
        ports.cloud_run.write_traffic(seen, {v(serving_id, 1): percent}, {}, 4)
    assert ports.cloud_run.service(service_of(serving_id)).etag == seen.etag


def test_same_template_may_be_written_again_and_another_under_its_name_is_refused(
    ports: Ports, serving_id: str
) -> None:
    made = deployment(serving_id)
    assert make(ports, made)
    seen = ports.cloud_run.service(service_of(serving_id))
    with pytest.raises(Refused, match=r"already exists|different configuration"):
        ports.cloud_run.write_template(
            seen, replace(made, artifact_digest="sha256:other"), v(serving_id, 1)
        )


def test_revision_that_fails_says_why_and_traffic_stays_movable(
    ports: Ports, serving_id: str
) -> None:
    before = ports.cloud_run.service(service_of(serving_id)).split
    assert make(ports, deployment(serving_id, 5, training_run=CRASHING_RUN)) is False
    failed = ports.cloud_run.revision(service_of(serving_id), v(serving_id, 5))
    assert failed
    assert WHY_IT_CRASHES in failed.message
    seen = split_of(ports, serving_id, dict(before))

    ports.cloud_run.write_traffic(seen, {v(serving_id, 1): 100}, seen.tags, 5)
    split_of(ports, serving_id, {v(serving_id, 1): 100})


@pytest.mark.parametrize("version", [5, 99], ids=["failed", "unknown"])
def test_split_that_cannot_be_served_is_written_and_the_old_one_stays(
    ports: Ports, serving_id: str, version: int
) -> None:
    make(ports, deployment(serving_id, 5, training_run=CRASHING_RUN))
    seen = ports.cloud_run.service(service_of(serving_id))
    ports.cloud_run.write_traffic(seen, {v(serving_id, 1): 100}, {}, 6)
    seen = split_of(ports, serving_id, {v(serving_id, 1): 100})

    ports.cloud_run.write_traffic(seen, {v(serving_id, version): 100}, {}, 7)
    after = ports.cloud_run.service(service_of(serving_id))
    assert dict(after.written) == {v(serving_id, version): 100}
    assert dict(after.split) == {v(serving_id, 1): 100}
    ports.cloud_run.write_traffic(after, {v(serving_id, 1): 100}, {}, 8)


def test_tag_is_served_where_its_revision_was_ready_and_the_new_one_is_not(
    ports: Ports, serving_id: str
) -> None:
    make(ports, deployment(serving_id, 5, training_run=CRASHING_RUN))
    ready, failed = v(serving_id, 1), v(serving_id, 5)
    service = service_of(serving_id)
    seen = ports.cloud_run.service(service)
    ports.cloud_run.write_traffic(seen, {ready: 100}, {"debug": ready}, 9)
    seen = until(
        lambda: ports.cloud_run.service(service),
        lambda view: dict(view.split) == {ready: 100} and dict(view.served_tags) == view.tags,
    )
    ports.cloud_run.write_traffic(
        seen, {v(serving_id, 0): 100}, {"debug": failed, "n-1": failed}, 10
    )
    after = ports.cloud_run.service(service)
    assert dict(after.tags) == {"debug": failed, "n-1": failed}
    assert dict(after.served_tags) == {"debug": ready}
    assert dict(after.split) == {ready: 100}, "one tag keeps all of the split from being served"
    ports.cloud_run.write_traffic(after, {ready: 100}, {}, 11)


def test_revision_is_deleted_unless_it_may_be_served(
    backend: Backend, ports: Ports, model_id: str
) -> None:
    backend.declare(declaration(model_id))
    pin(ports, model_id)
    service = service_of(model_id)
    for version in (1, 2, 3, 4):
        assert make(ports, deployment(model_id, version))
    names = [v(model_id, version) for version in range(5)]
    assert ports.cloud_run.revisions(service) == names[::-1]

    seen = ports.cloud_run.service(service)
    ports.cloud_run.write_traffic(seen, {names[1]: 100}, {"ver-2": names[2]}, 2)
    split_of(ports, model_id, {names[1]: 100})
    for name in names[1], names[2], names[4]:  # It serves; it is tagged; it is the latest.
        assert not ports.cloud_run.delete_revision(service, name)
    for _ in range(2):
        assert ports.cloud_run.delete_revision(service, names[3])
    assert ports.cloud_run.revision(service, names[3]) is None
    assert ports.cloud_run.revisions(service) == [names[4], *names[2::-1]]

    seen = ports.cloud_run.service(service)
    ports.cloud_run.write_traffic(seen, seen.written, {}, 3)
    until(lambda: ports.cloud_run.service(service), lambda view: not view.tag_urls)
    assert ports.cloud_run.delete_revision(service, names[2])
    assert dict(ports.cloud_run.service(service).split) == {names[1]: 100}


def test_url_that_nobody_serves_is_unavailable(ports: Ports) -> None:
    with pytest.raises(Unavailable):
        ports.predictions.health("http://127.0.0.1:1")
    with pytest.raises(Unavailable):
        ports.predictions.recommend("http://127.0.0.1:1", "key", ["a"], 1)


# Jobs


@pytest.fixture(scope="module")
def prepared_id(backend: Backend) -> str:
    """A model elsewhere whose job prepares by two tasks."""
    model_id = f"movies-{next(_numbers)}"
    backend.declare(declaration(model_id, region=ELSEWHERE))
    return model_id


def by_two(model_id: str, run: int) -> Deployment:
    config = declaration(model_id, prepare={"tasks": 2}).config
    return deployment(model_id, training_run=run, config=config)


def ended(ports: Ports, name: str) -> JobView:
    """Return an execution of a job once it has ended."""
    found = until(
        lambda: ports.jobs.execution(name),
        lambda view: view is not None and view.state is not JobState.RUNNING,
    )
    assert found
    return found


def test_job_runs_by_as_many_tasks_as_the_deployment_asks_for(
    ports: Ports, prepared_id: str
) -> None:
    name = ports.jobs.start(by_two(prepared_id, 1))
    found = ended(ports, name)
    assert (found.state, found.done, found.tasks) == (JobState.SUCCEEDED, 2, 2)
    assert found.logs
    ports.jobs.cancel(name)
    assert ended(ports, name) == found


def test_job_whose_task_fails_says_why(ports: Ports, prepared_id: str) -> None:
    found = ended(ports, ports.jobs.start(by_two(prepared_id, CRASHING_RUN)))
    assert (found.state, found.done) == (JobState.FAILED, 0)
    assert "1" in found.message


def test_running_job_is_cancelled_and_again_without_harm(ports: Ports, prepared_id: str) -> None:
    name = ports.jobs.start(by_two(prepared_id, HANGING_RUN))
    running = ports.jobs.execution(name)
    assert running
    assert (running.state, running.done) == (JobState.RUNNING, 0)
    ports.jobs.cancel(name)
    assert ended(ports, name).state is JobState.CANCELLED
    ports.jobs.cancel(name)
    assert ended(ports, name).state is JobState.CANCELLED


def test_every_start_makes_another_execution_of_the_job(ports: Ports, prepared_id: str) -> None:
    made = by_two(prepared_id, 1)
    first, second = ports.jobs.start(made), ports.jobs.start(made)
    assert first != second
    assert {ended(ports, name).state for name in (first, second)} == {JobState.SUCCEEDED}


def test_unknown_job_is_not_found_and_unknown_execution_is_none(
    ports: Ports, prepared_id: str, model_id: str
) -> None:
    with pytest.raises(NotFound, match=f"prepare-{model_id}"):
        ports.jobs.start(deployment(model_id))
    known = ports.jobs.start(by_two(prepared_id, 1))
    unknown = f"{known.rsplit('/', 1)[0]}/prepare-{prepared_id}-zzzzz"
    assert ports.jobs.execution(unknown) is None
    ports.jobs.cancel(unknown)
    ended(ports, known)


# Executions


@pytest.mark.parametrize(("how", "state"), [("succeeds", "SUCCEEDED"), ("fails", "FAILED")])
def test_execution_ends_as_it_will(ports: Ports, model_id: str, how: str, state: str) -> None:
    name = ports.executions.start(deployment(model_id, id=f"{model_id}-{how}"))
    until(lambda: ports.executions.state(name), lambda found: found != "ACTIVE")
    assert ports.executions.state(name) == state
    if how == "fails":
        assert WHY_IT_FAILS in ports.executions.error(name)
    ports.executions.cancel(name)
    assert ports.executions.state(name) == state


def test_active_execution_is_cancelled_and_again_without_harm(ports: Ports, model_id: str) -> None:
    name = ports.executions.start(deployment(model_id))
    assert ports.executions.state(name) == "ACTIVE"
    for _ in range(2):
        ports.executions.cancel(name)
        assert ports.executions.state(name) == "CANCELLED"
        assert ports.executions.error(name)


def test_every_start_makes_another_execution(ports: Ports, model_id: str) -> None:
    names = {ports.executions.start(deployment(model_id, id=f"{model_id}-succeeds")) for _ in "ab"}
    assert len(names) == 2


def test_unknown_execution_is_gone(ports: Ports, model_id: str) -> None:
    known = ports.executions.start(deployment(model_id, id=f"{model_id}-succeeds"))
    unknown = known.rsplit("/", 1)[0] + "/00000000-0000-0000-0000-000000000000"
    assert ports.executions.state(unknown) == "GONE"
    assert ports.executions.error(unknown) == "its record is gone"
    ports.executions.cancel(unknown)


# Dead letters, keys, time


def test_dead_letter_arrives_with_its_attributes(backend: Backend, ports: Ports) -> None:
    assert ports.dead_letters.publish(b'{"model_id": 1}', {"reason": "no such model"})
    [(data, attributes)] = until(backend.dead_letters, bool)
    assert data == b'{"model_id": 1}'
    assert attributes == {"reason": "no such model"}


def test_key_is_known_by_its_hash_and_revoked_by_its_id(ports: Ports, model_id: str) -> None:
    key_id, plain = ports.keys.create(model_id, "batch jobs", "ops@example.com", None)
    other_id, other = ports.keys.create(model_id, "batch jobs", "ops@example.com", 3600)
    assert key_id == sha256(plain.encode()).hexdigest()
    assert len(plain) == len(other) == 43
    assert (key_id, plain) != (other_id, other)
    ports.keys.revoke(key_id)
    ports.keys.revoke(key_id)
    with pytest.raises(NotFound, match="no-such-key"):
        ports.keys.revoke("no-such-key")


def test_sleep_moves_the_time_on(ports: Ports) -> None:
    before = ports.clock.now()
    assert before.tzinfo is not None
    ports.clock.sleep(0.01)
    assert ports.clock.now() - before >= timedelta(seconds=0.01)
