"""Tries to break the pipeline's invariants by everything that may happen at the same time.

A script says how long the current actor runs and what happens then: another one goes on, the
current one dies, its call is made again while it still runs, a message comes again, somebody
rolls back, cancels, pauses, or changes the traffic by hand. After every step the invariants are
checked; at the end everybody finishes, `reconcile` runs, and nothing may be left half-way.

These scripts are fixed; `make chaos` draws new ones, and TURNOUT_EXPLORE=1 sweeps without gaps.
"""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from shared.domain.deployment import Deployment, Status
from tests.chaos.invariants import INVARIANTS, Invariants
from tests.chaos.play import FAULTS, Play, Scene
from tests.chaos.scripts import (
    Move,
    Then,
    from_json,
    played,
    playing,
    scenes,
    scripts,
    to_json,
)
from tests.unit.stepping import MODEL, SERVICE

EXPLORE = os.environ.get("TURNOUT_EXPLORE", "") not in ("", "0")


@settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(script=scripts, scene=scenes)
def test_any_interleaving_keeps_the_invariants_and_ends_with_nothing_half_way(
    script: list[Move], scene: Scene
) -> None:
    played(script, scene)


# What follows sweeps the places where it matters most, one after the other. All plays begin
# with one active version and, unless something comes between, deploy a second one gradually.

ARRIVED: Move = ((160, ""), Then.GO_ON, 0)
"""The message is handled: its execution has started and not run yet."""
POINTS_OF_A_ROLLOUT = 187
EVERY = 1 if EXPLORE else 5


def test_undisturbed_rollout_ends_active() -> None:
    assert newest(played([], Scene(history=1))).status is Status.ACTIVE


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_model_ends_failed_with_its_reason(fault: str) -> None:
    ended = newest(played([], Scene(history=1, fault=fault)))
    assert ended.status is Status.FAILED
    assert ended.reason


def test_process_that_dies_at_any_call_is_replaced_and_the_rollout_ends_active() -> None:
    for point in range(POINTS_OF_A_ROLLOUT):
        play = played([ARRIVED, ((point, ""), Then.CRASH, 0)], Scene(history=1))
        assert newest(play).status is Status.ACTIVE, point
    for point in range(10):
        play = played([((point, ""), Then.CRASH, 0)], Scene(history=1))
        assert newest(play).status is Status.ACTIVE, point


def test_execution_that_dies_at_any_call_ends_failed_or_had_finished() -> None:
    for point in range(POINTS_OF_A_ROLLOUT):
        play = played([ARRIVED, ((point, ""), Then.END_EXECUTION, 0)], Scene(history=1))
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
        assert newest(played(script, Scene(history=1))).status is Status.ACTIVE, (point, later)


@pytest.mark.parametrize("way_back", [Then.ROLL_BACK, Then.CANCEL])
def test_way_back_that_dies_at_any_call_is_completed_or_never_began(way_back: Then) -> None:
    for write, point in itertools.product(range(4), range(15)):
        script: list[Move] = [
            ARRIVED,
            ((write, "write_traffic"), way_back, 0),
            ((point, ""), Then.CRASH, 0),
        ]
        ended = newest(played(script, Scene(history=1)))
        assert ended.status in (Status.ACTIVE, Status.CANCELLED), (write, point)


def test_rollback_that_died_half_way_is_completed_by_asking_again_and_goes_no_further() -> None:
    for point in range(15):
        with playing(Scene(history=3)) as play:
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
        with playing(Scene(history=2)) as play:
            rollback = play.roll_back()
            play.scheduler.run(rollback, point)
            rollback.dead = True
            play.scheduler.run_all()
            began = play.lock is not None
            play.quiet_down()
            play.rules.at_the_end()
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
        play = played(script, Scene(history=1))
        assert len(play.workflows) == 3
        assert newest(play).status is Status.ACTIVE, point


def test_call_that_arrives_out_of_its_turn_breaks_nothing() -> None:
    for point, call in itertools.product(range(10, POINTS_OF_A_ROLLOUT, 2 * EVERY), range(10)):
        played([ARRIVED, ((point, ""), Then.STRAY, call)], Scene(history=1))


def test_change_to_latest_by_hand_at_any_call_gives_no_unchecked_revision_traffic() -> None:
    for history, point in itertools.product((0, 1), range(82)):
        to_latest = 1
        played([ARRIVED, ((point, ""), Then.BY_HAND, to_latest)], Scene(history=history))


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
        play = played([ARRIVED, ((point, ""), then, choice)], Scene(history=2))
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
        played(script, Scene(history=2))


def newest(play: Play) -> Deployment:
    return play.world.state.deployments(MODEL)[0]


def revision(version: int) -> str:
    return f"{SERVICE}-v{version}-1"


def _last_post(play: Play) -> str:
    return [line for line in play.scheduler.trace if "POST" in line][-1]


def test_every_invariant_is_checked_somewhere() -> None:
    assert list(INVARIANTS) == list(range(1, 9))
    for words, checks in INVARIANTS.values():
        assert words
        assert all(hasattr(Invariants, check) for check in checks.values())


@pytest.mark.parametrize("fault", [Then.CRASH_AFTER, Then.LOST_ANSWER, Then.UNAVAILABLE])
def test_fault_of_any_call_is_got_over_and_the_rollout_ends_active(fault: Then) -> None:
    any_port = 9
    for point in range(0, POINTS_OF_A_ROLLOUT, EVERY):
        play = played([ARRIVED, ((point, ""), fault, any_port)], Scene(history=1))
        assert newest(play).status is Status.ACTIVE, point


def test_sequence_comes_out_the_same_again() -> None:
    script: list[Move] = [
        ARRIVED,
        ((40, ""), Then.LOST_ANSWER, 9),
        ((60, ""), Then.ROLL_BACK, 0),
        ((5, ""), Then.CONFLICT, 0),
        ((9, ""), Then.NEXT_RUN, 0),
    ]
    again = played(*from_json(to_json(script, Scene())))
    assert played(script, Scene()).scheduler.trace == again.scheduler.trace
