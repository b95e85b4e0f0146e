"""How a function of the standard library is declared and called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from localcloud.workflows.errors import failure
from localcloud.workflows.values import Value, type_name


class Host(Protocol):
    """What a running execution offers to the functions that reach outside it."""

    environment: Mapping[str, str]

    def now(self) -> float:
        """Return seconds since 1970."""
        ...

    def pause(self, seconds: float) -> None:
        """Sleep; Cancelled when the execution is cancelled meanwhile."""
        ...

    def log(self, severity: str, field: str, payload: Value) -> None:
        """Write a log entry whose `field` (textPayload or jsonPayload) is `payload`."""
        ...

    def token(self, audience: str) -> str:
        """Return a token of the workflow's service account for `audience`."""
        ...


@dataclass(frozen=True)
class Function:
    """A function by its documented name; `parameters` maps names to "is required"."""

    name: str
    parameters: Mapping[str, bool]
    implementation: Callable[..., Value]
    blocking: bool
    needs_host: bool

    def complaint(self, positional: int, named: Sequence[str]) -> str | None:
        """Return what is wrong with a call's arguments, or None."""
        if positional > len(self.parameters):
            return f"{self.name} takes {len(self.parameters)} arguments, got {positional}"
        unknown = [name for name in named if name not in self.parameters]
        if unknown:
            return (
                f"{self.name} has no argument {unknown[0]!r} (it has {', '.join(self.parameters)})"
            )
        given = {*list(self.parameters)[:positional], *named}
        missing = [name for name, needed in self.parameters.items() if needed and name not in given]
        return f"{self.name} misses its argument {missing[0]!r}" if missing else None

    def call(
        self, host: Host, positional: Sequence[Value] = (), named: Mapping[str, Value] | None = None
    ) -> Value:
        """Call it; TypeError (a workflow's) when the arguments do not fit."""
        named = named or {}
        complaint = self.complaint(len(positional), list(named))
        if complaint:
            raise failure("TypeError", complaint)
        arguments = {**dict(zip(self.parameters, positional, strict=False)), **named}
        if self.needs_host:
            return self.implementation(host, **arguments)
        return self.implementation(**arguments)


FUNCTIONS: dict[str, Function] = {}


F = TypeVar("F", bound=Callable[..., Value])


def function(name: str, *, blocking: bool = False) -> Callable[[F], F]:
    """Declare a function of the library; a first parameter `host` receives the execution."""

    def declare(implementation: F) -> F:
        parameters = dict(inspect.signature(implementation).parameters)
        needs_host = parameters.pop("host", None) is not None
        FUNCTIONS[name] = Function(
            name,
            {key: item.default is inspect.Parameter.empty for key, item in parameters.items()},
            implementation,
            blocking,
            needs_host,
        )
        return implementation

    return declare


def expect(value: Value, name: str, *types: str) -> Value:
    """Return `value` if it is of one of the documented `types`; TypeError otherwise."""
    if type_name(value) not in types:
        raise failure("TypeError", f"{name} must be {' or '.join(types)}, not {type_name(value)}")
    return value
