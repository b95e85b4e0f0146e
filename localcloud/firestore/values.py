"""Field values: their order, what may be stored, and how many bytes they count for.

Order of types: https://firebase.google.com/docs/firestore/manage-data/data-types
Sizes: https://firebase.google.com/docs/firestore/storage-size
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from localcloud.firestore import names
from localcloud.firestore.errors import InvalidArgument, Unimplemented

MAX_DEPTH = 20
MAX_FIELD_NAME_BYTES = 1500
_VECTOR = "__vector__"
_TIMESTAMP_RANGE_S = (-62_135_596_800, 253_402_300_799)  # years 1 to 9999

NULL, BOOLEAN, NUMBER, TIMESTAMP, STRING, BYTES, REFERENCE, GEO, ARRAY, VECTOR, MAP = range(11)
_TYPES = {
    "null_value": NULL,
    "boolean_value": BOOLEAN,
    "integer_value": NUMBER,
    "double_value": NUMBER,
    "timestamp_value": TIMESTAMP,
    "string_value": STRING,
    "bytes_value": BYTES,
    "reference_value": REFERENCE,
    "geo_point_value": GEO,
    "array_value": ARRAY,
    "map_value": MAP,
}

Key = tuple[Any, ...]


def type_of(value: Any) -> int:
    """Return the place of the value's type in the order of types."""
    kind = _TYPES[value.WhichOneof("value_type")]
    return VECTOR if kind == MAP and _is_vector(value.map_value.fields) else kind


def sort_key(value: Any) -> Key:
    """Return a tuple; two values compare, and are equal, exactly as their tuples do."""
    kind = type_of(value)
    return (kind, *_PAYLOADS[kind](value))


def is_nan(value: Any) -> bool:
    return value.WhichOneof("value_type") == "double_value" and math.isnan(value.double_value)


def is_null(value: Any) -> bool:
    return bool(value.WhichOneof("value_type") == "null_value")


def number(value: Any) -> int | float | None:
    """Return a number as Python has it, or None when the value is not a number."""
    which = value.WhichOneof("value_type")
    if which == "integer_value":
        return int(value.integer_value)
    return float(value.double_value) if which == "double_value" else None


def check_fields(fields: Any) -> None:
    """Check a document's fields and cut timestamps to microseconds, in place."""
    for name, value in fields.items():
        check_field_name(name)
        check(value)


def check(value: Any, depth: int = 0, in_array: bool = False) -> None:
    """Check one value to be stored and cut its timestamps to microseconds, in place."""
    which = value.WhichOneof("value_type")
    if which is None:
        raise InvalidArgument("a value has no type set")
    if which not in _TYPES:
        raise InvalidArgument(f"value type is not supported: {which}")
    if which == "timestamp_value":
        _check_timestamp(value.timestamp_value)
    elif which == "geo_point_value":
        _check_geo_point(value.geo_point_value)
    elif which == "reference_value":
        names.check_reference(value.reference_value)
    elif which == "array_value":
        if in_array:
            raise InvalidArgument("cannot store an array value in an array value")
        for element in value.array_value.values:
            check(element, _deeper(depth), in_array=True)
    elif which == "map_value":
        _check_map(value.map_value.fields, depth)


def check_field_name(name: str) -> None:
    """Refuse names that are empty, reserved or longer than 1500 bytes."""
    if not name:
        raise InvalidArgument("a field name is the empty string")
    if names.is_reserved(name):
        raise InvalidArgument(f"field name {name} is reserved")
    if len(name.encode()) > MAX_FIELD_NAME_BYTES:
        raise InvalidArgument(f"a field name is longer than {MAX_FIELD_NAME_BYTES} bytes")


def fields_size(fields: Any) -> int:
    """Return the bytes that a map's fields count for."""
    return sum(len(name.encode()) + 1 + _size(value) for name, value in fields.items())


def _size(value: Any) -> int:
    which = value.WhichOneof("value_type")
    if which in {"null_value", "boolean_value"}:
        return 1
    if which == "string_value":
        return len(value.string_value.encode()) + 1
    if which == "bytes_value":
        return len(value.bytes_value)
    if which == "reference_value":
        return sum(len(part.encode()) + 1 for part in value.reference_value.split("/")[5:]) + 16
    if which == "geo_point_value":
        return 16
    if which == "array_value":
        return sum(map(_size, value.array_value.values))
    if which == "map_value":
        return fields_size(value.map_value.fields)
    return 8


def _deeper(depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise InvalidArgument(f"maps and arrays are nested deeper than {MAX_DEPTH}")
    return depth + 1


def _check_map(fields: Any, depth: int) -> None:
    if _is_vector(fields):
        _check_vector(fields)
        return
    deeper = _deeper(depth)
    for name, value in fields.items():
        check_field_name(name)
        check(value, deeper)


def _check_vector(fields: Any) -> None:
    elements = fields["value"].array_value.values if "value" in fields else ()
    kinds = {element.WhichOneof("value_type") for element in elements}
    if len(fields) != 2 or kinds != {"double_value"}:
        raise InvalidArgument("a vector holds __type__ and a value: an array of doubles")


def _check_timestamp(stamp: Any) -> None:
    lowest, highest = _TIMESTAMP_RANGE_S
    if not lowest <= stamp.seconds <= highest or not 0 <= stamp.nanos < 1_000_000_000:
        raise InvalidArgument("timestamp is outside years 1 to 9999")
    stamp.nanos -= stamp.nanos % 1000


def _check_geo_point(point: Any) -> None:
    if not -90 <= point.latitude <= 90 or not -180 <= point.longitude <= 180:
        raise InvalidArgument("geo point is outside -90 to 90 degrees by -180 to 180 degrees")


def _is_vector(fields: Any) -> bool:
    return "__type__" in fields and fields["__type__"].string_value == _VECTOR


def _number_key(value: Any) -> Key:
    found = number(value)
    # NaN sorts before every number; Python compares int with float exactly.
    return (0,) if found is None or math.isnan(found) else (1, found)


def _elements_key(elements: Iterable[Any]) -> Key:
    return tuple(sort_key(element) for element in elements)


def _vector_key(value: Any) -> Key:
    elements = value.map_value.fields["value"].array_value.values
    return (len(elements), _elements_key(elements))


def _map_key(value: Any) -> Key:
    fields = value.map_value.fields
    return (tuple((name, sort_key(fields[name])) for name in sorted(fields)),)


def unsupported_in_query(value: Any) -> None:
    """Refuse values that only the pipeline language has."""
    which = value.WhichOneof("value_type")
    if which is None:
        raise InvalidArgument("a value in the query has no type set")
    if which not in _TYPES:
        raise Unimplemented(f"a query value of type {which}")
    if which == "array_value":
        for element in value.array_value.values:
            unsupported_in_query(element)


_PAYLOADS = {
    NULL: lambda _: (),
    BOOLEAN: lambda value: (value.boolean_value,),
    NUMBER: _number_key,
    TIMESTAMP: lambda value: (value.timestamp_value.seconds, value.timestamp_value.nanos),
    STRING: lambda value: (value.string_value,),
    BYTES: lambda value: (value.bytes_value,),
    REFERENCE: lambda value: names.sort_key(value.reference_value),
    GEO: lambda value: (value.geo_point_value.latitude, value.geo_point_value.longitude),
    ARRAY: lambda value: (_elements_key(value.array_value.values),),
    VECTOR: _vector_key,
    MAP: _map_key,
}
