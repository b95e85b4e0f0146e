"""Reads what Terraform was told and planned: tables of locals, Firestore's fields, conditions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.terraform.checking import ROOT

_ENTRY = re.compile(r"^    (\w+)\s*=\s*(\[.*?\])", re.M | re.S)


def table(name: str, file: str = "iam.tf") -> dict[str, list[str]]:
    """Return a map of lists of texts out of a file's locals; KeyError where there is none.

    Such tables are written out, so that they can be read without Terraform.
    """
    text = (ROOT / "terraform" / file).read_text()
    found = re.search(rf"^  {name}\s*=\s*\{{\n(.*?)^  \}}", text, re.M | re.S)
    if found is None:
        raise KeyError(f"{file} has no table {name}")
    body = re.sub(r"^\s*#.*\n", "", found[1], flags=re.M)
    return {key: ast.literal_eval(value) for key, value in _ENTRY.findall(body)}


def permissions(part: str) -> set[str]:
    """Return what a part's own identity may do, as IAM names it."""
    roles = table("custom_roles")
    granted = {permission for role in table("part_roles")[part] for permission in roles[role]}
    # Whoever may move traffic acts as the models' identities: see iam.tf.
    return granted | set(roles["acts_as"] if "traffic" in table("part_roles")[part] else [])


def from_firestore(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as Firestore's client gives it, from the API's fields."""
    return {name: _value(value) for name, value in fields.items()}


def _value(value: Mapping[str, Any]) -> Any:
    [(kind, content)] = value.items()
    if kind == "mapValue":
        return from_firestore(content.get("fields", {}))
    if kind == "arrayValue":
        return [_value(one) for one in content.get("values", [])]
    if kind == "integerValue":
        assert isinstance(content, str), "the API gives whole numbers as text"
        return int(content)
    assert kind in ("stringValue", "doubleValue", "booleanValue", "nullValue"), kind
    return content


def texts(value: Any) -> Iterator[str]:
    """Give every text in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


def constants(file: Path, pattern: str) -> set[str]:
    """Return the texts in a Python file that match as a whole; docstrings are longer."""
    return {
        node.value
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(pattern, node.value)
    }
