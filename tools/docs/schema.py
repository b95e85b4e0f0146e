"""JSON Schema in words: what type a field has, and what it may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tools.docs.markdown import code

Schema = Mapping[str, Any]
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {} entries",
}
_NO_CONTROLS = r"^[^\x00-\x1f"


def type_of(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """Return the type in words: `integer`, `list of string`, `one of a, b`, or a section's name."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        found = definitions[name]
        return _choices(found) if "enum" in found else f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return _choices(schema)
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    for union in ("anyOf", "oneOf"):
        if union in schema:
            kinds = [type_of(one, definitions) for one in schema[union]]
            return " or ".join(dict.fromkeys(kinds))
    if "allOf" in schema:
        return type_of(schema["allOf"][0], definitions)
    if schema.get("type") == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {type_of(items, definitions)}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"map of {type_of(inner, definitions)}" if isinstance(inner, dict) else "object"
    return str(schema.get("format") or schema.get("type") or "any")


def limits_of(schema: Schema) -> str:
    """Return a field's bounds in words, those of its alternatives and items included."""
    return ", ".join(dict.fromkeys(_limits(schema)))


def default_of(schema: Schema) -> str:
    """Return a field's default as JSON, "" where there is none or it is an object."""
    if "default" not in schema or isinstance(schema["default"], dict):
        return ""
    return code(json.dumps(schema["default"], ensure_ascii=False))


def _choices(schema: Schema) -> str:
    return " or ".join(code(str(one)) for one in schema["enum"])


def _limits(schema: Schema) -> Iterator[str]:
    for name, words in _BOUNDS.items():
        if name in schema:
            yield words.format(f"{schema[name]:,}")
    if "pattern" in schema:
        one_line = schema["pattern"].startswith(_NO_CONTROLS)
        yield "one line" if one_line else f"matches {code(schema['pattern'])}"
    inner = [*schema.get("anyOf", []), schema.get("items")]
    for one in inner:
        if isinstance(one, dict):
            yield from _limits(one)
