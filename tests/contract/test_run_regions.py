"""Services and jobs of several regions in one local Cloud Run, through Google's clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.cloud import run_v2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2

from localcloud.monitoring import Monitoring
from tests.contract.run_world import (
    NAME,
    PARENT,
    PROJECT,
    SERVICE,
    World,
    answer,
    done,
    tag_url,
    template,
    to,
    until,
    world,
)
from tests.contract.test_monitoring import COUNT, series, served, values
from tests.contract.test_run_jobs import JOB, job, log, run

REGION = "us-east1"
ELSEWHERE = f"projects/{PROJECT}/locations/{REGION}"
THERE = f"{ELSEWHERE}/services/{SERVICE}"
JOB_THERE = f"{ELSEWHERE}/jobs/prepare"
EVERYBODY = policy_pb2.Policy(
    bindings=[policy_pb2.Binding(role="roles/run.invoker", members=["allUsers"])]
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("regions")) as made:
        yield made


@pytest.fixture
def cloud(shared: World) -> Iterator[World]:
    """A world in which no service and no job exists."""
    yield shared
    for parent in (PARENT, ELSEWHERE):
        for service in shared.services.list_services(parent=parent):
            done(shared.services.delete_service(name=service.name))
        for one in shared.jobs.list_jobs(parent=parent):
            done(shared.jobs.delete_job(name=one.name))


def create(cloud: World, parent: str = ELSEWHERE, service_id: str = SERVICE, **fields: Any) -> Any:
    """Create a service, by default elsewhere; return the client's operation."""
    return cloud.services.create_service(
        parent=parent, service_id=service_id, service=cloud.service(**fields)
    )


def create_job(cloud: World, parent: str = ELSEWHERE, job_id: str = "prepare") -> Any:
    """Create a job, by default elsewhere; return the client's operation."""
    return cloud.jobs.create_job(parent=parent, job_id=job_id, job=job())


def update(cloud: World, mask: str, **fields: Any) -> Any:
    """Update the service elsewhere; return the client's operation."""
    return cloud.services.update_service(
        run_v2.UpdateServiceRequest(
            service=run_v2.Service(name=THERE, **fields), update_mask={"paths": [mask]}
        )
    )


def operations(cloud: World, parent: str) -> set[str]:
    listed = cloud.services.list_operations(operations_pb2.ListOperationsRequest(name=parent))
    return {operation.name for operation in listed.operations}


def test_service_elsewhere_is_created_updated_and_served_by_names_of_its_region(
    cloud: World,
) -> None:
    created = create(cloud)
    service = done(created)
    updated = update(cloud, "template", template=template("v2"))
    done(updated)
    both = done(update(cloud, "traffic", traffic=[to("v1", 100), to("v2", 0, "ver-2")]))

    assert service.name == THERE
    assert service.latest_created_revision == f"{THERE}/revisions/{SERVICE}-v1"
    assert both.latest_ready_revision == f"{THERE}/revisions/{SERVICE}-v2"
    assert cloud.services.get_service(name=THERE) == both
    assert [answer(url)["revision"] for url in (both.uri, tag_url(both, "ver-2"))] == [
        f"{SERVICE}-v1",
        f"{SERVICE}-v2",
    ]
    assert answer(both.uri)["env"]["TOLD_REGION"] == REGION
    revisions = [f"{THERE}/revisions/{SERVICE}-{name}" for name in ("v2", "v1")]
    assert [r.name for r in cloud.revisions.list_revisions(parent=THERE)] == revisions
    assert cloud.revisions.get_revision(name=revisions[0]).name == revisions[0]
    names = {operation.operation.name for operation in (created, updated)}
    assert all(name.startswith(f"{ELSEWHERE}/operations/") for name in names)
    assert names <= operations(cloud, ELSEWHERE)
    assert not names & operations(cloud, PARENT)
    assert cloud.services.get_operation({"name": created.operation.name}).done

    done(update(cloud, "traffic", traffic=[to("v2", 100)]))
    cloud.revisions.delete_revision(name=revisions[1])
    assert [r.name for r in cloud.revisions.list_revisions(parent=THERE)] == revisions[:1]
    cloud.services.set_iam_policy(
        iam_policy_pb2.SetIamPolicyRequest(resource=THERE, policy=EVERYBODY)
    )
    request = iam_policy_pb2.GetIamPolicyRequest(resource=THERE)
    assert cloud.services.get_iam_policy(request).bindings == EVERYBODY.bindings


def test_each_region_lists_its_own_services_revisions_jobs_and_executions(cloud: World) -> None:
    done(create(cloud, PARENT))
    done(create(cloud, ELSEWHERE, "books", traffic=[], template=template()))
    done(create_job(cloud, PARENT, "prepare"))
    done(create_job(cloud, ELSEWHERE, "others"))
    for name in (JOB, f"{ELSEWHERE}/jobs/others"):
        done(run(cloud, name))

    for parent, service_id, job_id in (
        (PARENT, SERVICE, "prepare"),
        (ELSEWHERE, "books", "others"),
    ):
        [service] = cloud.services.list_services(parent=parent)
        [revision] = cloud.revisions.list_revisions(parent=f"{parent}/services/-")
        [one] = cloud.jobs.list_jobs(parent=parent)
        [execution] = cloud.executions.list_executions(parent=f"{parent}/jobs/-")
        [task] = cloud.tasks.list_tasks(parent=f"{parent}/jobs/-/executions/-")
        assert service.name == f"{parent}/services/{service_id}"
        assert revision.name.startswith(f"{service.name}/revisions/")
        assert one.name == f"{parent}/jobs/{job_id}"
        assert execution.name.startswith(f"{one.name}/executions/")
        assert task.name.startswith(f"{execution.name}/tasks/")
    assert list(cloud.services.list_services(parent=f"projects/{PROJECT}/locations/eu-west9")) == []


def test_service_elsewhere_is_not_found_here(cloud: World) -> None:
    before = done(create(cloud))
    revision = f"{NAME}/revisions/{SERVICE}-v1"
    calls: list[Callable[[], Any]] = [
        lambda: cloud.services.get_service(name=NAME),
        lambda: cloud.deploy("v2"),
        lambda: cloud.services.delete_service(name=NAME),
        lambda: cloud.services.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=NAME)),
        lambda: cloud.services.set_iam_policy(
            iam_policy_pb2.SetIamPolicyRequest(resource=NAME, policy=EVERYBODY)
        ),
        lambda: list(cloud.revisions.list_revisions(parent=NAME)),
        lambda: cloud.revisions.get_revision(name=revision),
        lambda: cloud.revisions.delete_revision(name=revision),
    ]
    for call in calls:
        with pytest.raises(exceptions.NotFound, match=NAME):
            call()
    assert cloud.services.get_service(name=THERE) == before


def test_job_elsewhere_is_created_updated_and_run_by_names_of_its_region(cloud: World) -> None:
    created = create_job(cloud)
    changed = job(container={"args": ["new"]})
    changed.name = JOB_THERE
    updated = done(cloud.jobs.update_job(job=changed))
    operation = run(cloud, JOB_THERE)
    execution = done(operation)

    assert done(created).name == updated.name == JOB_THERE
    assert cloud.jobs.get_job(name=JOB_THERE).latest_created_execution.name == execution.name
    assert execution.name.startswith(f"{JOB_THERE}/executions/prepare-")
    assert [e.name for e in cloud.executions.list_executions(parent=JOB_THERE)] == [execution.name]
    [task] = cloud.tasks.list_tasks(parent=execution.name)
    assert cloud.tasks.get_task(name=task.name) == task
    assert log(cloud, execution.name) == "attempt 0\n"
    names = {created.operation.name, operation.operation.name}
    assert names <= operations(cloud, ELSEWHERE)
    assert not names & operations(cloud, PARENT)


def test_tasks_are_told_the_region_of_their_job(cloud: World) -> None:
    container = {"command": ["/bin/sh", "-c", "echo $TOLD_REGION"]}
    done(cloud.jobs.create_job(parent=ELSEWHERE, job_id="prepare", job=job(container=container)))

    execution = done(run(cloud, JOB_THERE))

    assert log(cloud, execution.name) == f"{REGION}\n"


def test_job_elsewhere_is_not_found_here(cloud: World) -> None:
    done(create_job(cloud))
    execution = done(run(cloud, JOB_THERE))
    [task] = cloud.tasks.list_tasks(parent=execution.name)
    execution_here = execution.name.replace(ELSEWHERE, PARENT)
    changed = job(task_count=2)
    changed.name = JOB
    calls: list[Callable[[], Any]] = [
        lambda: cloud.jobs.get_job(name=JOB),
        lambda: cloud.jobs.update_job(job=changed),
        lambda: cloud.jobs.delete_job(name=JOB),
        lambda: run(cloud, JOB),
        lambda: list(cloud.executions.list_executions(parent=JOB)),
        lambda: cloud.executions.get_execution(name=execution_here),
        lambda: cloud.executions.cancel_execution(name=execution_here),
        lambda: cloud.executions.delete_execution(name=execution_here),
        lambda: list(cloud.tasks.list_tasks(parent=execution_here)),
        lambda: list(cloud.tasks.list_tasks(parent=f"{JOB}/executions/-")),
        lambda: cloud.tasks.get_task(name=task.name.replace(ELSEWHERE, PARENT)),
    ]
    for call in calls:
        with pytest.raises(exceptions.NotFound, match=JOB):
            call()
    assert cloud.executions.get_execution(name=execution.name) == execution


def test_id_in_two_regions_is_refused_by_name_until_the_first_is_gone(cloud: World) -> None:
    done(create(cloud))
    done(create_job(cloud))
    here = run_v2.UpdateServiceRequest(service=cloud.service(), allow_missing=True)
    here.service.name = NAME
    job_here = run_v2.UpdateJobRequest(job=job(), allow_missing=True)
    job_here.job.name = JOB
    calls: list[Callable[[], Any]] = [
        lambda: create(cloud, PARENT),
        lambda: cloud.services.update_service(here),
        lambda: create_job(cloud, PARENT),
        lambda: cloud.jobs.update_job(job_here),
    ]
    for call in calls:
        with pytest.raises(exceptions.MethodNotImplemented, match="id in two regions"):
            call()
    with pytest.raises(exceptions.AlreadyExists):
        create(cloud)
    with pytest.raises(exceptions.AlreadyExists):
        create_job(cloud)

    assert list(cloud.services.list_services(parent=PARENT)) == []
    assert list(cloud.jobs.list_jobs(parent=PARENT)) == []
    done(cloud.services.delete_service(name=THERE))
    done(cloud.jobs.delete_job(name=JOB_THERE))
    assert done(create(cloud, PARENT)).name == NAME
    assert done(create_job(cloud, PARENT)).name == JOB


def test_revision_name_of_a_service_in_another_region_is_refused_by_name(cloud: World) -> None:
    done(create(cloud, PARENT, "movies-new", template=template("new-v1"), traffic=[]))
    with pytest.raises(exceptions.MethodNotImplemented, match="id in two regions"):
        create(cloud, template=template("new-v1"), traffic=[])


@pytest.mark.parametrize("region", ["-", "us", "us-east", "US-EAST1", "us-east1-b", "global"])
def test_what_is_no_region_is_refused(cloud: World, region: str) -> None:
    parent = f"projects/{PROJECT}/locations/{region}"
    calls: list[Callable[[], Any]] = [
        lambda: list(cloud.services.list_services(parent=parent)),
        lambda: list(cloud.jobs.list_jobs(parent=parent)),
        lambda: list(cloud.revisions.list_revisions(parent=f"{parent}/services/-")),
        lambda: list(cloud.executions.list_executions(parent=f"{parent}/jobs/-")),
        lambda: operations(cloud, parent),
        lambda: create(cloud, parent),
        lambda: create_job(cloud, parent),
    ]
    for call in calls:
        with pytest.raises(exceptions.InvalidArgument, match=f"'{region}' is not a region"):
            call()


def test_other_project_is_not_found_in_whatever_region(cloud: World) -> None:
    other = f"projects/elsewhere/locations/{REGION}"
    with pytest.raises(exceptions.NotFound, match="elsewhere"):
        create(cloud, other)
    with pytest.raises(exceptions.NotFound, match="elsewhere"):
        cloud.jobs.get_job(name=f"{other}/jobs/prepare")


def test_requests_are_measured_in_the_region_of_their_service(cloud: World, tmp_path: Path) -> None:
    with served(Monitoring(tmp_path, cloud.cloud_run)) as metrics:
        began = time.time()
        here = done(create(cloud, PARENT, "books", template=template(), traffic=[]))
        there = done(create(cloud))
        for service in (here, there):
            requests.get(service.uri, timeout=20).raise_for_status()

        def counted() -> dict[tuple[str, str], list[Any]]:
            return {
                (s.resource.labels["location"], s.resource.labels["service_name"]): values(s)
                for s in series(metrics, COUNT, began - 60, time.time())
            }

        expected = {(PARENT.split("/")[-1], "books"): [1], (REGION, SERVICE): [1]}
        until(lambda: counted() == expected, "both requests to be counted")


def test_service_and_job_elsewhere_are_there_after_a_restart(tmp_path: Path) -> None:
    with world(tmp_path) as cloud:
        before = done(create(cloud))
        done(create_job(cloud))
        execution = done(run(cloud, JOB_THERE))

    with world(tmp_path) as cloud:
        after = cloud.services.get_service(name=THERE)
        assert (after.uri, after.etag) == (before.uri, before.etag)
        assert after.latest_ready_revision == f"{THERE}/revisions/{SERVICE}-v1"
        assert answer(after.uri)["env"]["TOLD_REGION"] == REGION
        assert [one.name for one in cloud.jobs.list_jobs(parent=ELSEWHERE)] == [JOB_THERE]
        assert cloud.executions.get_execution(name=execution.name) == execution
        assert list(cloud.services.list_services(parent=PARENT)) == []
        assert list(cloud.jobs.list_jobs(parent=PARENT)) == []
