"""A chat room behind a real webhook hears of a rollout, through the local cloud's own delivery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.push_endpoint import Endpoint, push_endpoint
from tests.e2e import credentials, declarations
from tests.e2e.world import TRAINING, Cloud, World, message
from tests.permissions import record

MODEL, TOKEN = "told", "the-secret-of-the-room"


@pytest.fixture(scope="module")
def room() -> Iterator[Endpoint]:
    """The webhook, which is away when it is called first."""
    with push_endpoint(lambda _: 503 if len(endpoint.bodies) == 1 else 200) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, room: Endpoint) -> Iterator[World]:
    """A local cloud of its own, which tells the room."""
    folder: Path = tmp_path_factory.mktemp("chat")
    models = {MODEL: {"image": "turnout-serving", "service_account": "serving"}}
    webhook = f"{room.url}?token={TOKEN}"
    cloud = Cloud(folder, declarations.write(folder, models), TURNOUT_CHAT_WEBHOOK=webhook)
    try:
        world = cloud.start()
        yield world
        world.close()
    finally:
        cloud.stop()
    # The webhook was away once: what was said of it must not hold its secret.
    known = {"the webhook's token": TOKEN, **credentials.secrets_of(cloud.data)}
    credentials.check(folder, known, ())
    record.check(cloud.data)


def test_rollout_that_fails_is_told_from_its_begin_to_its_end(world: World, room: Endpoint) -> None:
    missing = f"gs://{TRAINING}/{MODEL}/run-1"
    world.publish(message(MODEL, 1, missing, when="always", requested_by="<!channel> @all"))
    # The first post is refused with 503 and comes again: four bodies, three of them lines.
    said = {body["text"].split("\n")[0] for body in room.wait_for(4, timeout_s=120)}
    asked, started, failed = sorted(said, key=lambda line: ("failed" in line, "being" in line))
    assert asked.startswith("told v1 (run 1) was asked for by \u2039!channel\u203a \uff20all: ")
    assert started == "told v1 is being deployed"
    assert failed.startswith("told v1 failed, traffic goes back: ")
    assert len(room.bodies) == 4
    links = room.bodies[0]["text"].split("\n")[1:]
    assert all(f"/dashboard/deployments/{MODEL}-1-auto" in link for link in links)
