"""The `filter` and `order_by` of ListExecutions: comparisons joined by AND (AIP-160).

Fields: executionID, state, startTime, endTime, duration, workflowRevisionID, stepName and
label.KEY (or labels.KEY). OR, NOT and parentheses are not supported and say so.
"""

from __future__ import annotations

import datetime as dt
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from localcloud.workflows.store import ExecutionRecord

_COMPARISON = re.compile(
    r"""\s*(?P<field>[A-Za-z][\w.-]*)\s*(?P<operator>!=|<=|>=|=|<|>|:)\s*
    (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s()"]+))\s*""",
    re.VERBOSE,
)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    ":": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITY = ("=", ":", "!=")


class Unsupported(Exception):
    """The filter uses what this service does not offer."""


class Invalid(Exception):
    """The filter or the order is not valid."""


Predicate = Callable[[ExecutionRecord], bool]
Key = Callable[[ExecutionRecord], tuple[bool, object]]


def parse_filter(text: str) -> Predicate:
    """Return the predicate of a filter; an empty one is true of all."""
    predicates: list[Predicate] = []
    at = 0
    text = text.strip()
    while at < len(text):
        found = _COMPARISON.match(text, at)
        if found is None:
            if re.match(r"\s*(\(|NOT\b|-)", text[at:]):
                raise Unsupported("filter: NOT and parentheses are not supported")
            raise Invalid(f"filter: cannot read {text[at:]!r}")
        predicates.append(_comparison(found))
        at = found.end()
        joined = re.compile(r"AND\s+").match(text, at)
        if joined:
            at = joined.end()
            if at >= len(text):
                raise Invalid("filter: a comparison must follow AND")
        elif re.compile(r"OR\b").match(text, at):
            raise Unsupported("filter: OR is not supported")
    return lambda record: all(predicate(record) for predicate in predicates)


def _comparison(found: re.Match[str]) -> Predicate:
    name, symbol = found["field"], found["operator"]
    quoted = found["quoted"]
    wanted = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else found["bare"]
    compare = _OPERATORS[symbol]
    scope, _, key = name.partition(".")
    if scope in ("label", "labels") and key:
        _equality_only(name, symbol)
        return lambda record: compare(record.labels.get(key), wanted)
    if name in _TEXTS:
        _equality_only(name, symbol)
        read = _TEXTS[name]
        return lambda record: compare(read(record), wanted)
    if name in _NUMBERS:
        measure, convert = _NUMBERS[name]
        bound = convert(name, wanted)

        def measured(record: ExecutionRecord) -> bool:
            value = measure(record)
            return value is not None and compare(value, bound)

        return measured
    raise Invalid(f"filter: there is no field {name!r}")


def _equality_only(name: str, symbol: str) -> None:
    if symbol not in _EQUALITY:
        raise Invalid(f"filter: {name} can be compared with = and != only")


def _duration(record: ExecutionRecord) -> float | None:
    return record.ended - record.started if record.ended is not None else None


def _time(name: str, text: str) -> float:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"filter: {name} {text!r} is not a time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _seconds(name: str, text: str) -> float:
    try:
        return float(text.removesuffix("s"))
    except ValueError:
        raise Invalid(f"filter: {name} {text!r} is not a duration such as 3.5s") from None


@dataclass(frozen=True)
class _Order:
    key: Callable[[ExecutionRecord], object]
    descending: bool


_TEXTS: dict[str, Callable[[ExecutionRecord], str | None]] = {
    "executionID": lambda record: record.id,
    "executionId": lambda record: record.id,
    "state": lambda record: record.state,
    "workflowRevisionID": lambda record: record.revision_id,
    "workflowRevisionId": lambda record: record.revision_id,
    "stepName": lambda record: record.step,
}
_NUMBERS: dict[
    str, tuple[Callable[[ExecutionRecord], float | None], Callable[[str, str], float]]
] = {
    "startTime": (lambda record: record.started, _time),
    "endTime": (lambda record: record.ended, _time),
    "duration": (_duration, _seconds),
}
_SORTABLE = {
    **{name: read for name, read in _TEXTS.items() if name != "stepName"},
    **{name: measure for name, (measure, _) in _NUMBERS.items()},
}


def sort(records: list[ExecutionRecord], order_by: str) -> list[ExecutionRecord]:
    """Return the records in the order asked for; those without a value come last."""
    orders: list[_Order] = []
    for part in filter(None, (part.strip() for part in order_by.split(","))):
        name, _, direction = part.partition(" ")
        if name not in _SORTABLE or direction.strip() not in ("", "asc", "desc"):
            raise Invalid(f"order_by: cannot order by {part!r}")
        orders.append(_Order(_SORTABLE[name], direction.strip() == "desc"))
    for order in reversed(orders):
        present = [record for record in records if order.key(record) is not None]
        absent = [record for record in records if order.key(record) is None]
        present.sort(key=order.key, reverse=order.descending)  # type: ignore[arg-type]
        records = present + absent
    return records
