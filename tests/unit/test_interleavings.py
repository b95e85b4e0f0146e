"""Tries to break the pipeline's invariants by everything that may happen at the same time.

A script says how long the current actor runs and what happens then: another one goes on, the
current one dies, its call is made again while it still runs, a message comes again, somebody
rolls back, cancels, pauses, or changes the traffic by hand. After every step the invariants are
checked; at the end everybody finishes, `reconcile` runs, and nothing may be left half-way.

TURNOUT_EXPLORE=20000 tries that many new scripts instead of the fixed ones.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from functions.prepare_model import POLL_S, POLLED_FOR_S
from shared.domain.deployment import Deployment, Status
from tests.unit.play import FAULTS, HEALTHY, Play
from tests.unit.scheduling import Actor
from tests.unit.stepping import MODEL, SERVICE

EXPLORE = int(os.environ.get("TURNOUT_EXPLORE", "0"))
ACTORS_AT_MOST = 14
LOOKS_OF_A_CALL = int(POLLED_FOR_S / POLL_S)


class Then(StrEnum):
    """What happens when the current actor has run for a while."""

    GO_ON = "go on"
    SWITCH = "switch"
    CRASH = "crash"
    TIME_OUT = "time out"
    ROLL_BACK = "roll back"
    CANCEL = "cancel"
    RECONCILE = "reconcile"
    REDELIVER = "redeliver"
    NEXT_RUN = "next run"
    SAME_RUN_AGAIN = "same run again"
    END_EXECUTION = "end execution"
    BY_HAND = "by hand"
    SAY = "say"
    STRAY = "stray call"


Move = tuple[tuple[int, str], Then, int]
"""((points that the current actor passes first, of which call), what then, which of several)."""

CALLS = [
    *("", "commit", "write_traffic", "state.model", "cloud_run.service", "answers"),
    *("jobs.start", "jobs.execution"),
]
"""Where it is worth to stop: anywhere, or right before one of these."""

stops = st.tuples(st.integers(0, 12), st.sampled_from(CALLS)) | st.tuples(
    st.integers(0, 192), st.just("")
)
moves = st.tuples(stops, st.sampled_from(Then), st.integers(0, 9))
scripts = st.lists(moves, min_size=4, max_size=24)


def perform(play: Play, script: list[Move]) -> None:
    """Play the script to its end, everybody to theirs, and check what is left."""
    scheduler = play.scheduler
    current: Actor | None = scheduler.alive[-1] if scheduler.alive else None
    for (steps, call), then, choice in script:
        if current is None or current.ended:
            current = scheduler.alive[-1] if scheduler.alive else None
        if current is not None:
            scheduler.run(current, steps, call)
        scheduler.trace.append(f"-- {then} {choice}")
        current = _next(play, current, then, choice)
    play.quiet_down()
    play.check()
    play.check_quiet()


def _next(play: Play, current: Actor | None, then: Then, choice: int) -> Actor | None:
    alive = play.scheduler.alive
    if then is Then.SWITCH:
        return alive[choice % len(alive)] if alive else None
    if then is Then.CRASH and current and not current.ended and current.thread:
        current.dead = True
    elif then is Then.TIME_OUT and current:
        return play.time_out(current)
    elif then is Then.END_EXECUTION:
        play.end_execution(choice)
    elif then is Then.BY_HAND:
        play.change_by_hand(choice)
    if len(alive) >= ACTORS_AT_MOST:
        return current
    if then is Then.ROLL_BACK:
        return play.roll_back(choice % 5 or None)
    if then is Then.SAY:
        return play.say(choice)
    if then is Then.STRAY:
        return play.stray(choice)
    if then is Then.CANCEL:
        return play.cancel(choice)
    if then is Then.RECONCILE:
        play.world.clock.time += timedelta(seconds=130 if choice % 2 else 0)
        return play.reconcile()
    if then is Then.REDELIVER and play.messages:
        return play.deliver(*play.messages[choice % len(play.messages)])
    if then is Then.NEXT_RUN:
        return play.publish("immediate" if choice % 2 else "gradual")
    if then is Then.SAME_RUN_AGAIN:
        return play.publish(again=True)
    return current


@contextlib.contextmanager
def playing(
    history: int = 2,
    fault: str = HEALTHY,
    starts_after: int = 0,
    serves_after: int = 0,
    prepares_after: int = 1,
) -> Iterator[Play]:
    """Give a play that began with `history` active versions; what fails shows its trace."""
    play = Play(fault, starts_after, serves_after, prepares_after)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            for _ in range(history):
                play.publish("immediate")
                play.quiet_down()
            play.scheduler.trace.clear()
            play.faulty_from = history + 1
            yield play
        except BaseException as found:
            found.add_note("\n".join(play.scheduler.trace))
            raise
        finally:
            play.scheduler.stop()


def played(script: list[Move], **world: Any) -> Play:
    """Return a play in which a run was published and the script followed."""
    with playing(**world) as play:
        play.publish()
        perform(play, script)
    return play


@settings(
    max_examples=EXPLORE or 300,
    derandomize=not EXPLORE,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    script=scripts,
    history=st.integers(0, 2),
    fault=st.just(HEALTHY) | st.sampled_from(FAULTS),
    starts_after=st.integers(0, 1),
    serves_after=st.integers(0, 2),
    prepares_after=st.sampled_from([0, 1, LOOKS_OF_A_CALL + 2]),
)
def test_any_interleaving_keeps_the_invariants_and_ends_with_nothing_half_way(
    script: list[Move],
    history: int,
    fault: str,
    starts_after: int,
    serves_after: int,
    prepares_after: int,
) -> None:
    played(
        script,
        history=history,
        fault=fault,
        starts_after=starts_after,
        serves_after=serves_after,
        prepares_after=prepares_after,
    )


# What follows sweeps the places where it matters most, one after the other. All plays begin
# with one active version and, unless something comes between, deploy a second one gradually.

ARRIVED: Move = ((160, ""), Then.GO_ON, 0)
"""The message is handled: its execution has started and not run yet."""
POINTS_OF_A_ROLLOUT = 187
EVERY = 1 if EXPLORE else 5


def test_undisturbed_rollout_ends_active() -> None:
    assert newest(played([], history=1)).status is Status.ACTIVE


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_model_ends_failed_with_its_reason(fault: str) -> None:
    ended = newest(played([], history=1, fault=fault))
    assert ended.status is Status.FAILED
    assert ended.reason


def test_process_that_dies_at_any_call_is_replaced_and_the_rollout_ends_active() -> None:
    for point in range(POINTS_OF_A_ROLLOUT):
        play = played([ARRIVED, ((point, ""), Then.CRASH, 0)], history=1)
        assert newest(play).status is Status.ACTIVE, point
    for point in range(10):
        play = played([((point, ""), Then.CRASH, 0)], history=1)
        assert newest(play).status is Status.ACTIVE, point


def test_execution_that_dies_at_any_call_ends_failed_or_had_finished() -> None:
    for point in range(POINTS_OF_A_ROLLOUT):
        play = played([ARRIVED, ((point, ""), Then.END_EXECUTION, 0)], history=1)
        ended = newest(play)
        assert ended.status in (Status.FAILED, Status.ACTIVE), point
        assert "finish" in _last_post(play) or ended.status is Status.FAILED, point


def test_call_that_is_repeated_while_it_still_runs_leaves_the_rollout_active() -> None:
    for point, later in itertools.product(
        range(0, POINTS_OF_A_ROLLOUT, EVERY), range(0, POINTS_OF_A_ROLLOUT, 3 * EVERY)
    ):
        script: list[Move] = [
            ARRIVED,
            ((point, ""), Then.TIME_OUT, 0),
            ((later, ""), Then.SWITCH, 0),
            ((POINTS_OF_A_ROLLOUT, ""), Then.GO_ON, 0),
        ]
        assert newest(played(script, history=1)).status is Status.ACTIVE, (point, later)


@pytest.mark.parametrize("way_back", [Then.ROLL_BACK, Then.CANCEL])
def test_way_back_that_dies_at_any_call_is_completed_or_never_began(way_back: Then) -> None:
    for write, point in itertools.product(range(4), range(15)):
        script: list[Move] = [
            ARRIVED,
            ((write, "write_traffic"), way_back, 0),
            ((point, ""), Then.CRASH, 0),
        ]
        ended = newest(played(script, history=1))
        assert ended.status in (Status.ACTIVE, Status.CANCELLED), (write, point)


def test_rollback_that_died_half_way_is_completed_by_asking_again_and_goes_no_further() -> None:
    for point in range(15):
        with playing(history=3) as play:
            first = play.roll_back()
            play.scheduler.run(first, point)
            first.dead = True
            play.scheduler.run_all()
            was_complete = play.served == {revision(2): 100} and play.lock is None
            play.roll_back()
            play.quiet_down()
        assert play.served == {revision(1 if was_complete else 2): 100}, point


def test_rollback_that_died_half_way_is_completed_by_reconcile_or_never_began() -> None:
    for point in range(15):
        with playing(history=2) as play:
            rollback = play.roll_back()
            play.scheduler.run(rollback, point)
            rollback.dead = True
            play.scheduler.run_all()
            began = play.lock is not None
            play.quiet_down()
            play.check_quiet()
        assert not began or play.served == {revision(1): 100}, point


def test_two_executions_of_a_deployment_pass_each_other_and_one_rolls_it_out() -> None:
    for point in range(40):
        script: list[Move] = [
            ARRIVED,
            ((0, ""), Then.REDELIVER, 1),
            ((POINTS_OF_A_ROLLOUT, ""), Then.SWITCH, 0),
            ((point, ""), Then.SWITCH, 1),
            ((POINTS_OF_A_ROLLOUT, ""), Then.GO_ON, 0),
        ]
        play = played(script, history=1)
        assert len(play.workflows) == 3
        assert newest(play).status is Status.ACTIVE, point


def test_call_that_arrives_out_of_its_turn_breaks_nothing() -> None:
    for point, call in itertools.product(range(10, POINTS_OF_A_ROLLOUT, 2 * EVERY), range(10)):
        played([ARRIVED, ((point, ""), Then.STRAY, call)], history=1)


def test_change_to_latest_by_hand_at_any_call_gives_no_unchecked_revision_traffic() -> None:
    for history, point in itertools.product((0, 1), range(82)):
        to_latest = 1
        played([ARRIVED, ((point, ""), Then.BY_HAND, to_latest)], history=history)


@pytest.mark.parametrize(
    ("then", "choice"),
    [
        pytest.param(Then.ROLL_BACK, 0, id="a rollback"),
        pytest.param(Then.ROLL_BACK, 1, id="a rollback further back"),
        pytest.param(Then.CANCEL, 0, id="a cancel"),
    ],
)
def test_rollout_stopped_at_any_call_while_somebody_goes_back_moves_no_traffic_after_it(
    then: Then, choice: int
) -> None:
    for point in range(0, POINTS_OF_A_ROLLOUT, 1 if then is Then.CANCEL or EXPLORE else 2):
        play = played([ARRIVED, ((point, ""), then, choice)], history=2)
        gone_back = newest(play).status in (Status.CANCELLED, Status.ROLLED_BACK)
        assert gone_back or "cancel refused" in str(play.scheduler.trace), point


BESIDE = [
    pytest.param(Then.ROLL_BACK, Then.ROLL_BACK, id="two rollbacks"),
    pytest.param(Then.CANCEL, Then.ROLL_BACK, id="a cancel and a rollback"),
    pytest.param(Then.ROLL_BACK, Then.CANCEL, id="a rollback and a cancel"),
    pytest.param(Then.ROLL_BACK, Then.RECONCILE, id="a rollback and reconcile"),
    pytest.param(Then.CANCEL, Then.RECONCILE, id="a cancel and reconcile"),
    pytest.param(Then.ROLL_BACK, Then.NEXT_RUN, id="a rollback and a newer run"),
    pytest.param(Then.CANCEL, Then.NEXT_RUN, id="a cancel and a newer run"),
]


@pytest.mark.parametrize(("first", "second"), BESIDE)
def test_rollout_stopped_right_before_it_writes_while_two_others_pass_each_other(
    first: Then, second: Then
) -> None:
    for write, one, other in itertools.product(
        range(1, 4) if EXPLORE else [2], range(5, 15), range(5, 15)
    ):
        script: list[Move] = [
            ARRIVED,
            ((write, "write_traffic"), first, 0),
            ((one, ""), second, 1),
            ((other, ""), Then.SWITCH, 1),
            ((POINTS_OF_A_ROLLOUT, ""), Then.SWITCH, 0),
            ((POINTS_OF_A_ROLLOUT, ""), Then.GO_ON, 0),
        ]
        played(script, history=2)


def newest(play: Play) -> Deployment:
    return play.world.state.deployments(MODEL)[0]


def revision(version: int) -> str:
    return f"{SERVICE}-v{version}-1"


def _last_post(play: Play) -> str:
    return [line for line in play.scheduler.trace if "POST" in line][-1]
