"""Variables while an execution runs, and the memory they take."""

from __future__ import annotations

import threading

from localcloud.workflows import limits
from localcloud.workflows.errors import failure
from localcloud.workflows.evaluate import checked_string, item_of, list_index
from localcloud.workflows.values import Value, size_bytes


class Ledger:
    """The bytes that all variables of one execution take together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used = 0

    def change(self, by: int) -> None:
        """Count `by` more (or fewer) bytes; ResourceLimitError over 512 KB."""
        with self._lock:
            if by > 0 and self._used + by > limits.VARIABLES_BYTES:
                raise failure(
                    "ResourceLimitError", f"variables take over {limits.VARIABLES_BYTES} bytes"
                )
            self._used += by


class Scope:
    """The variables of a routine, a loop's iteration, an except block or a branch."""

    def __init__(self, ledger: Ledger, parent: Scope | None = None) -> None:
        self._ledger = ledger
        self._parent = parent
        self._values: dict[str, Value] = {}
        self._sizes: dict[str, int] = {}

    def inner(self) -> Scope:
        """Return a new scope inside this one."""
        return Scope(self._ledger, self)

    def defines(self, name: str) -> bool:
        """Return whether `name` has a value here."""
        return self._holder(name) is not None

    def get(self, name: str) -> Value:
        """Return a variable; KeyError while it has no value."""
        holder = self._holder(name)
        if holder is None:
            raise failure("KeyError", f'variable "{name}" has no value yet')
        return holder._values[name]

    def set(self, name: str, value: Value) -> None:
        """Give a variable a value: where it exists, else in this scope."""
        (self._holder(name) or self)._store(name, value)

    def declare(self, name: str, value: Value) -> None:
        """Give this scope a variable of its own."""
        self._store(name, value)

    def put(self, name: str, path: list[Value], value: Value) -> None:
        """Set the place `path` inside variable `name`; what leads there must exist."""
        holder = self._holder(name)
        root = self.get(name)
        container = root
        for key in path[:-1]:
            container = item_of(container, key)
        last = path[-1]
        if isinstance(container, dict) and isinstance(last, str):
            container[last] = value
        elif isinstance(container, list):
            container[list_index(container, last)] = value
        else:
            item_of(container, last)
        assert holder is not None
        holder._store(name, root)

    def close(self) -> None:
        """Forget the variables of this scope."""
        self._ledger.change(-sum(self._sizes.values()))
        self._values, self._sizes = {}, {}

    def _holder(self, name: str) -> Scope | None:
        scope: Scope | None = self
        while scope is not None and name not in scope._values:
            scope = scope._parent
        return scope

    def _store(self, name: str, value: Value) -> None:
        if isinstance(value, str):
            checked_string(value)
        size = len(name) + size_bytes(value)
        self._ledger.change(size - self._sizes.get(name, 0))
        self._sizes[name] = size
        self._values[name] = value
