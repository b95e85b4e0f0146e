"""The canary's judge on the local cloud: real requests, measured at the front door."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.traffic import Traffic
from tests.e2e.world import ENDED, World, message, served, until

MODEL = "judged"
JUDGED_WITHIN_S = 400
"""Two minutes have to be over before a stage may fail, one before it may pass."""
GOOD_RUN, FAILING_RUN, EQUAL_RUN = 2, 3, 4
PER_SECOND = 60


@pytest.fixture(scope="module")
def traffic(world: World, artifacts: dict[str, Path]) -> Any:
    """Requests to version 1, which has the traffic."""
    publish(world, artifacts, GOOD_RUN, strategy="immediate")
    key = world.key(MODEL)
    world.ended(deployment(GOOD_RUN), "active")
    world.unlocked(MODEL)
    with Traffic(world.service(MODEL).uri, key, per_second=PER_SECOND) as made:
        until(lambda: made.versions()["v1"] > PER_SECOND, "version 1 answers")
        yield made


def publish(world: World, artifacts: dict[str, Path], run: int, **deploy: Any) -> None:
    uri = world.upload(artifacts["good"], MODEL, run)
    world.publish(message(MODEL, run, uri, **{"when": "always", **deploy}))


def deployment(run: int) -> str:
    return f"{MODEL}-{run}-auto"


def judged(world: World, run: int) -> dict[str, Any]:
    """Return a rollout's deployment once it has ended."""

    def ended() -> dict[str, Any] | None:
        found = world.deployment(deployment(run))
        return found if found and found["status"] in ENDED else None

    return until(ended, f"run {run} is judged", JUDGED_WITHIN_S)


def test_candidate_that_fails_a_share_of_its_requests_is_aborted_with_the_numbers(
    world: World, artifacts: dict[str, Path], traffic: Traffic
) -> None:
    assert traffic.failures() == []
    publish(world, artifacts, FAILING_RUN)
    failed = judged(world, FAILING_RUN)
    until(lambda: served(world.service(MODEL)) == {"v1": 100}, "version 1 has all of it again")
    world.unlocked(MODEL)

    back = time.monotonic()
    until(lambda: traffic.versions(back)["v1"] > 5 * PER_SECOND, "version 1 answers all again")
    assert set(traffic.versions(back)) == {"v1"}
    failures = [one for one in list(traffic.answers) if one.failure]
    assert failures
    assert all(one.sent_at < back for one in failures)

    numbers = failed["judgement"]["numbers"]
    assert failed["status"] == "failed"
    assert failed["judgement"]["verdict"] == "fail"
    assert numbers["candidate_errors"] <= len(failures)
    assert failed["reason"].startswith("canary at 30 %: ")
    said = f"{numbers['candidate_errors']} of {numbers['candidate_requests']} requests failed"
    assert said in failed["reason"]
    events = world.events(deployment(FAILING_RUN))
    assert [one["reason"].split(":")[0] for one in events if one["action"] == "judged"] == [
        "fail at 30 %"
    ]


def test_equal_candidate_passes_and_gets_all_of_the_traffic(
    world: World, artifacts: dict[str, Path], traffic: Traffic
) -> None:
    publish(world, artifacts, EQUAL_RUN)
    begun = time.monotonic()
    done = judged(world, EQUAL_RUN)

    assert done["status"] == "active", done["reason"]
    assert [one for one in list(traffic.answers) if one.failure and one.sent_at > begun] == []
    [passed] = [
        one["reason"] for one in world.events(deployment(EQUAL_RUN)) if one["action"] == "judged"
    ]
    assert passed.startswith("pass at 30 %: 0.00% errors")
