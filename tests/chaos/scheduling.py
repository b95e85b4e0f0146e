"""Runs several callers one at a time, switching between them only where it is told to.

Each actor is a greenlet: a stack of its own in the same thread. Every call of a port is a
point: there the actor may be paused, may die, may be told that the call failed, or goes on.
So any interleaving can be chosen, and comes out the same again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import greenlet
from google.api_core.exceptions import DeadlineExceeded, ServiceUnavailable

from shared.errors import Unavailable
from shared.ports import Stale

PATIENCE, POINTS_AT_MOST = 500, 50_000

LOOKED_AT = ("state", "cloud_run", "dead_letters")
PURE_READS = frozenset(
    f"state.{name}"
    for name in (
        *("model", "deployment", "deployments", "every_deployment", "deploying"),
        *("declaration", "run", "outbox", "announced"),
    )
)
"""The ports behind which the invariants look, and calls that change nothing even there."""


class Crash(BaseException):
    """The process of this actor has died; nothing of it runs on."""


class Fault(StrEnum):
    """What may go wrong with one call of a port, besides dying before it."""

    UNAVAILABLE = "unavailable"
    """It does not happen, and its caller is told so."""
    LOST_ANSWER = "lost answer"
    """It happens, and its caller is told that it failed."""
    DIES_AFTER = "crash after"
    """It happens, and its caller dies before it knows."""


class Actor:
    """One caller: what it does, whether it has died or ended, what its next call meets.

    `fault_at` is the port whose next call meets it; "" for any.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.work = work
        self.dead = False
        self.ended = False
        self.fault: Fault | None = None
        self.fault_at = ""
        self.facts: dict[str, Any] = {}
        self.greenlet: greenlet.greenlet | None = None


class Scheduler:
    """Holds the baton. `check` runs at every point; what it raises ends the whole play.

    `outages` says of a port how many more of its calls fail; `happened` counts what did.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self.alive: list[Actor] = []
        self.trace: list[str] = []
        self.happened: Counter[str] = Counter()
        self.outages: Counter[str] = Counter()
        self.changed = True
        self._stopping = False
        self._check = check
        self._violation: BaseException | None = None
        self._running: Actor | None = None
        self._thread = threading.get_ident()
        self._steps = 0
        self._of = ""
        self._patience = 0

    def spawn(self, name: str, work: Callable[[], None]) -> Actor:
        """Add an actor, which is not run yet."""
        actor = Actor(name, work)
        self.alive.append(actor)
        return actor

    def say(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.append(line)

    @property
    def over(self) -> bool:
        """Whether the play ends here: something was found, or `stop` was called."""
        return self._stopping or self._violation is not None

    @property
    def current(self) -> Actor | None:
        """The actor that asks; None for the play itself, and for threads of a use case's own."""
        return self._running if threading.get_ident() == self._thread else None

    def point(self, call: str) -> None:
        """Mark the moment before a call; Crash where the actor dies here."""
        actor = self.current
        if actor is None:
            return
        if actor.dead or self.over:
            raise Crash
        self._judge()
        self.trace.append(f"{actor.name}: {call}")
        counts = call.endswith(self._of)
        self._patience -= 1
        if self._patience and (self._steps or not counts):
            self._steps -= counts
            return
        assert actor.greenlet is not None
        actor.greenlet.parent.switch()
        if actor.dead or self.over:
            if actor.dead:
                self.happened["crash before a call"] += 1
            self.trace.append(f"{actor.name}: died before {call}")
            raise Crash

    def fault_of(self, port: str, call: str) -> Fault | None:
        """Return what the call that comes now meets; each fault is met once."""
        actor = self.current
        fault = actor.fault if actor else None
        if self.outages[port]:
            # Threads of a use case's own come in any order: they meet an outage, and end none.
            self.outages[port] -= actor is not None
            fault = Fault.UNAVAILABLE
        elif actor and fault and actor.fault_at in ("", port):
            actor.fault = None
        else:
            fault = None
        if fault and actor:
            self.happened[f"{fault}: {port}"] += 1
            self.trace.append(f"{actor.name}: {call} meets: {fault}")
        return fault

    def hold(self, rule: Callable[[], None]) -> None:
        """Check something now, inside a call: what it raises ends the play, whoever catches it."""
        try:
            rule()
        except BaseException as error:
            self._violation = self._violation or error
            raise Crash from None

    def run(self, actor: Actor, steps: int, of: str = "") -> None:
        """Let the actor run over `steps` points, at most to its end; raise what was found.

        With `of`, only the points before calls whose names end so are counted, and stopped at;
        a paused rollout asks for ever, so there is an end to waiting for them.
        """
        self._steps, self._of, self._patience = steps, of, max(steps, PATIENCE)
        if actor.greenlet is None:
            actor.greenlet = greenlet.greenlet(lambda: self._play(actor))
        self._running = actor
        try:
            actor.greenlet.switch()
        finally:
            self._running = None
        if self._violation:
            raise self._violation

    def run_all(self, steps: int = 100_000) -> None:
        """Let everybody run to the end, the newest first."""
        while self.alive:
            self.run(self.alive[-1], steps)

    def stop(self) -> None:
        """End every actor that is left; call it at the end of each play."""
        self._stopping = True
        for actor in list(self.alive):
            if actor.greenlet is not None:
                self._running = actor
                actor.greenlet.throw(Crash)
        self._running = None

    def _play(self, actor: Actor) -> None:
        try:
            actor.work()
            self._judge()
        except Crash:
            pass
        except BaseException as error:
            self._violation = self._violation or error
        finally:
            actor.ended = True
            if actor in self.alive:
                self.alive.remove(actor)

    def _judge(self) -> None:
        if not self.changed:
            return
        self.changed = False
        self.hold(self._checked)

    def _checked(self) -> None:
        assert len(self.trace) < POINTS_AT_MOST, "this never ends"
        self._check()


class Watched:
    """A port whose every call is a point of the scheduler first, and may meet a fault."""

    def __init__(self, port: object, name: str, scheduler: Scheduler) -> None:
        self._port = port
        self._name = name
        self._scheduler = scheduler

    def __getattr__(self, method: str) -> Any:
        bound = getattr(self._port, method)
        scheduler, call = self._scheduler, f"{self._name}.{method}"
        changes = self._name in LOOKED_AT and call not in PURE_READS

        def watched(*arguments: Any, **named: Any) -> Any:
            scheduler.point(call)
            fault = scheduler.fault_of(self._name, call)
            if fault is Fault.UNAVAILABLE:
                raise self._failure(ServiceUnavailable, call)
            try:
                answer = bound(*arguments, **named)
            except Stale:
                scheduler.happened["stale etag"] += 1
                raise
            finally:
                scheduler.changed |= changes
            if fault is Fault.LOST_ANSWER:
                raise self._failure(DeadlineExceeded, call)
            if fault is Fault.DIES_AFTER:
                raise Crash
            return answer

        self.__dict__[method] = watched
        return watched

    def _failure(self, kind: type[Exception], call: str) -> Exception:
        """What the real adapter of this port raises."""
        if call in ("cloud_run.write_traffic", "cloud_run.write_template"):
            return Stale("Cloud Run did not answer")
        if self._name in ("predictions", "monitoring"):
            return Unavailable(f"{self._name} did not answer: ConnectionError")
        return kind(f"{self._name} did not answer")
