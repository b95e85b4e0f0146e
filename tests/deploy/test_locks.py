"""What functions and image install is what was tested, each by its hash."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from deploy.locks import LISTS
from tests.deploy.conftest import ROOT

INSTALLED_HERE = [part for part in LISTS if part != "sbom"]


@pytest.mark.parametrize("part", INSTALLED_HERE)
def test_part_installs_exactly_what_was_tested(part: str) -> None:
    """Every package that it needs, directly or not, is pinned as the lock file has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {Requirement(text).name for text in project["optional-dependencies"][part]}
    if "tensorflow" in direct:
        # It goes by two names; the one for other machines is not installed here.
        direct.remove("tensorflow")
        also = {"tensorflow"}
    else:
        also = set()
    wanted = closure(direct) | also
    locked = {line for line in pins("requirements.lock") if name_of(line) in wanted}
    assert pins(LISTS[part]) == locked


@pytest.mark.parametrize("path", LISTS.values())
def test_every_pin_has_its_hashes(path: str) -> None:
    text = (ROOT / path).read_text()
    pinned = re.findall(r"^\S+==.*\\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+", text, re.M)
    assert len(pinned) == len(pins(path)) > 20


def test_functions_install_no_tensorflow() -> None:
    assert not {"tensorflow", "tensorflow-cpu", "granian", "faiss-cpu"} & {
        name_of(line) for line in pins(LISTS["functions"])
    }


def pins(path: str) -> set[str]:
    """Return the pins of a file, each without its hashes."""
    lines = (line.partition(" \\")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return {line for line in lines if line and not line.startswith(("#", "--hash"))}


def name_of(requirement: str) -> str:
    """Return the normal form of a package's name."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=; ]", requirement)[0]).lower()


def closure(names: set[str]) -> set[str]:
    """Return the installed packages that these need on this machine, with what extras add."""
    found: set[tuple[str, str]] = set()
    todo = [(name_of(name), "") for name in names]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(name_of(needed.name), wanted) for wanted in ["", *needed.extras]]
    return {name for name, _ in found}
