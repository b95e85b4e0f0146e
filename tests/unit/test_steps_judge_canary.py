"""While a stage bakes: measured, judged, recorded; and a person's word counts at the next poll."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from functions.cancel import stop
from functions.judge_canary import look
from shared.domain.canary import Judgement, Verdict
from shared.domain.deployment import Deployment
from shared.domain.model import approve, pause, resume, skip
from shared.errors import Conflict, Superseded, Unavailable
from shared.messages import Cancel, JudgeCanary
from tests.fakes import World
from tests.unit.stepping import (
    MODEL,
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

NAME = "movies-2-auto"
HOOK = "https://judge.example.com/canary"
CANARY = {"warm_up_s": 0, "metrics_lag_s": 0, "inconclusive_for_s": 600}
"""Every minute is judged as soon as it is over."""


def baking(canary: dict[str, Any] | None = None, **policy: Any) -> World:
    """Return a world in which v2 is at 10 percent, which bakes for ten minutes."""
    made = new_world(policy={"canary": CANARY | (canary or {}), **policy})
    roll_out(made, 1)
    return at_first_stage(made, NAME, 2)


def at_first_stage(world: World, name: str, run: int) -> World:
    publish(world, run, strategy="gradual", steps_percent=[10, 50], over="20m")
    advance(world, name, "check")
    step(world, "shift", name, percent=10)
    return world


@pytest.fixture
def world() -> World:
    return baking()


def ask(world: World, name: str = NAME, **given: str) -> Any:
    execution = given.get("execution", "executions/2" if name == NAME else "executions/1")
    command = JudgeCanary(deployment_id=name, execution=execution)
    return look(command, world.ports(), world.judging())


def say(world: World, word: Any) -> None:
    now = world.clock.now()
    at = {"percent": found(world).traffic_percent} if word is approve else {}
    world.state.change(MODEL, lambda book: word(book, NAME, now, "ops", "to see", **at))


def serve(world: World, minutes: int = 1, errors: int = 0, requests: int = 60, **more: Any) -> None:
    """Let minutes pass in which both versions are asked, and `errors` of v2's requests fail."""
    for _ in range(minutes):
        middle = world.clock.now() + timedelta(seconds=30)
        world.requests.count(SERVICE, V1, middle, 300)
        if requests:
            world.requests.count(SERVICE, V2, middle, requests, errors, **more)
        world.clock.sleep(60)


def found(world: World, name: str = NAME) -> Deployment:
    return world.state.deployment(name)


def events(world: World, *actions: str) -> list[str]:
    return [one.reason for one in world.state.events(NAME) if one.action in actions]


def test_good_candidate_bakes_as_long_as_planned_and_goes_on(world: World) -> None:
    waited_s = 0.0
    while True:
        serve(world)
        waited_s += 60
        answer = ask(world)
        if answer["answer"] != "wait":
            break
        assert answer["wait_s"] > 0
    assert answer["answer"] == "advance"
    assert waited_s == 600
    assert found(world).judgement["verdict"] == "pass"
    assert [one.split(":")[0] for one in events(world, "judged")] == ["pass at 10 %"]


def test_bad_candidate_is_aborted_while_it_bakes_and_the_reason_names_the_numbers(
    world: World,
) -> None:
    serve(world, 3, errors=12)
    answer = ask(world)
    assert answer["answer"] == "abort"
    assert answer["why"].startswith("canary at 10 %: 36 of 180 requests failed (20.0%)")
    kept = found(world).judgement
    assert kept["verdict"] == "fail"
    assert kept["numbers"]["candidate_errors"] == 36
    assert kept["numbers"]["live_requests"] == 900
    assert kept["at"] == world.clock.now()
    assert [one[:12] for one in events(world, "judged")] == ["fail at 10 %"]


@pytest.mark.parametrize("word", [pause, approve, skip], ids=lambda word: word.__name__)
def test_breach_aborts_whatever_a_person_said(world: World, word: Any) -> None:
    say(world, word)
    serve(world, 3, errors=60)
    assert ask(world)["answer"] == "abort"


def test_slow_candidate_is_aborted(world: World) -> None:
    world.clock.sleep(0)
    serve(world, 4, latency_ms=40.0)
    answer = ask(world)
    assert answer["answer"] == "abort"
    assert "p95" in answer["why"]


def test_stage_without_requests_is_never_passed_and_held_in_the_end(world: World) -> None:
    answers = []
    for _ in range(21):
        serve(world, requests=0)
        answers.append(ask(world)["answer"])
    assert answers == ["wait"] * 19 + ["hold"] * 2
    assert found(world).judgement["verdict"] == "inconclusive"
    assert len(events(world, "holding")) == 1
    assert "could not be judged" in events(world, "holding")[0]
    say(world, approve)
    assert ask(world)["answer"] == "advance"


def test_stage_without_requests_is_aborted_where_the_policy_says_so() -> None:
    world = baking({"on_inconclusive": "abort"})
    serve(world, 19, requests=0)
    assert ask(world)["answer"] == "wait"
    serve(world, requests=0)
    answer = ask(world)
    assert answer["answer"] == "abort"
    assert "nothing of the candidate has been measured" in answer["why"]


def test_late_requests_end_the_extension_with_a_pass(world: World) -> None:
    serve(world, 12, requests=0)
    assert ask(world)["answer"] == "wait"
    serve(world, 4)
    assert ask(world)["answer"] == "advance"


# a person must agree


def test_hold_waits_for_the_approval_and_begins_once() -> None:
    world = baking(hold={"at_percent": [10], "limit_s": 3600})
    serve(world, 10)
    assert ask(world)["answer"] == "hold"
    since = found(world).holding_since
    serve(world, 5)
    assert ask(world)["answer"] == "hold"
    assert found(world).holding_since == since
    assert len(events(world, "holding")) == 1
    say(world, approve)
    assert ask(world)["answer"] == "advance"
    step(world, "shift", NAME, percent=50)
    assert found(world).holding_since is None
    serve(world, 10)
    assert ask(world)["answer"] == "advance"


def test_hold_that_nobody_answers_is_aborted_after_its_limit() -> None:
    world = baking(hold={"at_percent": [10], "limit_s": 1200})
    serve(world, 10)
    assert ask(world)["answer"] == "hold"
    serve(world, 19)
    assert ask(world)["answer"] == "hold"
    serve(world, 1)
    answer = ask(world)
    assert answer["answer"] == "abort"
    assert "nobody approved it in 1200 s" in answer["why"]


def test_breach_during_a_hold_aborts() -> None:
    world = baking(hold={"at_percent": [10]})
    serve(world, 10)
    assert ask(world)["answer"] == "hold"
    serve(world, 10, errors=50)
    assert ask(world)["answer"] == "abort"


def test_pause_begins_the_time_of_a_hold_anew() -> None:
    world = baking(hold={"at_percent": [10], "limit_s": 1200})
    serve(world, 10)
    ask(world)
    say(world, pause)
    serve(world, 40)
    assert ask(world)["answer"] == "wait"
    say(world, resume)
    assert ask(world)["answer"] == "hold"
    assert found(world).holding_since == world.clock.now()


# a person's word


def test_pause_holds_the_stage_until_it_is_resumed(world: World) -> None:
    say(world, pause)
    serve(world, 60)
    assert (ask(world)["answer"], ask(world)["why"]) == ("wait", "paused by a person")
    say(world, resume)
    assert ask(world)["answer"] == "advance"


def test_approval_ends_the_stage_at_once_and_counts_for_that_stage_only(world: World) -> None:
    say(world, pause)
    say(world, approve)
    assert ask(world)["why"] == "approved by a person"
    step(world, "shift", NAME, percent=50)
    assert ask(world)["answer"] == "wait"


def test_skip_goes_on_to_all_of_the_traffic_without_the_shares_between(world: World) -> None:
    shares: list[dict[str, int]] = []
    world.cloud_run.wrote = lambda _, split: shares.append(dict(split))
    say(world, skip)
    say(world, skip)
    for percent in (50, 100):
        assert ask(world)["answer"] == "advance"
        step(world, "shift", NAME, percent=percent)
    assert served(world) == {V2: 100}
    assert all(split == {V2: 100} for split in shares)
    assert events(world, "skipped") == ["to see"]
    step(world, "finish", NAME)
    assert found(world).status == "active"


@pytest.mark.parametrize("word", [approve, skip])
def test_nothing_can_be_approved_or_skipped_before_there_is_traffic(word: Any) -> None:
    world = new_world()
    publish(world, 1)
    with pytest.raises(Conflict):
        world.state.change(
            MODEL, lambda book: word(book, "movies-1-auto", world.clock.now(), "ops", "")
        )


def test_next_stage_forgets_the_judgement_and_is_judged_by_its_own_requests(world: World) -> None:
    serve(world, 10, errors=0)
    assert ask(world)["answer"] == "advance"
    step(world, "shift", NAME, percent=50)
    assert found(world).judgement == {}
    assert ask(world)["answer"] == "wait"
    assert found(world).judgement["verdict"] == "inconclusive"


# who is live


def test_first_deployment_is_compared_with_nothing() -> None:
    world = new_world(policy={"canary": CANARY})
    name = "movies-1-auto"
    at_first_stage(world, name, 1)
    for _ in range(10):
        at = world.clock.now() + timedelta(seconds=30)
        world.requests.count(SERVICE, V0, at, 300, errors=300)
        world.requests.count(SERVICE, V1, at, 60)
        world.clock.sleep(60)
    assert ask(world, name)["answer"] == "advance"
    assert "no live version" in found(world, name).judgement["why"]


# how often, and of whom


def test_monitoring_is_asked_once_for_each_minute_that_is_over(world: World) -> None:
    for _ in range(5):
        for _ in range(10):
            ask(world)
            world.clock.sleep(6)
    assert world.requests.asked == 4


def test_nothing_is_asked_and_nothing_recorded_where_judging_is_off() -> None:
    world = baking({"judge": "off"})
    serve(world, 10, errors=60)
    assert ask(world)["answer"] == "advance"
    assert world.requests.asked == 0
    assert found(world).judgement == {}


def test_report_records_the_failure_and_goes_on() -> None:
    world = baking({"judge": "report"})
    serve(world, 9, errors=60)
    assert ask(world)["answer"] == "wait"
    serve(world)
    assert ask(world)["answer"] == "advance"
    assert found(world).judgement["verdict"] == "fail"
    assert len(events(world, "judged")) == 1


def test_monitoring_that_is_away_is_inconclusive_and_asked_again(world: World) -> None:
    def away() -> None:
        raise Unavailable("Cloud Monitoring did not give request_count: 503")

    world.requests.before = away
    serve(world, 11)
    for asked in (1, 2):
        answer = ask(world)
        assert answer["answer"] == "wait"
        assert "did not give" in answer["why"]
        assert world.requests.asked == asked
    world.requests.before = lambda: None
    assert ask(world)["answer"] == "advance"


def test_answer_can_be_repeated_and_writes_nothing_new(world: World) -> None:
    serve(world, 3)
    first = ask(world)
    before = found(world)
    assert ask(world) == first
    assert found(world) == before


@pytest.mark.parametrize(
    ("says", "own_errors", "answer", "asked"),
    [
        pytest.param("pass", 0, "advance", True, id="both pass"),
        pytest.param("fail", 0, "abort", True, id="the webhook fails it"),
        pytest.param("inconclusive", 0, "wait", True, id="the webhook cannot say"),
        pytest.param("pass", 60, "abort", False, id="failed already"),
    ],
)
def test_webhook_is_heard(says: str, own_errors: int, answer: str, asked: bool) -> None:
    world = baking({"webhooks": [HOOK]})
    world.judges.says[HOOK] = Judgement(Verdict(says), "because")
    serve(world, 10, errors=own_errors)
    assert [ask(world)["answer"] for _ in range(3)] == [answer] * 3
    assert len(world.judges.asked) == asked
    for url, facts in world.judges.asked:
        assert url == HOOK
        assert (
            facts.items()
            >= {
                "deployment_id": NAME,
                "model_id": MODEL,
                "version": "v2",
                "percent": 10,
                "candidate_requests": 600,
            }.items()
        )
        assert facts["stage_began"].startswith("2026-11-24T")


def test_webhook_does_not_make_up_for_missing_requests() -> None:
    world = baking({"webhooks": [HOOK]})
    world.judges.says[HOOK] = Judgement(Verdict.PASS, "all is well")
    serve(world, 10, requests=0)
    assert ask(world)["answer"] == "wait"


# whose turn it is


def test_late_repeat_of_the_shift_does_not_begin_the_bake_again(world: World) -> None:
    serve(world, 10)
    step(world, "shift", NAME, percent=10)
    assert ask(world)["answer"] == "advance"


def test_overtaken_rollout_is_told_so_and_another_execution_too(world: World) -> None:
    with pytest.raises(Conflict):
        ask(world, execution="executions/other")
    stop(Cancel(deployment_id=NAME), "ops", world.ports())
    with pytest.raises(Superseded):
        ask(world)


def during(world: World, act: Callable[[], object]) -> None:
    """Let something happen while Monitoring is asked."""

    def once() -> None:
        world.requests.before = lambda: None
        act()

    world.requests.before = once


def test_cancel_during_the_query_is_not_overwritten(world: World) -> None:
    serve(world, 10)
    during(world, lambda: stop(Cancel(deployment_id=NAME), "ops", world.ports()))
    with pytest.raises(Superseded):
        ask(world)
    assert found(world).judgement == {}


def test_pause_during_the_query_counts(world: World) -> None:
    serve(world, 10)
    during(world, lambda: say(world, pause))
    assert ask(world)["answer"] == "wait"
    assert found(world).paused


def test_judgement_of_a_stage_that_is_over_is_not_kept_for_the_next(world: World) -> None:
    serve(world, 10, errors=60)
    during(world, lambda: step(world, "shift", NAME, percent=50))
    assert ask(world)["answer"] == "wait"
    assert found(world).judgement == {}
