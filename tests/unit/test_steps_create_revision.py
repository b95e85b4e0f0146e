"""The candidate's revision: full template, no traffic, a tag, and its own word on readiness."""

from __future__ import annotations

from typing import Any

import pytest

from functions.cancel import stop
from functions.create_revision import create
from shared.domain.deployment import StepName, StepState
from shared.errors import RevisionFailed, RevisionNotReady, Superseded, Unavailable
from shared.messages import Cancel, CreateRevision
from shared.ports import Stale
from tests.fakes import World
from tests.unit.stepping import (
    SERVICE,
    V0,
    V1,
    V2,
    advance,
    new_world,
    publish,
    roll_out,
    served,
    step,
)

NAME = "movies-1-auto"


@pytest.fixture
def world() -> World:
    made = new_world()
    publish(made)
    advance(made, NAME, "copy")
    return made


def test_revision_is_ready_at_0_percent_under_its_tag(world: World) -> None:
    answer = step(world, "create", NAME)
    assert answer == {
        "deployment_id": NAME,
        "revision": V1,
        "url": f"https://ver-1---{SERVICE}.test",
    }
    service = world.cloud_run.service(SERVICE)
    assert dict(service.split) == {V0: 100}
    assert dict(service.tags) == {"ver-1": V1}
    made = world.state.deployment(NAME)
    assert (made.attempt, made.cloud_run_revision) == (1, V1)
    assert made.endpoint_url == service.url
    for name in (StepName.CONFIGURE_SERVICE, StepName.DEPLOY_REVISION):
        assert made.steps[name.value].state is StepState.DONE


def test_traffic_is_pinned_by_name_before_the_template_is_written(world: World) -> None:
    assert not world.cloud_run.service(SERVICE).names_all
    step(world, "create", NAME)
    assert world.cloud_run.service(SERVICE).names_all


def test_repeat_finds_its_own_revision(world: World) -> None:
    first = step(world, "create", NAME)
    assert step(world, "create", NAME) == first
    assert list(world.cloud_run.services[SERVICE].revisions) == [V0, V1]


def test_tags_of_earlier_versions_stay() -> None:
    world = new_world()
    roll_out(world, 1)
    publish(world, 2)
    advance(world, "movies-2-auto", "create")
    assert dict(world.cloud_run.service(SERVICE).tags) == {"ver-1": V1, "ver-2": V2}
    assert served(world) == {V1: 100}


def test_template_is_written_again_when_somebody_changed_the_service_meanwhile(
    world: World,
) -> None:
    class Hurried:
        """Someone changes the service by hand between each read and the first write."""

        def __init__(self) -> None:
            self.left = 2

        def __getattr__(self, name: str) -> object:
            if name == "write_template" and self.left:
                self.left -= 1
                world.cloud_run.by_hand(SERVICE, {None: 100})
            return getattr(world.cloud_run, name)

    hurried = Hurried()
    command = CreateRevision(deployment_id=NAME, execution="executions/1")
    create(command, world.ports(cloud_run=hurried))
    assert hurried.left == 0
    assert served(world) == {V0: 100}


def test_template_whose_write_was_not_answered_is_found_made(world: World) -> None:
    class Silent:
        """Takes the first template and says nothing; would not take it a second time."""

        written = False

        def __getattr__(self, name: str) -> object:
            return getattr(world.cloud_run, name)

        def write_template(self, *given: Any) -> None:
            assert not self.written
            self.written = True
            world.cloud_run.write_template(*given)
            raise Stale("Cloud Run did not answer")

    command = CreateRevision(deployment_id=NAME, execution="executions/1")
    assert create(command, world.ports(cloud_run=Silent()))["revision"] == V1


def test_template_that_nobody_takes_is_given_up_with_the_reason(world: World) -> None:
    class Away:
        def __getattr__(self, name: str) -> object:
            return getattr(world.cloud_run, name)

        def write_template(self, *_: Any) -> None:
            raise Stale("Cloud Run did not answer: connection reset")

    command = CreateRevision(deployment_id=NAME, execution="executions/1")
    with pytest.raises(Unavailable, match=r"the template in .* connection reset"):
        create(command, world.ports(cloud_run=Away()))
    step(world, "create", NAME)


def test_revision_that_takes_its_time_is_waited_for(world: World) -> None:
    world.cloud_run.starts_after = 30
    step(world, "create", NAME)
    assert sum(world.clock.slept_s) == pytest.approx(15, abs=1)


def test_revision_that_fails_ends_the_step_with_cloud_runs_words(world: World) -> None:
    world.cloud_run.fate = lambda _: "The user-provided container failed: exit code 3"
    with pytest.raises(RevisionFailed, match="exit code 3"):
        step(world, "create", NAME)
    record = world.state.deployment(NAME).steps[StepName.DEPLOY_REVISION.value]
    assert record.state is StepState.FAILED
    assert "exit code 3" in record.error
    assert served(world) == {V0: 100}


def test_revision_that_says_nothing_in_time_may_be_tried_again(world: World) -> None:
    world.cloud_run.starts_after = 10_000
    with pytest.raises(RevisionNotReady):
        step(world, "create", NAME)
    record = world.state.deployment(NAME).steps[StepName.DEPLOY_REVISION.value]
    assert record.state is StepState.RUNNING
    assert "not ready after" in record.error
    world.cloud_run.services[SERVICE].revisions[V1].reads_until_known = 0
    step(world, "create", NAME)
    assert world.state.deployment(NAME).steps[StepName.DEPLOY_REVISION.value].error == ""


def test_overtaken_rollout_makes_no_revision(world: World) -> None:
    stop(Cancel(deployment_id=NAME), "ops", world.ports())
    with pytest.raises(Superseded):
        step(world, "create", NAME)
    assert list(world.cloud_run.services[SERVICE].revisions) == [V0]
