"""The threat model speaks of files and tests that there are."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from functions import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if re.match(r"\| [STRIDE] \|", line)
]
TESTS = sorted({name for row in ROWS for name in re.findall(r"`(tests/[^`]+)`", row[-1])})
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FILE = re.compile(r"`((?:functions|serving|shared|terraform|tests|turnout|workflows)/[\w./-]+)")


def test_every_threat_has_a_mitigation_and_a_test() -> None:
    assert len(ROWS) > 35
    assert {row[0] for row in ROWS} == set("STRIDE")
    for row in ROWS:
        assert len(row) == 4, row
        assert re.search(r"`tests/", row[3]), row


def test_every_file_that_is_named_is_there() -> None:
    named = set(_FILE.findall(PAGE))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    links = re.findall(r"\]\(([^)#]+)", PAGE)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@functools.cache
def _parsed(path: str) -> list[ast.stmt]:
    return ast.parse((ROOT / path).read_text()).body


def exists(node_id: str) -> bool:
    """Tell whether pytest would find the test, or a test in the file: by what the file defines."""
    path, *names = node_id.split("::")
    if not (ROOT / path).is_file():
        return False
    body = _parsed(path)
    for name in names:
        found = [one for one in body if isinstance(one, _DEFINES) and one.name == name]
        if not found:
            return False
        body = found[0].body
    last = names[-1] if names else ""
    return last.startswith("test_") or any(
        isinstance(one, _DEFINES) and one.name.startswith(("test_", "Test")) for one in body
    )


@pytest.mark.parametrize("node_id", TESTS)
def test_every_test_that_is_named_is_there(node_id: str) -> None:
    assert exists(node_id)


@pytest.mark.parametrize(
    "node_id",
    [
        "tests/security/test_nothing.py",
        "tests/security/__init__.py",
        "tests/security/test_threat_model.py::test_nothing",
        "tests/security/test_threat_model.py::exists",
        "tests/security/test_threat_model.py::TestNothing::test_every_test_that_is_named_is_there",
    ],
)
def test_test_that_is_not_there_would_be_noticed(node_id: str) -> None:
    assert not exists(node_id)


@pytest.mark.parametrize("function", main.__all__)
def test_every_function_is_in_the_table_of_callers(function: str) -> None:
    table = PAGE.split("## Who checks the caller")[1].split("## Keys")[0]
    assert f"`{function}`" in table
