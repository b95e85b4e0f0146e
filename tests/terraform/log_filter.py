"""The part of the Logging query language that terraform/ uses, evaluated on a log entry.

https://docs.cloud.google.com/logging/docs/view/logging-query-language: comparisons with =, !=, :
(has), =~ (regular expression) and >= (severities), AND, OR, NOT and parentheses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TOKEN = re.compile(
    r"""\s*(?:(?P<word>AND|OR|NOT)\b|(?P<bracket>[()])
    |(?P<field>[A-Za-z_][\w.]*)\s*(?P<operator>!=|=~|>=|=|:)\s*
     (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[A-Z]\w*)))""",
    re.X,
)
_SEVERITIES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL")
_EXTRACT = re.compile(r'(?P<regular>REGEXP_)?EXTRACT\((?P<field>[\w.]+)(?:, "(?P<pattern>.*)")?\)')


def matches(query: str, entry: Mapping[str, Any]) -> bool:
    """Tell whether the filter takes the entry; ValueError for what is not understood."""
    return _Query(query, entry).evaluate()


def extract(extractor: str, entry: Mapping[str, Any]) -> str | None:
    """Return what a label's extractor finds, None where the field is missing or does not match."""
    found = _EXTRACT.fullmatch(extractor)
    if found is None:
        raise ValueError(f"not understood: {extractor}")
    value = _field(entry, found["field"])
    if value is None or not found["regular"]:
        return None if value is None else str(value)
    part = re.search(found["pattern"], str(value))
    return part[1] if part else None


class _Query:
    def __init__(self, query: str, entry: Mapping[str, Any]) -> None:
        self._tokens = []
        at = 0
        while at < len(query.rstrip()):
            found = _TOKEN.match(query, at)
            if found is None:
                raise ValueError(f"not understood: {query[at:]}")
            self._tokens.append(found)
            at = found.end()
        self._entry = entry

    def evaluate(self) -> bool:
        result = self._or()
        if self._tokens:
            raise ValueError(f"not understood: {self._tokens[0][0]}")
        return result

    def _next_is(self, text: str) -> bool:
        if self._tokens and self._tokens[0][0].strip() == text:
            self._tokens.pop(0)
            return True
        return False

    def _or(self) -> bool:
        result = self._and()
        while self._next_is("OR"):
            result = self._and() or result
        return result

    def _and(self) -> bool:
        result = self._not()
        while self._next_is("AND"):
            result = self._not() and result
        return result

    def _not(self) -> bool:
        if self._next_is("NOT"):
            return not self._not()
        if self._next_is("("):
            result = self._or()
            if not self._next_is(")"):
                raise ValueError("a parenthesis is not closed")
            return result
        return self._compare(self._tokens.pop(0))

    def _compare(self, token: re.Match[str]) -> bool:
        wanted = (token["quoted"] or token["bare"] or "").replace('\\"', '"')
        found = _field(self._entry, token["field"])
        if token["operator"] == "!=":
            return found is None or str(found) != wanted
        if found is None:
            return False
        if token["operator"] == ">=":
            return _SEVERITIES.index(str(found)) >= _SEVERITIES.index(wanted)
        if token["operator"] == "=~":
            return re.search(wanted, str(found)) is not None
        if token["operator"] == ":":
            return wanted.lower() in str(found).lower()
        return str(found) == wanted


def _field(entry: Mapping[str, Any], path: str) -> Any:
    found: Any = entry
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found
