"""The canary's judge on the local cloud: real requests, measured at the front door."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.traffic import Traffic
from tests.e2e.world import ENDED, World, message, served, until

FAILING, EQUAL = "judged", "equal"
JUDGED_WITHIN_S = 400
"""Two minutes have to be over before a stage may fail, one before it may pass."""
GOOD_RUN, CANDIDATE_RUN = 2, 3
PER_SECOND = 60


@pytest.fixture(scope="module")
def traffic(world: World, artifacts: dict[str, Path]) -> Any:
    """Requests to version 1 of both models, whose candidates are judged at the same time."""
    for model in (FAILING, EQUAL):
        publish(world, artifacts, model, GOOD_RUN, strategy="immediate")
    with contextlib.ExitStack() as stack:
        made = {}
        for model in (FAILING, EQUAL):
            world.ended(deployment(model, GOOD_RUN), "active")
            world.unlocked(model)
            url = world.service(model).uri
            made[model] = stack.enter_context(Traffic(url, world.key(model), per_second=PER_SECOND))
        for one in made.values():
            until(lambda one=one: one.versions()["v1"] > PER_SECOND, "version 1 answers")
            assert one.failures() == []
        for model in made:
            publish(world, artifacts, model, CANDIDATE_RUN)
        yield made


def publish(world: World, artifacts: dict[str, Path], model: str, run: int, **deploy: Any) -> None:
    uri = world.upload(artifacts["good"], model, run)
    world.publish(message(model, run, uri, **{"when": "always", **deploy}))


def deployment(model: str, run: int) -> str:
    return f"{model}-{run}-auto"


def judged(world: World, model: str) -> dict[str, Any]:
    """Return the candidate's deployment once its rollout has ended."""

    def ended() -> dict[str, Any] | None:
        found = world.deployment(deployment(model, CANDIDATE_RUN))
        return found if found and found["status"] in ENDED else None

    return until(ended, f"{model} is judged", JUDGED_WITHIN_S)


def test_candidate_that_fails_a_share_of_its_requests_is_aborted_with_the_numbers(
    world: World, traffic: dict[str, Traffic]
) -> None:
    failed = judged(world, FAILING)
    until(lambda: served(world.service(FAILING)) == {"v1": 100}, "version 1 has all of it again")
    world.unlocked(FAILING)

    back, mine = time.monotonic(), traffic[FAILING]
    until(lambda: mine.versions(back)["v1"] > 5 * PER_SECOND, "version 1 answers all again")
    assert set(mine.versions(back)) == {"v1"}
    failures = [one for one in list(mine.answers) if one.failure]
    assert failures
    assert all(one.sent_at < back for one in failures)

    numbers = failed["judgement"]["numbers"]
    assert failed["status"] == "failed"
    assert failed["judgement"]["verdict"] == "fail"
    assert numbers["candidate_errors"] <= len(failures)
    assert failed["reason"].startswith("canary at 30 %: ")
    said = f"{numbers['candidate_errors']} of {numbers['candidate_requests']} requests failed"
    assert said in failed["reason"]
    events = world.events(deployment(FAILING, CANDIDATE_RUN))
    assert [one["reason"].split(":")[0] for one in events if one["action"] == "judged"] == [
        "fail at 30 %"
    ]


def test_equal_candidate_passes_and_gets_all_of_the_traffic(
    world: World, traffic: dict[str, Traffic]
) -> None:
    done = judged(world, EQUAL)

    assert done["status"] == "active", done["reason"]
    assert traffic[EQUAL].failures() == []
    events = world.events(deployment(EQUAL, CANDIDATE_RUN))
    [passed] = [one["reason"] for one in events if one["action"] == "judged"]
    assert passed.startswith("pass at 30 %: 0.00% errors")
