"""Modules list, map and math."""

from __future__ import annotations

import math

from localcloud.workflows.errors import failure
from localcloud.workflows.evaluate import checked_number
from localcloud.workflows.library.registry import expect, function
from localcloud.workflows.values import Value


@function("list.concat")
def concat(objs: Value, val: Value) -> list[Value]:
    """Return a copy of the list with one more element at its end."""
    return [*expect(objs, "objs", "list"), val]


@function("list.prepend")
def prepend(objs: Value, val: Value) -> list[Value]:
    """Return a copy of the list with one more element at its start."""
    return [val, *expect(objs, "objs", "list")]


@function("map.get")
def get(map: Value, keys: Value) -> Value:
    """Return the value at a key, or at a path of keys; null where there is none."""
    path = keys if isinstance(keys, list) else [keys]
    found = expect(map, "map", "map", "null")
    for key in path:
        expect(key, "keys", "string")
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


@function("map.delete")
def delete(map: Value, key: Value) -> dict[str, Value]:
    """Return a copy of the map without a key, which must be there."""
    expect(map, "map", "map")
    if expect(key, "key", "string") not in map:
        raise failure("KeyError", f'key not found: "{key}"')
    return {name: value for name, value in map.items() if name != key}


@function("map.merge")
def merge(first: Value, second: Value) -> dict[str, Value]:
    """Return both maps in one; the second wins."""
    return {**expect(first, "first", "map"), **expect(second, "second", "map")}


@function("map.merge_nested")
def merge_nested(first: Value, second: Value) -> dict[str, Value]:
    """Return both maps in one, and maps inside them merged likewise; the second wins."""
    merged = dict(expect(first, "first", "map"))
    for key, value in expect(second, "second", "map").items():
        both_maps = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = merge_nested(merged[key], value) if both_maps else value
    return merged


@function("math.abs")
def absolute(x: Value) -> int | float:
    """Return the absolute value."""
    return checked_number(abs(expect(x, "x", "integer", "double")))


@function("math.floor")
def floor(x: Value) -> int:
    """Return the greatest integer not above `x`."""
    try:
        return int(checked_number(math.floor(expect(x, "x", "integer", "double"))))
    except (OverflowError, ValueError):
        raise failure("ValueError", f"{x} has no floor") from None


@function("math.max")
def maximum(x: Value, y: Value) -> int | float:
    """Return the greater; a double as soon as one of them is."""
    return _either(x, y, max)


@function("math.min")
def minimum(x: Value, y: Value) -> int | float:
    """Return the smaller; a double as soon as one of them is."""
    return _either(x, y, min)


def _either(x: Value, y: Value, choose: Value) -> int | float:
    chosen: int | float = choose(
        expect(x, "x", "integer", "double"), expect(y, "y", "integer", "double")
    )
    return chosen if isinstance(x, int) and isinstance(y, int) else float(chosen)
