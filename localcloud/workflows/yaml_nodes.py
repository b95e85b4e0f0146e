"""YAML as Workflows reads it, with the line of everything.

Scalars follow YAML 1.2's core schema, so only true and false (True, TRUE, ...) are
booleans and nothing becomes a date. Anchors, tags and repeated keys are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from localcloud.workflows.errors import SourceError
from localcloud.workflows.values import INTEGER_MAX, INTEGER_MIN, Value

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_STANDARD_TAGS = {None, "!", "tag:yaml.org,2002:str"}


@dataclass(frozen=True)
class Marked:
    """A value and where it starts. Lists hold Marked items, maps (key, Marked) pairs."""

    value: Value
    line: int
    column: int

    @property
    def is_map(self) -> bool:
        """Return whether this is a map."""
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        """Return whether this is a list."""
        return isinstance(self.value, list)


def read(source: str) -> Marked:
    """Return the one document in `source`; SourceError with the line otherwise."""
    try:
        events = list(yaml.parse(source, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as wrong:
        line = wrong.problem_mark.line + 1 if wrong.problem_mark else None
        raise SourceError(f"not YAML: {wrong.problem}", line=line) from None
    except yaml.YAMLError as wrong:
        raise SourceError(f"not YAML: {wrong}") from None
    documents = sum(isinstance(event, yaml.DocumentStartEvent) for event in events)
    if documents != 1:
        raise SourceError(f"a source is one YAML document, found {documents}")
    reader = _Reader(events)
    try:
        return reader.node()
    except RecursionError:
        raise SourceError("nested too deeply") from None


class _Reader:
    def __init__(self, events: list[yaml.Event]) -> None:
        kinds = (yaml.NodeEvent, yaml.CollectionEndEvent)
        self._events = iter([event for event in events if isinstance(event, kinds)])

    def node(self) -> Marked:
        marked = self._next()
        assert isinstance(marked, Marked)
        return marked

    def _next(self) -> Marked | None:
        event = next(self._events)
        if isinstance(event, yaml.CollectionEndEvent):
            return None
        mark = event.start_mark
        assert mark is not None
        line, column = mark.line + 1, mark.column + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise SourceError("YAML anchors and aliases are not supported", line=line)
        if getattr(event, "tag", None) not in _STANDARD_TAGS:
            raise SourceError("YAML tags are not supported", line=line)
        if isinstance(event, yaml.ScalarEvent):
            quoted = event.style is not None or event.tag is not None
            return Marked(event.value if quoted else _plain(event.value, line), line, column)
        if isinstance(event, yaml.SequenceStartEvent):
            return Marked(self._items(), line, column)
        return Marked(self._entries(), line, column)

    def _items(self) -> list[Marked]:
        items: list[Marked] = []
        while (item := self._next()) is not None:
            items.append(item)
        return items

    def _entries(self) -> dict[str, Marked]:
        entries: dict[str, Marked] = {}
        while (key := self._next()) is not None:
            if key.is_map or key.is_list or key.value is None:
                raise SourceError("a key is a word or a text", line=key.line)
            name = key.value if isinstance(key.value, str) else _key_text(key.value)
            if name in entries:
                raise SourceError(f"key {name!r} is repeated", line=key.line)
            if name == "<<":
                raise SourceError("YAML merge keys are not supported", line=key.line)
            entries[name] = self.node()
        return entries


def _key_text(key: Value) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _plain(text: str, line: int) -> Value:
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        number = int(text)
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise SourceError(f"{text} does not fit a 64 bit integer", line=line)
        return number
    return float(text) if _FLOAT.fullmatch(text) else text
