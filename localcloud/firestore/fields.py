"""Field paths (`a.b.c`, quoted with backticks where needed) and what they reach in a document."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from localcloud.firestore import names
from localcloud.firestore.errors import InvalidArgument
from localcloud.firestore.messages import Document

NAME = "__name__"

Path = tuple[str, ...]

_SEGMENT = re.compile(r"([a-zA-Z_][a-zA-Z_0-9]*)|`((?:[^`\\]|\\.)+)`")


def parse_path(text: str) -> Path:
    """Return the segments of a field path; InvalidArgument when it is not one."""
    segments: list[str] = []
    position = 0
    while True:
        found = _SEGMENT.match(text, position)
        if found is None:
            raise InvalidArgument(f'invalid property path "{text}"')
        plain, quoted = found.groups()
        segments.append(plain if plain is not None else re.sub(r"\\(.)", r"\1", quoted))
        position = found.end()
        if position == len(text):
            return tuple(segments)
        if text[position] != ".":
            raise InvalidArgument(f'invalid property path "{text}"')
        position += 1


def parse_writable_path(text: str) -> Path:
    """Return the segments of a path that may be written; reserved names are refused."""
    path = parse_path(text)
    for segment in path:
        if names.is_reserved(segment):
            raise InvalidArgument(f'"{segment}" in the path "{text}" is a reserved field name')
    return path


def format_path(path: Path) -> str:
    """Write a path as `parse_path` reads it."""
    return ".".join(_quoted(segment) for segment in path)


def _quoted(segment: str) -> str:
    if re.fullmatch(r"[a-zA-Z_][a-zA-Z_0-9]*", segment):
        return segment
    return "`" + re.sub(r"([\\`])", r"\\\1", segment) + "`"


def lookup(fields: Any, path: Path) -> Any | None:
    """Return the value at `path`, or None where there is none."""
    for segment in path[:-1]:
        if segment not in fields:
            return None
        value = fields[segment]
        if value.WhichOneof("value_type") != "map_value":
            return None
        fields = value.map_value.fields
    return fields.get(path[-1])


def put(fields: Any, path: Path, value: Any) -> None:
    """Set the value at `path`; what is in the way and is not a map becomes one."""
    for segment in path[:-1]:
        if segment not in fields or fields[segment].WhichOneof("value_type") != "map_value":
            fields[segment].map_value.SetInParent()
        fields = fields[segment].map_value.fields
    fields[path[-1]].CopyFrom(value)


def remove(fields: Any, path: Path) -> None:
    """Delete the value at `path`, if there is one."""
    for segment in path[:-1]:
        if segment not in fields or fields[segment].WhichOneof("value_type") != "map_value":
            return
        fields = fields[segment].map_value.fields
    if path[-1] in fields:
        del fields[path[-1]]


def project(document: Any, paths: Iterable[Path] | None) -> Any:
    """Return a copy of the document with only the fields at `paths` (None: all of them)."""
    if paths is None:
        return document
    projected = Document()
    projected.CopyFrom(document)
    projected.ClearField("fields")
    for path in paths:
        value = lookup(document.fields, path)
        if value is not None and path != (NAME,):
            put(projected.fields, path, value)
    return projected
