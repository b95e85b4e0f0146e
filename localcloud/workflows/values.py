"""The values a workflow computes with: their types, sizes, copies and JSON.

Python stands in as None, bool, int, float, str, bytes, list and dict (string keys).
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import Any

from localcloud.workflows.errors import failure

Value = Any

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
TYPE_NAMES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "double",
    str: "string",
    bytes: "bytes",
    list: "list",
    dict: "map",
}


@dataclass(frozen=True)
class FunctionReference:
    """A function or subworkflow named, not called: what a retry predicate is."""

    name: str


def type_name(value: Value) -> str:
    """Return the documented name of the type of `value`."""
    return TYPE_NAMES.get(type(value), "function")


def is_number(value: Value) -> bool:
    """Return whether `value` is an integer or a double (a boolean is neither)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def copy(value: Value) -> Value:
    """Return an independent copy: Workflows passes everything by value."""
    if isinstance(value, list):
        return [copy(item) for item in value]
    if isinstance(value, dict):
        return {key: copy(item) for key, item in value.items()}
    return value


def equal(left: Value, right: Value) -> bool:
    """Return whether two values are equal; of different types only integer and double can be."""
    if is_number(left) and is_number(right):
        return bool(left == right)
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return bool(left == right)


def size_bytes(value: Value) -> int:
    """Return the memory a value counts for (.../reference/syntax/variables, "Memory usage")."""
    if isinstance(value, str):
        return 8 + len(value.encode())
    if isinstance(value, bytes):
        return 8 + len(value)
    if isinstance(value, list):
        return 8 + sum(map(size_bytes, value))
    if isinstance(value, dict):
        return 8 + sum(len(key.encode()) + size_bytes(item) for key, item in value.items())
    return 8


def to_json(value: Value, *, indent: str | None = None, bytes_as_base64: bool = False) -> str:
    """Return `value` as JSON text.

    Raises TypeError (a workflow's) for bytes, unless they may become base64, and for
    doubles that JSON cannot hold.
    """
    return json.dumps(
        _encodable(value, bytes_as_base64),
        ensure_ascii=False,
        indent=indent,
        separators=(",", ": ") if indent is not None else (",", ":"),
        sort_keys=True,
    )


def from_json(text: str | bytes) -> Value:
    """Return the value of JSON text; ValueError (Python's) when it is not JSON."""
    try:
        return json.loads(text, parse_int=_integer, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _encodable(value: Value, bytes_as_base64: bool) -> Value:
    if isinstance(value, list):
        return [_encodable(item, bytes_as_base64) for item in value]
    if isinstance(value, dict):
        return {key: _encodable(item, bytes_as_base64) for key, item in value.items()}
    if isinstance(value, bytes) and bytes_as_base64:
        return base64.b64encode(value).decode()
    if type(value) not in TYPE_NAMES or isinstance(value, bytes):
        raise failure("TypeError", f"{type_name(value)} cannot be encoded as JSON")
    if isinstance(value, float) and not math.isfinite(value):
        raise failure("TypeError", f"double {value} cannot be encoded as JSON")
    return value


def _integer(digits: str) -> int | float:
    number = int(digits)
    return number if INTEGER_MIN <= number <= INTEGER_MAX else float(digits)


def _refuse_constant(name: str) -> Value:
    raise ValueError(f"{name} is not JSON")
