"""Lets a process die before each of its calls in turn, so that what follows can be judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from shared.ports import Ports
from tests.fakes import World

PORTS = ("state", "objects", "cloud_run", "jobs", "executions", "predictions")
CALLS_AT_MOST = 300


class Died(BaseException):
    """The process is gone: nothing of it runs on, whatever it catches."""


class Mortal:
    """A port that tells of each call before it is made."""

    def __init__(self, port: object, before: Callable[[], None]) -> None:
        self._port, self._before = port, before

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self._before()
            return method(*arguments, **named)

        return call


def dying(make: Callable[[], World], act: Callable[[Ports], object]) -> Iterator[World]:
    """Yield a fresh world for each call of `act`, in which it died right before that call.

    A transaction's commit counts as a call. Worlds come until `act` ends by itself, and there
    is at least one.
    """
    for calls in range(CALLS_AT_MOST):
        world, made = make(), iter(range(calls))

        def before(left: Iterator[int] = made) -> None:
            if next(left, None) is None:
                raise Died

        ports = world.ports(**{name: Mortal(getattr(world, name), before) for name in PORTS})
        world.state.before_commit = before
        try:
            act(ports)
        except Died:
            world.state.before_commit = lambda: None
            yield world
        else:
            assert calls, "nothing was called"
            return
    raise AssertionError(f"not over after {CALLS_AT_MOST} calls")
