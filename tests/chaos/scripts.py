"""What hypothesis draws: a scene, and a script of who runs how long and what happens then."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from typing import Any

from hypothesis import strategies as st

from functions.prepare_model import POLL_S, POLLED_FOR_S
from shared.domain.policy import Drift, Superseding
from tests.chaos.play import FAULTS, HEALTHY, JUDGES, PORTS, Play, Scene
from tests.chaos.scheduling import Actor, Fault

ACTORS_AT_MOST = 14
RARE = ("jobs", "executions", "dead_letters", "events", "predictions", "keys")
"""Ports that are called seldom: half of the faults wait for one of them."""
LOOKS_OF_A_CALL = int(POLLED_FOR_S / POLL_S)


class Then(StrEnum):
    """What happens when the current actor has run for a while."""

    GO_ON = "go on"
    SWITCH = "switch"
    CRASH = "crash"
    CRASH_AFTER = "crash after"
    LOST_ANSWER = "lost answer"
    UNAVAILABLE = "unavailable"
    OUTAGE = "outage"
    STALE_ETAG = "stale etag"
    CONFLICT = "conflict"
    TIME_OUT = "time out"
    ROLL_BACK = "roll back"
    CANCEL = "cancel"
    RECONCILE = "reconcile"
    REDELIVER = "redeliver"
    NEXT_RUN = "next run"
    LATE_RUN = "late run"
    SAME_RUN_AGAIN = "same run again"
    POISON = "poison"
    END_EXECUTION = "end execution"
    BY_HAND = "by hand"
    SAY = "say"
    STRAY = "stray call"


Move = tuple[tuple[int, str], Then, int]
"""((points that the current actor passes first, of which call), what then, which of several)."""

CALLS = [
    *("commit", "write_traffic", "state.model", "cloud_run.service", "answers"),
    *("jobs.start", "jobs.execution", "executions.start", "write_template", "acknowledge"),
    *("objects.create", "predictions.health", "keys.create", "executions.cancel", "publish"),
]
"""Where it is worth to stop: right before one of these, or anywhere."""

stops = st.one_of(
    st.tuples(st.integers(0, 3), st.sampled_from(CALLS)),
    st.tuples(st.integers(0, 12), st.just("")),
    st.tuples(st.integers(0, 192), st.just("")),
)
OFTEN = [Then.CRASH, Then.CRASH_AFTER, Then.LOST_ANSWER, Then.UNAVAILABLE, Then.SWITCH]
moves = st.tuples(stops, st.sampled_from([*Then, *OFTEN, *OFTEN]), st.integers(0, 9))
scripts = st.lists(moves, min_size=8, max_size=32)
scenes = st.builds(
    Scene,
    history=st.sampled_from([2, 1, 0, 3, 4]),
    fault=st.sampled_from([HEALTHY] * 2 * len(FAULTS) + list(FAULTS)),
    starts_after=st.integers(0, 1),
    serves_after=st.integers(0, 2),
    prepares_after=st.sampled_from([0, 1, LOOKS_OF_A_CALL + 2]),
    judge=st.sampled_from(["off"] * len(JUDGES) + list(JUDGES)),
    hold=st.sampled_from([False, False, True]),
    superseding=st.sampled_from(Superseding),
    drift=st.sampled_from(Drift),
    keeps=st.sampled_from([1, 5]),
)


@contextlib.contextmanager
def playing(scene: Scene) -> Iterator[Play]:
    """Give a play in that scene; what fails shows its trace."""
    play = Play(scene)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            play.history()
            yield play
        except BaseException as found:
            found.add_note("\n".join(play.scheduler.trace))
            raise
        finally:
            play.scheduler.stop()


def played(script: Sequence[Move], scene: Scene) -> Play:
    """Return a play in which a run was published and the script followed to its end."""
    with playing(scene) as play:
        play.publish()
        _perform(play, script)
    return play


def to_json(script: Sequence[Move], scene: Scene) -> str:
    """Return script and scene in one line, for `from_json`."""
    return json.dumps({"scene": asdict(scene), "script": script}, separators=(",", ":"))


def from_json(text: str) -> tuple[list[Move], Scene]:
    """Return the script and the scene."""
    found = json.loads(text)
    script: list[Move] = [
        ((steps, call), Then(then), choice) for (steps, call), then, choice in found["script"]
    ]
    return script, Scene(**found["scene"])


def _perform(play: Play, script: Sequence[Move]) -> None:
    """Follow the script, let everybody finish, and check what is left."""
    scheduler = play.scheduler
    current: Actor | None = scheduler.alive[-1] if scheduler.alive else None
    for (steps, call), then, choice in script:
        if current is None or current.ended:
            current = scheduler.alive[-1] if scheduler.alive else None
        if current is not None:
            scheduler.run(current, steps, call)
        scheduler.say(f"-- {then} {choice}")
        current = _next(play, current, then, choice) or current
    play.quiet_down()
    play.rules.at_the_end()
    play.note_ends()


def _next(play: Play, current: Actor | None, then: Then, choice: int) -> Actor | None:
    """Do what happens then; return who goes on, or None where that stays as it is."""
    if then in _TO_AN_ACTOR:
        if current and not current.ended:
            return _TO_AN_ACTOR[then](play, current, choice)
    elif then in _TO_THE_WORLD:
        _TO_THE_WORLD[then](play, choice)
    elif then is Then.SWITCH:
        alive = play.scheduler.alive
        return alive[choice % len(alive)] if alive else None
    elif then is not Then.GO_ON and len(play.scheduler.alive) < ACTORS_AT_MOST:
        return _ACTORS[then](play, choice)
    return None


def _dies(_: Play, actor: Actor, __: int) -> None:
    actor.dead = True


def _stale(play: Play, actor: Actor, _: int) -> None:
    """Others change the service between the actor's reading it and its writing over it."""
    play.scheduler.run(actor, 0, "write_traffic")
    play.touch_service()


def _conflict(play: Play, actor: Actor, _: int) -> None:
    """Others change the model between the actor's reading it and its commit."""
    play.scheduler.run(actor, 0, "commit")
    play.touch_model()


def _meets(fault: Fault) -> Callable[[Play, Actor, int], None]:
    def meet(_: Play, actor: Actor, choice: int) -> None:
        actor.fault, actor.fault_at = fault, RARE[choice] if choice < len(RARE) else ""

    return meet


def _outage(play: Play, choice: int) -> None:
    play.scheduler.outages[PORTS[choice % len(PORTS)]] += 2


def _reconcile(play: Play, choice: int) -> Actor:
    play.world.clock.time += (timedelta(), timedelta(seconds=130), timedelta(hours=7))[choice % 3]
    return play.reconcile()


def _redeliver(play: Play, choice: int) -> Actor | None:
    return play.deliver(list(play.messages)[choice % len(play.messages)])


_TO_AN_ACTOR: dict[Then, Callable[[Play, Actor, int], Actor | None]] = {
    Then.CRASH: _dies,
    Then.CRASH_AFTER: _meets(Fault.DIES_AFTER),
    Then.LOST_ANSWER: _meets(Fault.LOST_ANSWER),
    Then.UNAVAILABLE: _meets(Fault.UNAVAILABLE),
    Then.STALE_ETAG: _stale,
    Then.CONFLICT: _conflict,
    Then.TIME_OUT: lambda play, actor, _: play.time_out(actor),
}
_TO_THE_WORLD: dict[Then, Callable[[Play, int], Any]] = {
    Then.OUTAGE: _outage,
    Then.END_EXECUTION: lambda play, choice: play.end_execution(choice),
    Then.BY_HAND: lambda play, choice: play.change_by_hand(choice),
    Then.LATE_RUN: lambda play, choice: play.hold_back("immediate" if choice % 2 else "gradual"),
}
_ACTORS: dict[Then, Callable[[Play, int], Actor | None]] = {
    Then.ROLL_BACK: lambda play, choice: play.roll_back(choice % 5 or None, choice > 4),
    Then.CANCEL: lambda play, choice: play.cancel(choice),
    Then.RECONCILE: _reconcile,
    Then.REDELIVER: _redeliver,
    Then.NEXT_RUN: lambda play, choice: play.publish("immediate" if choice % 2 else "gradual"),
    Then.SAME_RUN_AGAIN: lambda play, _: play.publish(again=True),
    Then.POISON: lambda play, choice: play.poison(choice),
    Then.SAY: lambda play, choice: play.say(choice),
    Then.STRAY: lambda play, choice: play.stray(choice),
}
