"""Field transforms: what the server computes from a field's current value.

Semantics: google.firestore.v1.DocumentTransform.FieldTransform.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from localcloud.firestore import fields, values
from localcloud.firestore.errors import InvalidArgument
from localcloud.firestore.messages import FieldTransform, Value, timestamp

_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_NUMERIC = {"increment", "maximum", "minimum"}
_ARRAYS = {"append_missing_elements", "remove_all_from_array"}


def check_transform(message: Any) -> None:
    """Refuse a transform that can never be applied."""
    fields.parse_writable_path(message.field_path)
    which = message.WhichOneof("transform_type")
    if which is None:
        raise InvalidArgument("a field transform has no operation set")
    if which == "set_to_server_value":
        if message.set_to_server_value != FieldTransform.REQUEST_TIME:
            raise InvalidArgument("set_to_server_value takes REQUEST_TIME only")
    elif which in _NUMERIC:
        if values.number(getattr(message, which)) is None:
            raise InvalidArgument(f"{which} takes an integer or a double")
    else:
        for element in getattr(message, which).values:
            values.check(element, depth=1, in_array=True)


def apply_transform(document_fields: Any, message: Any, commit_us: int) -> Any:
    """Change the field in place and return the transform's result, a Value."""
    path = fields.parse_path(message.field_path)
    which = message.WhichOneof("transform_type")
    current = fields.lookup(document_fields, path)
    if which in _ARRAYS:
        new, result = _change_array(current, which, getattr(message, which)), Value(null_value=0)
    elif which in _NUMERIC:
        new = result = _NUMBERS[which](current, getattr(message, which))
    else:
        # Server timestamps have millisecond precision, commit times microseconds.
        new = result = Value(timestamp_value=timestamp(commit_us - commit_us % 1000))
    # A copy, since `new` may be the very value that `put` writes over.
    fields.put(document_fields, path, _copy(new))
    return _copy(result)


def _change_array(current: Any | None, which: str, operand: Any) -> Any:
    kept: list[Any] = []
    if current is not None and values.type_of(current) == values.ARRAY:
        kept = list(current.array_value.values)
    if which == "remove_all_from_array":
        removed = {values.sort_key(element) for element in operand.values}
        kept = [element for element in kept if values.sort_key(element) not in removed]
    else:
        present = {values.sort_key(element) for element in kept}
        for element in operand.values:
            key = values.sort_key(element)
            if key not in present:
                present.add(key)
                kept.append(element)
    changed = Value()
    changed.array_value.SetInParent()
    changed.array_value.values.extend(kept)
    return changed


def _increment(current: Any | None, operand: Any) -> Any:
    old = None if current is None else values.number(current)
    by = values.number(operand)
    if old is None or by is None:
        return operand
    total = old + by
    if isinstance(total, float):
        return Value(double_value=total)
    return Value(integer_value=max(_MIN_INT, min(_MAX_INT, total)))


def _extreme(current: Any | None, operand: Any, keep_larger: bool) -> Any:
    old = None if current is None else values.number(current)
    new = values.number(operand)
    if old is None or new is None:
        return operand
    if math.isnan(old) or math.isnan(new):
        return Value(double_value=math.nan)
    # Equal numbers of different types leave the stored one as it is.
    return operand if (new > old if keep_larger else new < old) else current


def _copy(value: Any) -> Any:
    copied = Value()
    copied.CopyFrom(value)
    return copied


_NUMBERS: dict[str, Callable[[Any, Any], Any]] = {
    "increment": _increment,
    "maximum": lambda current, operand: _extreme(current, operand, keep_larger=True),
    "minimum": lambda current, operand: _extreme(current, operand, keep_larger=False),
}
