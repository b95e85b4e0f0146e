"""What goes wrong in a workflow.

SourceError     the source cannot be deployed: found when it is loaded
WorkflowError   raised while an execution runs: a workflow may catch it
Cancelled       the execution was cancelled or the service stops: no workflow catches it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class SourceError(Exception):
    """The workflow's source is not valid; `step` and `line` say where."""

    def __init__(self, message: str, *, step: str | None = None, line: int | None = None) -> None:
        self.message, self.step, self.line = message, step, line
        place = [f'step "{step}"'] if step else []
        place += [f"line {line}"] if line else []
        super().__init__(f"{', '.join(place)}: {message}" if place else message)


@dataclass(frozen=True)
class Place:
    """Where in the source an error passed through, innermost first."""

    step: str
    routine: str
    line: int
    column: int


class WorkflowError(Exception):
    """An error a workflow can catch; `value` is what `except: as: e` receives.

    For errors of the interpreter that is a map with `message` and `tags`, as documented
    at cloud.google.com/workflows/docs/reference/syntax/error-types; for a raised value it
    is that value. `trace` collects one place for each call level it passes, innermost first.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value
        self.trace: list[Place] = []
        self._depth = 0

    def passes(self, place: Place, depth: int) -> None:
        """Note that the error leaves a step at call depth `depth`; the innermost step counts."""
        if depth != self._depth:
            self._depth = depth
            self.trace.append(place)

    def summary(self) -> str:
        """Return the first line of the context that the API shows for an uncaught error."""
        if isinstance(self.value, dict) and isinstance(self.value.get("message"), str):
            return str(self.value["message"])
        return f"RuntimeError: {self.value!r}"


class Cancelled(Exception):
    """The execution must stop before its next step; passes every `except` block."""


def failure(tag: str, message: str, **fields: Any) -> WorkflowError:
    """Return the error of one of the documented tags, with any further `fields`."""
    return WorkflowError({"message": message, "tags": [tag], **fields})
