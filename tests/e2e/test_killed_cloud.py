"""`kill -9` of the whole local cloud, in the middle of things, and what is there afterwards."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e import declarations
from tests.e2e.traffic import Traffic
from tests.e2e.world import (
    SERVING,
    TOPIC,
    TRAINING,
    Cloud,
    World,
    message,
    served,
    specified,
    until,
    version_of,
)
from tests.permissions import record

UNREAD = "projects/turnout-local/subscriptions/unread"
KILLS = 4


class Mortal:
    """A cloud that is killed and started again, with a fresh client each time."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.world = cloud.start()

    def kill(self) -> None:
        """`kill -9`; everything that it started dies with it."""
        self.world.close()
        self._cloud.kill()

    def start(self) -> World:
        """Start it again on the same folder."""
        self.world = self._cloud.start()
        return self.world

    def stop(self) -> None:
        """End it in order, where it still runs."""
        self.world.close()
        self._cloud.stop()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    """A cloud of this module's own."""
    folder = tmp_path_factory.mktemp("killed")
    cloud = Cloud(folder, declarations.write(folder, declarations.KILLED_MODELS))
    try:
        found = Mortal(cloud)
        yield found
        found.stop()
    finally:
        cloud.stop()
    record.check(cloud.data)


def kept(world: World) -> dict[str, Any]:
    """Return everything that nobody changes while a rollout bakes."""
    documents = {
        reference.path: reference.get().to_dict()
        for name in ("api_keys", "training_runs", "model_configs", "notes")
        for reference in world.documents.collection(name).list_documents()
    }
    objects = {
        (bucket, blob.name): (blob.generation, blob.crc32c, blob.size, blob.metadata)
        for bucket in (TRAINING, SERVING)
        for blob in world.storage.list_blobs(bucket)
    }
    service = world.service("survivor")
    return {
        "documents": documents,
        "objects": objects,
        "first version": (world.deployment("survivor-1-auto"), world.events("survivor-1-auto")),
        "service": (service.uid, service.uri, service.template, service.annotations),
        "revisions": world.revision_names("survivor"),
        "split": (served(service), specified(service)),
        "tag URLs": {one.tag: one.uri for one in service.traffic_statuses if one.tag},
    }


def test_killed_in_the_middle_of_a_rollout_nothing_acknowledged_is_lost(
    mortal: Mortal, artifacts: dict[str, Path]
) -> None:
    world = mortal.world
    uris = {
        run: world.upload(artifacts[kind], "survivor", run)
        for run, kind in ((1, "good"), (2, "better"), (3, "good"))
    }
    world.publish(message("survivor", 1, uris[1]))
    world.ended("survivor-1-auto", "active")
    world.subscriber.create_subscription(name=UNREAD, topic=TOPIC)
    key = world.key("survivor")
    note = world.storage.bucket(TRAINING).blob("notes/a")
    note.metadata = {"by": "a test"}
    note.upload_from_string(b"kept")
    slow = {"strategy": "gradual", "steps_percent": [30], "over": "10m"}
    rollout = message("survivor", 2, uris[2], **slow)
    world.publish(rollout)
    split = {"v1": 70, "v2": 30}
    until(lambda: served(world.service("survivor")) == split, "the first step is served")
    until(lambda: not world.reconcile(), "nothing is left to repair")
    world.documents.document("notes/a").set({"text": "kept", "number": 2**62})
    before = kept(world)
    history = world.events("survivor-2-auto")
    listed = message("quick", 99, f"gs://{TRAINING}/quick/run-99", when="off")
    ids = [world.publish(listed) for _ in range(3)]
    mortal.kill()

    world = mortal.start()
    after = kept(world)
    # The last messages may have been handled before the kill, or are from now on.
    assert after["documents"].items() >= before["documents"].items()
    assert {**after, "documents": {}} == {**before, "documents": {}}
    assert world.events("survivor-2-auto")[: len(history)] == history
    run = until(lambda: world.document("training_runs/quick-99"), "run 99 is recorded")
    assert run["decisions"]["auto"]["deploy"] is False
    assert unread(world, len(ids) + 1) >= {("survivor", 2), ("quick", 99)}

    # The key opens both versions again, at the same URL, before anything was repaired.
    url = world.service("survivor").uri
    with Traffic(url, key) as traffic:
        if (world.deployment("survivor-2-auto") or {})["status"] == "deploying":
            until(lambda: set(traffic.versions()) == {"v1", "v2"}, "both versions answer")
        world.reconcile("survivor")
        failed = world.ended("survivor-2-auto", "failed")
        assert failed["reason"].startswith("its workflow execution ended as FAILED: ")
        world.unlocked("survivor")
        world.serves("survivor", v1=100)
        restored = time.monotonic()
        until(lambda: traffic.versions(restored)["v1"] > 50, "version 1 answers alone")
    assert set(traffic.versions(restored)) == {"v1"}
    assert traffic.failures() == []
    # The scheduled reconcile may have completed what this one began, and noted it.
    ended = [event for event in world.events("survivor-2-auto") if event["after"]][-1]
    assert (ended["actor"], ended["before"], ended["after"]) == (
        "reconcile",
        "deploying",
        "failed",
    )
    assert failed["steps"]["switch_traffic"]["error"] == failed["reason"]

    # Its message, delivered once more, is the request that failed; a new run is another.
    assert world.outcome(world.publish(rollout)) == "known"
    world.publish(message("survivor", 3, uris[3], strategy="immediate"))
    last = world.ended("survivor-3-auto", "active")
    assert last["version"] == 3
    world.unlocked("survivor")
    world.serves("survivor", v3=100)
    statuses = [one["status"] for one in world.deployments("survivor")]
    assert statuses == ["inactive", "failed", "active"]


def unread(world: World, at_least: int) -> set[tuple[str, int]]:
    """Return model and run of the messages that wait on the subscription `unread`."""
    found: dict[str, tuple[str, int]] = {}

    def pulled() -> bool:
        answer = world.subscriber.pull(subscription=UNREAD, max_messages=100, timeout=30)
        for received in answer.received_messages:
            body = json.loads(received.message.data)
            found[received.message.message_id] = (body["model_id"], body["run_number"])
        return len(found) >= at_least

    until(pulled, "the messages that nobody read")
    return set(found.values())


def test_killed_at_any_moment_every_promise_still_holds(
    mortal: Mortal, artifacts: dict[str, Path]
) -> None:
    """The moments are random on purpose; a failure says what was done, and when.

    Every other time a person's rollback or cancel is under way, too.
    """
    world = mortal.world
    uris = {run: world.upload(artifacts["good"], "quick", run) for run in range(1, KILLS + 2)}
    for run in range(1, KILLS + 1):
        body = message("quick", run, uris[run], strategy="gradual", steps_percent=[50], over="1s")
        world.publish(body)
        waited_s, doing = random.uniform(0.0, 2.5), ""
        time.sleep(waited_s)
        if run % 2 == 0:
            doing = random.choice(("roll_back", "cancel"))
            person = threading.Thread(target=interfere, args=(world, doing, run))
            person.start()
            time.sleep(random.uniform(0.0, 0.4))
        mortal.kill()
        if doing:
            person.join()
        world = mortal.start()
        when = f"killed {waited_s:.3f} s after run {run} was published {doing}"
        assert sum(served(world.service("quick")).values()) == 100, when
        settle(world, body)
        check(world, when)
    last = f"quick-{KILLS + 1}-auto"
    world.publish(message("quick", KILLS + 1, uris[KILLS + 1], strategy="immediate"))
    world.ended(last, "active")
    world.unlocked("quick")
    check(world, "at the end")


def interfere(world: World, function: str, run: int) -> None:
    """Ask for a rollback or a cancel; whether it is answered is the kill's affair."""
    about = (
        {"model_id": "quick"} if function == "roll_back" else {"deployment_id": f"quick-{run}-auto"}
    )
    with suppress(requests.RequestException):
        world.call(function, {**about, "reason": "a test's"})


def settle(world: World, body: dict[str, Any]) -> None:
    """Reconcile, with the message delivered once more, until nothing is under way."""
    deployment_id = f"quick-{body['run_number']}-auto"
    until(lambda: world.deployment(deployment_id), f"{deployment_id} is there")
    # Nobody claimed it when it was killed before its first step: this delivery starts it.
    world.publish(body)

    def settled() -> bool:
        world.reconcile()
        model = world.document("models/quick")
        return model is not None and model["lock"] is None and model["waiting"] is None

    until(settled, "everything is settled")


def check(world: World, when: str) -> None:
    """Fail unless what is promised about a model at rest is true."""
    deployments = world.deployments("quick")
    model = world.document("models/quick") or {}
    assert "deploying" not in {one["status"] for one in deployments}, when
    active = [one["id"] for one in deployments if one["status"] == "active"]
    assert active == ([model["active"]] if model["active"] else []), when
    versions = [one["version"] for one in deployments]
    assert versions == list(range(1, len(deployments) + 1)), when
    assert len({one["training_run"] for one in deployments}) == len(deployments), when

    service = world.service("quick")
    assert served(service) == specified(service), when
    (version,) = served(service)
    desired = {version_of(name): percent for name, percent in model["desired"].items()}
    assert desired in ({}, {version: 100}), when
    expected = f"v{world.deployment(active[0])['version']}" if active else "v0"  # type: ignore[index]
    assert version == expected, when
    for one in deployments:
        assert one["healthy"] or one["status"] in ("failed", "cancelled"), when
        last = [event for event in world.events(one["id"]) if event["after"]][-1]
        assert last["after"] == one["status"], when
        assert last["actor"], when
        assert last["reason"], when
    answer = requests.get(f"{service.uri}/health", timeout=60)
    assert answer.status_code == (200 if active else 503), when
    assert answer.json()["model_version"] == (version if active else ""), when
