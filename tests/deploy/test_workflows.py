"""What GitHub runs: pinned, without keys, and with no more rights than it needs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
FILES = {path.name: path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")}
WORKFLOWS: dict[str, dict[Any, Any]] = {n: yaml.safe_load(text) for n, text in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_every_action_is_a_commit(name: str) -> None:
    used = re.findall(r"uses: (\S+)", FILES[name])
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)


@pytest.mark.parametrize("name", FILES)
def test_rights_are_given_job_by_job_and_no_secret_is_read(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}
    assert "secrets." not in FILES[name]
    for job in WORKFLOWS[name]["jobs"].values():
        writes = {right for right, level in job["permissions"].items() if level == "write"}
        assert writes <= ({"id-token"} if name == "deploy.yml" else set())


def test_only_a_tag_deploys_and_a_person_lets_it() -> None:
    workflow = WORKFLOWS["deploy.yml"]
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as true
    assert all(job["environment"] == "production" for job in workflow["jobs"].values())


def test_what_runs_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    run = {command for text in FILES.values() for command in re.findall(r"\bmake ([a-z-]+)", text)}
    checks = {target for target in targets if target.endswith("-check")}
    assert {"check", "test", "audit", "deploy", *checks} <= run
    assert run <= targets


def test_known_faults_are_looked_for_every_week_and_nothing_else_is() -> None:
    workflow = WORKFLOWS["check.yml"]
    assert len(workflow[True]["schedule"]) == 1
    unconditional = {name for name, job in workflow["jobs"].items() if "if" not in job}
    assert unconditional == {"audit"}


def test_every_variable_that_github_gives_reaches_make() -> None:
    [step] = [one for one in WORKFLOWS["deploy.yml"]["jobs"]["deploy"]["steps"] if "env" in one]
    passed = dict(re.findall(r'(\w+)="\$(\w+)"', step["run"]))
    assert passed == {name: name for name in step["env"]}
    used = set(re.findall(r"\$\(if \$\((\w+)\)|\$\((PROJECT)\)", MAKEFILE))
    assert {name for pair in used for name in pair if name} >= set(passed)
