"""A checkout of its own, and a cloud that is a folder."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deploy.__main__ import app

ROOT = Path(__file__).parents[2]
PARTS = ("deploy", "functions", "serving", "shared")
FAKES = Path(__file__).with_name("fake_programs.py")
WHERE = ("--project", "shop-test", "--region", "europe-west1")
UP, DOWN = ("up", *WHERE), ("down", *WHERE)
FRESH = {
    "account": "ops@example.com",
    "application_credentials": True,
    "state": "ACTIVE",
    "billing": "True",
    "terraform": "1.11.4",
    "apis": ["storage.googleapis.com"],
    "buckets": {},
    "images": [],
    "policy": [],
    "objects": True,
    "backups": [],
    "billing_accounts": ["012345-6789AB-CDEF01"],
    "services": {},
    "applied": {},
    "refusals": [],
}


def copy_tree(folder: Path) -> Path:
    """Copy what is built from into a folder and return it."""
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "terraform/environments").mkdir(parents=True)
    models = "terraform/models.auto.tfvars.json"
    shutil.copy(ROOT / models, folder / models)
    return folder


@dataclass
class Cloud:
    """A project behind fake programs; `calls` says what was called since it was last asked."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.change(**FRESH)

    def change(self, **values: Any) -> None:
        """Set fields of the project."""
        kept = self.folder / "project.json"
        project = json.loads(kept.read_text()) if kept.exists() else {}
        kept.write_text(json.dumps({**project, **values}))

    @property
    def project(self) -> dict[str, Any]:
        """The project as it is now."""
        found: dict[str, Any] = json.loads((self.folder / "project.json").read_text())
        return found

    def calls(self) -> list[list[str]]:
        """Return the calls since the last time, each as its words."""
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def changes(self) -> list[str]:
        """Return which calls since the last time changed something, up to the verb."""
        verbs = {"enable", "create", "update", "submit", "delete", "apply", "destroy"}
        verbs |= {"add-iam-policy-binding"}
        found = []
        for call in self.calls():
            words = [word for word in call if not word.startswith("-")]
            if verb := next(iter(verbs.intersection(words)), None):
                found.append(" ".join(words[: words.index(verb) + 1]))
        return found


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that nobody writes into but `deploy`, into build/."""
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def cloud(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A fresh project with billing, somebody who is logged in, and nothing else."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("gcloud", "terraform"):
        program = programs / name
        program.write_text(f"#!{sys.executable} -IS\n{FAKES.read_text()}")
        program.chmod(0o755)
    monkeypatch.chdir(tree)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("FAKE_CLOUD", str(tmp_path / "cloud"))
    monkeypatch.delenv("FAKE_FAILS", raising=False)
    return Cloud(tmp_path / "cloud")


@pytest.fixture(scope="session")
def up_to_date() -> dict[str, Any]:
    """What `running` keeps of its first run: the project and the calls that led to it."""
    return {}


@pytest.fixture
def running(cloud: Cloud, up_to_date: dict[str, Any]) -> Cloud:
    """A project where everything is; its `calls` are those that put it there."""
    if not up_to_date:
        result = deploy(*UP, "--yes")
        assert result.exit_code == 0, result.output
        log = (cloud.folder / "calls").read_text()
        up_to_date.update(project=cloud.project, calls=log, output=result.output)
    cloud.change(**up_to_date["project"])
    (cloud.folder / "calls").write_text(up_to_date["calls"])
    return cloud


def deploy(*arguments: str, typed: str = "") -> Result:
    """Run `python -m deploy` and return what came of it; stdout and stderr are one text."""
    return CliRunner().invoke(app, list(arguments), input=typed)
