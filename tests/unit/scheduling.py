"""Runs several callers one at a time, switching between them only where it is told to.

Each actor is a thread, but only the one that holds the baton runs. Every call of a port is a
point: there the actor may be paused, may die, or goes on. So any interleaving can be chosen,
and comes out the same again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

PATIENCE, POINTS_AT_MOST = 500, 50_000


class Crash(BaseException):
    """The process of this actor has died; nothing of it runs on."""


class Actor:
    """One caller: what it does, and whether it has died or ended."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.work = work
        self.dead = False
        self.ended = False
        self.facts: dict[str, Any] = {}
        self.thread: threading.Thread | None = None
        self.wake = threading.Semaphore(0)


class Scheduler:
    """Holds the baton. `check` runs at every point; what it raises ends the whole play."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.alive: list[Actor] = []
        self.trace: list[str] = []
        self.stopping = False
        self._check = check
        self._violation: BaseException | None = None
        self._by_thread: dict[int, Actor] = {}
        self._control = threading.Semaphore(0)
        self._steps = 0
        self._of = ""
        self._patience = 0

    def spawn(self, name: str, work: Callable[[], None]) -> Actor:
        """Add an actor, which is not run yet."""
        actor = Actor(name, work)
        self.alive.append(actor)
        return actor

    @property
    def over(self) -> bool:
        """Whether the play ends here: something was found, or `stop` was called."""
        return self.stopping or self._violation is not None

    @property
    def current(self) -> Actor | None:
        """The actor whose thread asks, or None for a thread that is no actor's."""
        return self._by_thread.get(threading.get_ident())

    def point(self, call: str) -> None:
        """Mark the moment before a port call; Crash where the actor dies here."""
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
        self._control.release()
        actor.wake.acquire()
        if actor.dead or self.over:
            self.trace.append(f"{actor.name}: died before {call}")
            raise Crash

    def run(self, actor: Actor, steps: int, of: str = "") -> None:
        """Let the actor run over `steps` points, at most to its end; raise what was found.

        With `of`, only the points before calls whose names end so are counted, and stopped at;
        a paused rollout asks for ever, so there is an end to waiting for them.
        """
        self._steps, self._of, self._patience = steps, of, max(steps, PATIENCE)
        if actor.thread is None:
            actor.thread = threading.Thread(target=self._play, args=(actor,), daemon=True)
            actor.thread.start()
        else:
            actor.wake.release()
        self._control.acquire()
        if self._violation:
            raise self._violation

    def run_all(self, steps: int = 100_000) -> None:
        """Let everybody run to the end, the newest first."""
        while self.alive:
            self.run(self.alive[-1], steps)

    def stop(self) -> None:
        """End every actor that is left; call it at the end of each play."""
        self.stopping = True
        for actor in list(self.alive):
            if actor.thread is not None:
                actor.wake.release()
                actor.thread.join()

    def _play(self, actor: Actor) -> None:
        self._by_thread[threading.get_ident()] = actor
        try:
            actor.work()
            self._judge()
        except Crash:
            pass
        except BaseException as error:
            self._violation = self._violation or error
        finally:
            del self._by_thread[threading.get_ident()]
            actor.ended = True
            if actor in self.alive:
                self.alive.remove(actor)
            if not self.stopping:
                self._control.release()

    def _judge(self) -> None:
        try:
            assert len(self.trace) < POINTS_AT_MOST, "this never ends"
            self._check()
        except BaseException as error:
            self._violation = self._violation or error
            raise Crash from None


class Watched:
    """A port whose every call is a point of the scheduler first."""

    def __init__(self, port: object, name: str, point: Callable[[str], None]) -> None:
        self._port = port
        self._name = name
        self._point = point

    def __getattr__(self, method: str) -> Any:
        bound = getattr(self._port, method)

        def call(*arguments: Any, **named: Any) -> Any:
            self._point(f"{self._name}.{method}")
            return bound(*arguments, **named)

        return call
