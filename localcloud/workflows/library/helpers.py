"""Expression helpers (.../reference/stdlib/expression-helpers)."""

from __future__ import annotations

import re

from localcloud.workflows.errors import failure
from localcloud.workflows.evaluate import checked_number
from localcloud.workflows.library.registry import expect, function
from localcloud.workflows.values import Value, type_name

_INTEGER = re.compile(r"[+-]?\d+")
_DOUBLE = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@function("double")
def double(value: Value) -> float:
    """Return a string or number as a double."""
    if isinstance(value, str):
        if not _DOUBLE.fullmatch(value):
            raise failure("ValueError", f"{value!r} is not a double")
        return float(value)
    return float(expect(value, "double's argument", "integer", "double"))


@function("int")
def integer(value: Value) -> int:
    """Return a string as an integer, or a double without its fraction."""
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value):
            raise failure("ValueError", f"{value!r} is not an integer")
        return int(checked_number(int(value)))
    try:
        return int(checked_number(int(expect(value, "int's argument", "integer", "double"))))
    except (OverflowError, ValueError):
        raise failure("ValueError", f"{value} is not an integer") from None


@function("string")
def string(value: Value) -> str:
    """Return a number or boolean as a string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(expect(value, "string's argument", "integer", "double", "string"))


@function("get_type")
def get_type(value: Value) -> str:
    """Return the name of the value's type."""
    return type_name(value)


@function("keys")
def keys(map: Value) -> list[str]:
    """Return the keys of a map."""
    return list(expect(map, "keys' argument", "map"))


@function("len")
def length(value: Value) -> int:
    """Return the number of elements, entries or characters."""
    return len(expect(value, "len's argument", "list", "map", "string"))


@function("default")
def default(val: Value, defaultVal: Value) -> Value:  # noqa: N803  the documented name
    """Return `val` unless it is null."""
    return defaultVal if val is None else val


@function("if")
def choose(condition: Value, ifTrue: Value, ifFalse: Value) -> Value:  # noqa: N803
    """Return one of two values, both of which have been computed; null counts as false."""
    return ifTrue if expect(condition, "if's condition", "boolean", "null") else ifFalse
