"""Which of the project's files a program consists of, found by following its imports."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path


class NotBuilt(RuntimeError):
    """Something cannot be built from this tree; the message says what is to be changed."""


def imported(root: Path, entries: Collection[str], packages: Collection[str]) -> set[str]:
    """Return `entries` and what they import of `packages`, and so on, relative to `root`.

    Imports inside functions count. NotBuilt for a relative import, FileNotFoundError.
    """
    found: set[str] = set()
    todo = list(entries)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for module in _imports(name, (root / name).read_bytes()):
            todo += _sources(root, module, packages)
    return found


@cache
def _imports(name: str, source: bytes) -> frozenset[str]:
    """Return the absolute names that a file imports, those that may be no modules included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise NotBuilt(f"{name}:{node.lineno}: write the import with its full name")
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def _sources(root: Path, module: str, packages: Collection[str]) -> Iterator[str]:
    """Yield the files of a module, and of the packages around it, if it is the project's own."""
    parts = module.split(".")
    if parts[0] not in packages:
        return
    for end in range(1, len(parts) + 1):
        base = "/".join(parts[:end])
        for name in (f"{base}/__init__.py", f"{base}.py"):
            if (root / name).is_file():
                yield name
