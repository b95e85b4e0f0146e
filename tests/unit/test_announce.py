"""What is recorded is told, at least once and in order, and never in the way of anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import InvalidArgument, ServiceUnavailable
from google.pubsub_v1.types import Schema
from hypothesis import given
from hypothesis import strategies as st

import shared
from functions.announce import announce
from functions.reconcile import repair_all
from functions.roll_back import go_back
from localcloud.pubsub.schemas import JSON, check_message, compile_schema
from shared.domain.announcement import Announcement, decode, encode, type_of
from shared.domain.deployment import Event
from shared.messages import Reconcile, RollBack
from tests.fakes import World
from tests.unit.stepping import MODEL, V1, new_world, publish, roll_out, served

SCHEMA = compile_schema(
    Schema.pb(
        Schema(
            name="projects/shop/schemas/deployment-events",
            type_=Schema.Type.PROTOCOL_BUFFER,
            definition=(Path(shared.__file__).parent / "deployment_event.proto").read_text(),
        )
    )
)
LINES = st.text(st.characters(codec="utf-8"), max_size=30)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
EVENTS = st.builds(
    Event,
    deployment_id=NAMES,
    model_id=NAMES,
    at=st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    actor=LINES,
    action=st.sampled_from(["requested", "traffic wanted", "rolled_back", "artifacts collected"]),
    reason=LINES,
    before=LINES,
    after=LINES,
    traffic=st.dictionaries(LINES, st.integers(0, 100), max_size=3),
    source=LINES,
)
TOLD = st.builds(
    Announcement,
    id=st.from_regex(r"[A-Za-z0-9.-]{1,60}", fullmatch=True),
    event=EVENTS,
    version=st.integers(0, 10_000),
    training_run=st.integers(0, 2**31 - 1),
)


@pytest.fixture
def world() -> World:
    """v1 and v2 were rolled out; v2 serves; nothing was announced yet."""
    made = new_world()
    for run in (1, 2):
        roll_out(made, run)
        made.clock.sleep(60)
    return made


def told(world: World) -> list[Announcement]:
    return [decode(data, attributes) for data, attributes in world.events.messages]


def waiting(world: World) -> list[Event]:
    return [one.event for one in world.state.outbox(1000)]


def test_all_that_was_recorded_is_published_oldest_first_and_once(world: World) -> None:
    recorded = waiting(world)
    assert {"requested", "started", "traffic wanted", "active", "inactive"} <= {
        event.action for event in recorded
    }
    assert announce(world.ports()) == len(recorded)
    assert announce(world.ports()) == 0
    assert [one.event for one in told(world)] == recorded
    assert {(one.event.deployment_id, one.version, one.training_run) for one in told(world)} == {
        ("movies-1-auto", 1, 1),
        ("movies-2-auto", 2, 2),
    }


def test_message_is_a_cloudevent_in_binary_mode(world: World) -> None:
    announce(world.ports())
    data, attributes = world.events.messages[-1]
    assert attributes == {
        "ce-specversion": "1.0",
        "ce-id": attributes["ce-id"],
        "ce-type": "dev.turnout.deployment.active",
        "ce-source": "/projects/turnout-test/models/movies",
        "ce-subject": "movies-2-auto",
        "ce-time": json.loads(data)["at"],
        "content-type": "application/json",
    }


@given(TOLD)
def test_message_passes_the_topics_schema_and_comes_back_as_it_was(one: Announcement) -> None:
    data, attributes = encode(one, "shop")
    check_message(SCHEMA, JSON, data)
    assert decode(data, attributes) == one
    assert all(isinstance(value, str) for value in attributes.values())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"schema_version": 2}', b'{"schema_version": 1}', bytes([255])],
    ids=repr,
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a deployment event"):
        decode(data, {"ce-id": "1"})


def test_event_without_its_id_is_refused(world: World) -> None:
    announce(world.ports())
    data, attributes = world.events.messages[0]
    with pytest.raises(ValueError, match="ce-id"):
        decode(data, {name: value for name, value in attributes.items() if name != "ce-id"})


def test_type_of_an_action_of_two_words() -> None:
    assert type_of("traffic wanted") == "dev.turnout.deployment.traffic_wanted"


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [ServiceUnavailable("down"), TimeoutError(), RuntimeError("anything")], ids=repr
)
def test_rollback_succeeds_while_pubsub_is_down_and_reconcile_tells_it_later(
    world: World, error: Exception
) -> None:
    world.events.before = raising(error)
    command = RollBack(model_id=MODEL, reason="odd")
    go_back(command, "ops@example.com", world.ports())
    assert announce(world.ports()) == 0
    assert served(world) == {V1: 100}
    world.events.before = lambda: None
    recorded = waiting(world)
    assert "rollback" in {event.action for event in recorded}
    repair_all(Reconcile(), world.ports())
    assert [one.event for one in told(world)] == recorded


def test_function_killed_between_its_commit_and_its_announcement_is_told_by_reconcile(
    world: World,
) -> None:
    """It never came to `announce`: the transaction itself wrote the outbox."""
    publish(world, 3, when="always")
    recorded = waiting(world)
    assert recorded[-1].action == "requested"
    repair_all(Reconcile(model_id=MODEL), world.ports())
    assert [one.event for one in told(world)] == recorded
    assert world.state.outbox(1) == []


class Forgetful:
    """The state, whose process dies when it is to take something out of the outbox."""

    def __init__(self, world: World) -> None:
        self._state = world.state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def announced(self, announcement_id: str) -> None:
        raise ServiceUnavailable(f"died before {announcement_id} was taken out")


def test_function_killed_between_publishing_and_taking_it_out_repeats_it_under_the_same_id(
    world: World,
) -> None:
    announce(world.ports(state=Forgetful(world)))
    announce(world.ports())
    ids = [one.id for one in told(world)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == len(ids) - 1


def test_event_that_the_schema_refuses_does_not_keep_the_others_waiting(world: World) -> None:
    refused = iter([True])

    def refuse_first() -> None:
        if next(refused, False):
            raise InvalidArgument("Request contains an invalid argument.")

    world.events.before = refuse_first
    recorded = waiting(world)
    announce(world.ports())
    assert [one.event for one in told(world)] == recorded[1:]
    assert world.state.outbox(1) == []


def test_slow_pubsub_holds_an_answer_up_for_seconds_only(world: World) -> None:
    world.events.before = lambda: world.clock.sleep(1.5)
    begun = world.clock.now()
    assert announce(world.ports()) == 3
    assert world.clock.now() - begun < timedelta(seconds=5)


def test_subject_is_the_model_and_its_version_where_that_is_known() -> None:
    event = Event("", MODEL, datetime(2026, 11, 24, tzinfo=UTC), "ops", "drift found", "")
    assert Announcement("1", event).subject == "movies"
    assert replace(Announcement("1", event), version=3).subject == "movies v3"
