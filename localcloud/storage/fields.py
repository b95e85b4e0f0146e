"""Partial responses: the `fields` parameter, as `items(name,size),nextPageToken`."""

from __future__ import annotations

import re
from typing import Any

from localcloud.storage.errors import Invalid

Mask = dict[str, "Mask"]
_TOKEN = re.compile(r"[A-Za-z0-9_*-]+|[(),/]")


def parse(text: str) -> Mask:
    """Return the mask as nested names, an empty one meaning "all of it"; Invalid otherwise."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise _invalid(text)
    mask = _group(tokens, text)
    if tokens:
        raise _invalid(text)
    return mask


def apply(mask: Mask, value: Any) -> Any:
    """Return `value` with only the fields of the mask; a list is masked item by item."""
    if not mask or "*" in mask:
        return value
    if isinstance(value, list):
        return [apply(mask, item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: apply(mask[name], item) for name, item in value.items() if name in mask}


def _group(tokens: list[str], text: str) -> Mask:
    mask: Mask = {}
    while True:
        inner = mask.setdefault(_name(tokens, text), {})
        while tokens[:1] == ["/"]:
            tokens.pop(0)
            inner = inner.setdefault(_name(tokens, text), {})
        if tokens[:1] == ["("]:
            tokens.pop(0)
            inner.update(_group(tokens, text))
            if tokens[:1] != [")"]:
                raise _invalid(text)
            tokens.pop(0)
        if tokens[:1] != [","]:
            return mask
        tokens.pop(0)


def _name(tokens: list[str], text: str) -> str:
    if not tokens or tokens[0] in "(),/":
        raise _invalid(text)
    return tokens.pop(0)


def _invalid(text: str) -> Invalid:
    return Invalid(f"Invalid field selection {text}")
