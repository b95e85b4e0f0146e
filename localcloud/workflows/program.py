"""A workflow after loading: what the interpreter walks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from localcloud.workflows.expressions import Node
from localcloud.workflows.values import Value

MAIN = "main"


@dataclass(frozen=True)
class Constant:
    """A value without expressions."""

    value: Value


@dataclass(frozen=True)
class Expression:
    """`${...}`, where it stands."""

    node: Node
    line: int


@dataclass(frozen=True)
class ListTemplate:
    """A list with expressions somewhere inside."""

    items: tuple[Template, ...]


@dataclass(frozen=True)
class MapTemplate:
    """A map with expressions somewhere inside its keys or values."""

    items: tuple[tuple[Template, Template], ...]


Template = Constant | Expression | ListTemplate | MapTemplate


@dataclass(frozen=True)
class Assignment:
    """One `target: value`."""

    target: Node
    value: Template
    line: int


@dataclass(frozen=True)
class Assign:
    """`assign:`, in order."""

    assignments: tuple[Assignment, ...]


@dataclass(frozen=True)
class CallStep:
    """`call:`, with `args:` (by name or by position) and `result:`."""

    function: str
    named: Mapping[str, Template]
    positional: tuple[Template, ...]
    result: str | None


@dataclass(frozen=True)
class Case:
    """One entry of a switch: the first whose condition is true runs its step."""

    condition: Template
    step: Step


@dataclass(frozen=True)
class Switch:
    """`switch:`."""

    cases: tuple[Case, ...]


@dataclass(frozen=True)
class For:
    """`for:`, over a list (`items`) or from `first` to `last`, both included."""

    value: str
    index: str | None
    items: Template | None
    range: Template | None
    body: StepList


@dataclass(frozen=True)
class Parallel:
    """`parallel:`, of branches or of a loop's iterations."""

    shared: tuple[str, ...]
    concurrency_limit: Template | None
    branches: tuple[tuple[str, StepList], ...]
    loop: For | None


@dataclass(frozen=True)
class Raise:
    """`raise:`."""

    value: Template


@dataclass(frozen=True)
class Return:
    """`return:`."""

    value: Template


@dataclass(frozen=True)
class RetryPolicy:
    """`retry:` written out; each part may be an expression."""

    predicate: Template
    max_retries: Template
    backoff: Template


@dataclass(frozen=True)
class Handler:
    """`except:`."""

    error: str
    body: StepList | None


@dataclass(frozen=True)
class Try:
    """`try:`, `retry:` (a ready policy or one written out) and `except:`."""

    body: StepList
    retry: RetryPolicy | Expression | None
    handler: Handler | None


@dataclass(frozen=True)
class Group:
    """`steps:` inside a step."""

    body: StepList


Action = Assign | CallStep | Switch | For | Parallel | Raise | Return | Try | Group


@dataclass(frozen=True)
class Step:
    """A named step: what it does, and where it goes from there (None: to the next)."""

    name: str
    action: Action | None
    next: str | None
    line: int
    column: int

    @property
    def kind(self) -> str:
        """Return the step's keyword, as the history shows it."""
        return _KINDS[type(self.action)] if self.action else "next"


_KINDS: dict[type, str] = {
    Assign: "assign", CallStep: "call", Switch: "switch", For: "for", Parallel: "parallel",
    Raise: "raise", Return: "return", Try: "try", Group: "steps",
}  # fmt: skip


@dataclass(frozen=True)
class StepList:
    """Steps in order; jumps find them by name."""

    steps: tuple[Step, ...]

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Return where each name stands."""
        return {step.name: index for index, step in enumerate(self.steps)}


@dataclass(frozen=True)
class Routine:
    """`main` or a subworkflow; `defaults` holds the parameters that need not be given."""

    name: str
    parameters: tuple[str, ...]
    defaults: Mapping[str, Value]
    body: StepList
    line: int

    def complaint(self, positional: int, named: Iterator[str] | tuple[str, ...]) -> str | None:
        """Return what is wrong with a call's arguments, or None."""
        if positional > len(self.parameters):
            return f"{self.name} takes {len(self.parameters)} arguments, got {positional}"
        given = set(self.parameters[:positional])
        for name in named:
            if name not in self.parameters:
                return f"{self.name} has no parameter {name!r}"
            given.add(name)
        missing = [
            name for name in self.parameters if name not in given and name not in self.defaults
        ]
        return f"{self.name} misses its argument {missing[0]!r}" if missing else None


@dataclass(frozen=True)
class Program:
    """A whole workflow."""

    routines: Mapping[str, Routine] = field(default_factory=dict)

    @property
    def main(self) -> Routine:
        """Return where an execution starts."""
        return self.routines[MAIN]
