"""The Services, Revisions and Operations API of the local Cloud Run, through Google's clients."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import run_v2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2

from localcloud.run.template import MAX_CONCURRENCY
from tests.contract.run_world import (
    LATEST,
    NAME,
    PARENT,
    SERVICE,
    State,
    World,
    answer,
    done,
    ready_of,
    served,
    template,
    to,
    until,
    world,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture
def cloud(shared: World) -> Iterator[World]:
    """A world in which no service exists."""
    yield shared
    for service in shared.services.list_services(parent=PARENT):
        done(shared.services.delete_service(name=service.name))


def test_created_service_serves_its_first_revision_and_shows_cloud_runs_defaults(
    cloud: World,
) -> None:
    service = cloud.create(template=template(), traffic=[])

    assert service.terminal_condition.state == State.CONDITION_SUCCEEDED
    assert not service.reconciling
    assert service.generation == service.observed_generation == 1
    assert service.latest_ready_revision == service.latest_created_revision
    assert service.latest_ready_revision.startswith(f"{NAME}/revisions/{SERVICE}-00001-")
    assert [(s.type_, s.percent) for s in service.traffic_statuses] == [(LATEST, 100)]
    assert list(service.urls) == [service.uri]
    assert service.template.max_instance_request_concurrency == 80
    container = service.template.containers[0]
    assert dict(container.resources.limits) == {"cpu": "1000m", "memory": "512Mi"}
    assert container.resources.cpu_idle
    assert container.startup_probe.tcp_socket.port == 8080
    assert answer(service.uri)["revision"] == service.latest_ready_revision.split("/")[-1]


def test_instance_gets_its_container_contract_and_nothing_else_of_this_machine(
    cloud: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    service = cloud.create(template=template("v1", env={"OWN": "yes"}, container={"args": ["--x"]}))

    seen = answer(service.uri)
    env = seen["env"]
    assert env["K_SERVICE"] == env["K_CONFIGURATION"] == SERVICE
    assert env["K_REVISION"] == f"{SERVICE}-v1"
    assert env["PORT"].isdigit()
    assert (env["OWN"], env["OF"], env["GOOGLE_CLOUD_PROJECT"]) == ("yes", "image", "turnout-test")
    assert "SECRET_OF_THE_HOST" not in env
    assert seen["cwd"] == str(cloud.folder)
    assert seen["argv"] == ["--x"]


def test_template_mask_with_pinned_traffic_leaves_traffic_alone(cloud: World) -> None:
    cloud.create("v1", labels={"kept": "yes"})

    service = cloud.deploy("v2")

    assert served(service) == [(f"{SERVICE}-v1", 100, "")]
    assert service.latest_ready_revision.endswith("-v2")
    assert dict(service.labels) == {"kept": "yes"}
    assert answer(service.uri)["revision"] == f"{SERVICE}-v1"


def test_template_mask_while_traffic_is_latest_moves_all_of_it(cloud: World) -> None:
    cloud.create("v1", traffic=[])

    service = cloud.deploy("v2")

    assert answer(service.uri)["revision"] == f"{SERVICE}-v2"


def test_update_without_mask_replaces_the_service_and_clears_what_it_leaves_out(
    cloud: World,
) -> None:
    cloud.create("v1", labels={"team": "a"}, annotations={"note": "b"})
    cloud.deploy("v2")

    request = run_v2.UpdateServiceRequest(
        service=run_v2.Service(name=NAME, template=template("v3"), invoker_iam_disabled=True)
    )
    service = done(cloud.services.update_service(request))

    assert dict(service.labels) == {}
    assert dict(service.annotations) == {}
    assert answer(service.uri)["revision"] == f"{SERVICE}-v3"


def test_masked_parts_of_the_template_keep_its_other_parts(cloud: World) -> None:
    cloud.create(template=template("v1", env={"OWN": "kept"}))

    service = cloud.update(
        "template.revision,template.max_instance_request_concurrency",
        template=run_v2.RevisionTemplate(
            revision=f"{SERVICE}-v2", max_instance_request_concurrency=7
        ),
    )

    assert service.template.max_instance_request_concurrency == 7
    assert service.template.containers[0].env[0].value == "kept"
    assert service.latest_created_revision.endswith("-v2")


def test_service_read_and_written_back_makes_no_second_revision(cloud: World) -> None:
    before = cloud.create("v1")

    after = done(cloud.services.update_service(run_v2.UpdateServiceRequest(service=before)))

    assert after.etag != before.etag
    assert len(list(cloud.revisions.list_revisions(parent=NAME))) == 1


def test_update_of_a_missing_service_is_not_found_unless_allowed(cloud: World) -> None:
    missing = cloud.service("v1")
    missing.name = NAME
    with pytest.raises(exceptions.NotFound):
        cloud.services.update_service(run_v2.UpdateServiceRequest(service=missing))

    request = run_v2.UpdateServiceRequest(service=missing, allow_missing=True)
    assert done(cloud.services.update_service(request)).uri


def test_validate_only_checks_and_changes_nothing(cloud: World) -> None:
    before = cloud.create("v1")

    request = run_v2.UpdateServiceRequest(
        service=run_v2.Service(name=NAME, template=template("v2")),
        update_mask={"paths": ["template"]},
        validate_only=True,
    )
    would_be = done(cloud.services.update_service(request))

    assert would_be.template.revision == f"{SERVICE}-v2"
    assert cloud.get() == before


def test_every_write_changes_the_etag_and_a_stale_one_is_aborted(cloud: World) -> None:
    first = cloud.create("v1")

    same_split = cloud.update("traffic", traffic=[to("v1", 100)], etag=first.etag)
    noted = cloud.update("annotations", annotations={"token": "7"}, etag=same_split.etag)

    assert len({first.etag, same_split.etag, noted.etag}) == 3
    assert noted.latest_created_revision == first.latest_created_revision
    with pytest.raises(exceptions.Aborted, match="Conflict for resource"):
        cloud.start_update("traffic,annotations", etag=first.etag, traffic=[to("v1", 100)])


def test_concurrent_writers_with_one_etag_exactly_one_succeeds(cloud: World) -> None:
    etag = cloud.create("v1").etag

    def write(n: int) -> bool:
        try:
            cloud.start_update("annotations", etag=etag, annotations={"writer": str(n)})
        except exceptions.Aborted:
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        wins = [n for n, won in enumerate(pool.map(write, range(12))) if won]

    assert len(wins) == 1
    assert dict(cloud.get().annotations) == {"writer": str(wins[0])}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        pytest.param([to("v1", 60)], "sum to 60, want 100", id="sum"),
        pytest.param([to("v1", 100), to("v1", 0, "ab")], "at least 3", id="short-tag"),
        pytest.param([to("v1", 100), to("v1", 0, "Ver-1")], "lower case", id="tag-letters"),
        pytest.param([to("v1", 99, "one"), to("v1", 1, "one")], "more than once", id="tag-twice"),
        pytest.param([to("v1", 100, "t" * 41)], "together have 47", id="tag-and-service"),
        pytest.param([run_v2.TrafficTarget(percent=100)], "needs a type", id="no-type"),
        pytest.param(
            [run_v2.TrafficTarget(type_=LATEST, percent=100, revision="movies-v1")],
            "leave it out",
            id="latest-with-name",
        ),
    ],
)
def test_split_that_breaks_a_rule_is_refused(
    cloud: World, targets: list[Any], message: str
) -> None:
    before = cloud.create("v1")

    with pytest.raises(exceptions.InvalidArgument, match=message):
        cloud.start_update("traffic", traffic=targets)

    assert cloud.get() == before


def test_split_naming_a_revision_that_does_not_exist_fails_and_serves_on(cloud: World) -> None:
    cloud.create("v1")

    with pytest.raises(exceptions.InternalServerError, match="does not exist or is deleted"):
        cloud.split(to("v9", 100))

    service = cloud.get()
    assert [t.revision for t in service.traffic] == [f"{SERVICE}-v9"]
    assert served(service) == [(f"{SERVICE}-v1", 100, "")]
    assert service.terminal_condition.state == State.CONDITION_FAILED


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        pytest.param({"volumes": [{"name": "v"}]}, "MethodNotImplemented", "volumes", id="volumes"),
        pytest.param(
            {"vpc_access": {"connector": "c"}}, "MethodNotImplemented", "vpc_access", id="vpc"
        ),
        pytest.param(
            {"session_affinity": True}, "MethodNotImplemented", "session_affinity", id="affinity"
        ),
        pytest.param(
            {"container": {"liveness_probe": {"http_get": {"path": "/"}}}},
            "MethodNotImplemented",
            "liveness_probe",
            id="liveness",
        ),
        pytest.param(
            {"container": {"startup_probe": {"grpc": {"port": 8080}}}},
            "MethodNotImplemented",
            "startup_probe.grpc",
            id="grpc-probe",
        ),
        pytest.param(
            {"container": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
            "MethodNotImplemented",
            "nvidia.com/gpu",
            id="gpu",
        ),
        pytest.param({"env": {"PORT": "1"}}, "InvalidArgument", "reserved env names", id="port"),
        pytest.param(
            {"annotations": {"run.googleapis.com/x": "1"}},
            "InvalidArgument",
            "run.googleapis.com/",
            id="annotation",
        ),
        pytest.param(
            {"max_instance_request_concurrency": MAX_CONCURRENCY + 1},
            "InvalidArgument",
            "max_instance_request_concurrency",
            id="concurrency",
        ),
        pytest.param(
            {"container": {"startup_probe": {"period_seconds": 10, "failure_threshold": 25}}},
            "InvalidArgument",
            "must not exceed 240",
            id="startup-too-long",
        ),
    ],
)
def test_template_that_cannot_be_run_is_refused_by_name(
    cloud: World, changed: dict[str, Any], error: str, message: str
) -> None:
    with pytest.raises(getattr(exceptions, error), match=message):
        cloud.create(template=template("v1", **changed))
    assert list(cloud.services.list_services(parent=PARENT)) == []


def test_sidecars_and_wrong_revision_names_are_refused(cloud: World) -> None:
    two = template("v1")
    two.containers.append(run_v2.Container(image="images/server"))
    with pytest.raises(exceptions.MethodNotImplemented, match="more than one container"):
        cloud.create(template=two)
    for name in ("films-v1", f"{SERVICE}-v1-", f"{SERVICE}-{'x' * 60}"):
        wrong = template()
        wrong.revision = name
        with pytest.raises(exceptions.InvalidArgument, match=r"template\.revision"):
            cloud.create(template=wrong)


def test_revision_name_used_before_with_another_configuration_is_a_conflict(cloud: World) -> None:
    cloud.create("v1")
    cloud.deploy("v2", env={"A": "1"})

    with pytest.raises(exceptions.Conflict, match="with different configuration already exists"):
        cloud.deploy("v2", env={"A": "2"})

    assert cloud.deploy("v2", env={"A": "1"}).latest_created_revision.endswith("-v2")
    assert len(list(cloud.revisions.list_revisions(parent=NAME))) == 2


def test_deleted_revision_is_gone_and_its_name_is_not_given_again(cloud: World) -> None:
    cloud.create("v1")
    cloud.deploy("v2")
    cloud.deploy("v3")
    for revision in ("v1", "v3"):  # It serves; it is the latest.
        with pytest.raises(exceptions.FailedPrecondition, match=r"cannot be deleted|has traffic"):
            cloud.revisions.delete_revision(name=f"{NAME}/revisions/{SERVICE}-{revision}")

    done(cloud.revisions.delete_revision(name=f"{NAME}/revisions/{SERVICE}-v2"))

    with pytest.raises(exceptions.NotFound):
        cloud.revision("v2")
    with pytest.raises(exceptions.Conflict):
        cloud.deploy("v2")


@pytest.mark.parametrize(
    ("options", "error", "revision_reason", "message"),
    [
        pytest.param(
            {"env": {"CRASH_AT_START": "1"}},
            exceptions.FailedPrecondition,
            "HEALTH_CHECK_CONTAINER_ERROR",
            "exited with code 3(.|\n)*the model cannot be loaded: no such file",
            id="crash",
        ),
        pytest.param(
            {
                "env": {"UNHEALTHY": "1"},
                "container": {
                    "startup_probe": {
                        "http_get": {"path": "/health"},
                        "period_seconds": 1,
                        "failure_threshold": 1,
                    }
                },
            },
            exceptions.FailedPrecondition,
            "HEALTH_CHECK_CONTAINER_ERROR",
            "startup probe",
            id="unhealthy",
        ),
        pytest.param(
            {"container": {"command": ["/no/such/program"]}},
            exceptions.FailedPrecondition,
            "HEALTH_CHECK_CONTAINER_ERROR",
            "code 127(.|\n)*/no/such/program",
            id="no-command",
        ),
        pytest.param(
            {"image": "images/unknown"},
            exceptions.NotFound,
            "CONTAINER_MISSING",
            "Image 'images/unknown' not found",
            id="no-image",
        ),
    ],
)
def test_failed_newest_revision_leaves_the_old_one_serving_and_says_why(
    cloud: World, options: dict[str, Any], error: Any, revision_reason: str, message: str
) -> None:
    cloud.create("v1", traffic=[])

    with pytest.raises(error, match=message):
        cloud.deploy("v2", **options)

    service = cloud.get()
    assert service.terminal_condition.state == State.CONDITION_FAILED
    assert service.latest_ready_revision.endswith("-v1")
    assert service.latest_created_revision.endswith("-v2")
    assert service.observed_generation == 1 < service.generation
    assert answer(service.uri)["revision"] == f"{SERVICE}-v1"
    ready = ready_of(cloud.revision("v2"))
    assert ready.state == State.CONDITION_FAILED
    reasons = (ready.revision_reason.name, ready.reason.name)
    assert revision_reason in reasons


def test_split_among_ready_revisions_is_served_while_the_newest_one_has_failed(
    cloud: World,
) -> None:
    cloud.create("v1")
    cloud.deploy("v2")
    with pytest.raises(exceptions.FailedPrecondition):
        cloud.deploy("v3", env={"CRASH_AT_START": "1"})

    # The service is as unready as its newest revision, and so ends every operation on it.
    with pytest.raises(exceptions.FailedPrecondition, match="v3"):
        cloud.split(to("v1", 40), to("v2", 60, "ver-2"))

    service = cloud.get()
    assert served(service) == [(f"{SERVICE}-v1", 40, ""), (f"{SERVICE}-v2", 60, "ver-2")]
    assert service.terminal_condition.state == State.CONDITION_FAILED
    states = {c.type_: c.state for c in service.conditions}
    assert states["RoutesReady"] == State.CONDITION_SUCCEEDED
    with pytest.raises(exceptions.FailedPrecondition):
        cloud.split(to("v3", 100))
    assert served(cloud.get()) == [(f"{SERVICE}-v1", 40, ""), (f"{SERVICE}-v2", 60, "ver-2")]


def test_split_naming_a_revision_still_starting_takes_effect_when_it_is_ready(
    cloud: World,
) -> None:
    cloud.create("v1")
    gate = {"START_S": "0.7"}
    deploying = cloud.start_update("template", template=template("v2", env=gate))
    moving = cloud.start_update("traffic", traffic=[to("v2", 100)])

    early = cloud.get()
    assert early.reconciling
    assert served(early) == [(f"{SERVICE}-v1", 100, "")]
    assert not moving.operation.done

    assert served(done(moving)) == [(f"{SERVICE}-v2", 100, "")]
    done(deploying)
    assert answer(cloud.get().uri)["revision"] == f"{SERVICE}-v2"


def test_http_startup_probe_decides_when_a_revision_is_ready(cloud: World) -> None:
    probe = {"http_get": {"path": "/health"}, "period_seconds": 1, "failure_threshold": 20}
    service = cloud.create(
        template=template("v1", env={"START_S": "0.3"}, container={"startup_probe": probe})
    )

    assert ready_of(cloud.revision("v1")).state == State.CONDITION_SUCCEEDED
    assert answer(service.uri)["revision"] == f"{SERVICE}-v1"


def test_operations_can_be_listed_waited_for_and_read(cloud: World) -> None:
    created = cloud.services.create_service(
        parent=PARENT, service_id=SERVICE, service=cloud.service("v1")
    )
    name = created.operation.name
    assert created.metadata.name == NAME

    raw = cloud.services.wait_operation(operations_pb2.WaitOperationRequest(name=name))
    waited = operations_pb2.Operation.FromString(raw) if isinstance(raw, bytes) else raw
    assert waited.done
    assert cloud.services.get_operation(operations_pb2.GetOperationRequest(name=name)).done
    listing = cloud.services.list_operations(operations_pb2.ListOperationsRequest(name=PARENT))
    assert name in [operation.name for operation in listing.operations]


def test_listings_come_in_pages(cloud: World) -> None:
    cloud.create("v1")
    for revision in ("v2", "v3"):
        cloud.deploy(revision)

    request = run_v2.ListRevisionsRequest(parent=NAME, page_size=2)
    pages = list(cloud.revisions.list_revisions(request).pages)

    assert [[r.name[-2:] for r in page.revisions] for page in pages] == [["v3", "v2"], ["v1"]]


def test_deleted_service_is_gone_with_its_listener_and_its_operations_end(cloud: World) -> None:
    service = cloud.create("v1")
    pending = cloud.start_update("template", template=template("v2", env={"START_S": "30"}))

    with pytest.raises(exceptions.Aborted):
        cloud.services.delete_service(run_v2.DeleteServiceRequest(name=NAME, etag='"old"'))
    done(cloud.services.delete_service(name=NAME))

    with pytest.raises(exceptions.NotFound):
        cloud.get()
    with pytest.raises(exceptions.GoogleAPICallError, match="was deleted"):
        done(pending)
    with pytest.raises(OSError, match="refused"):
        answer(service.uri)


def test_service_without_public_access_answers_403_until_all_users_are_granted(
    cloud: World,
) -> None:
    service = cloud.create("v1", invoker_iam_disabled=False)
    with pytest.raises(OSError, match="403"):
        answer(service.uri)

    binding = policy_pb2.Binding(role="roles/run.invoker", members=["allUsers"])
    policy = policy_pb2.Policy(bindings=[binding])
    cloud.services.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=NAME, policy=policy))

    assert answer(service.uri)["revision"] == f"{SERVICE}-v1"
    read = cloud.services.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=NAME))
    assert list(read.bindings) == [binding]
    somebody = policy_pb2.Binding(role="roles/run.invoker", members=["user:a@example.com"])
    with pytest.raises(exceptions.MethodNotImplemented, match=r"user:a@example\.com"):
        cloud.services.set_iam_policy(
            iam_policy_pb2.SetIamPolicyRequest(
                resource=NAME, policy=policy_pb2.Policy(bindings=[somebody])
            )
        )


def test_what_is_not_offered_is_refused_by_name(cloud: World) -> None:
    kind = run_v2.WorkerPoolsClient
    pools = kind(transport=kind.get_transport_class("grpc")(channel=cloud.channel))
    with pytest.raises(exceptions.MethodNotImplemented, match=r"WorkerPools/ListWorkerPools"):
        pools.list_worker_pools(parent=PARENT)
    with pytest.raises(exceptions.NotFound, match="elsewhere"):
        cloud.services.list_services(parent=f"projects/elsewhere/locations/{PARENT[-15:]}")
    with pytest.raises(exceptions.MethodNotImplemented, match="ingress"):
        cloud.create("v1", ingress=run_v2.IngressTraffic.INGRESS_TRAFFIC_INTERNAL_ONLY)


def test_newest_deployment_wins_when_two_follow_each_other(cloud: World) -> None:
    cloud.create("v1", traffic=[])
    slow = cloud.start_update("template", template=template("v2", env={"START_S": "0.6"}))
    fast = cloud.start_update("template", template=template("v3"))

    assert done(fast).latest_ready_revision.endswith("-v3")
    assert done(slow).latest_ready_revision.endswith("-v3")
    until(lambda: not cloud.get().reconciling, "the service to settle")
    assert answer(cloud.get().uri)["revision"] == f"{SERVICE}-v3"
