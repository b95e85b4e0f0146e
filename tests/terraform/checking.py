"""Runs the real Terraform over a copy of terraform/, offline, with the provider's schema alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.terraform import stub_provider

ROOT = Path(__file__).parents[2]
# What the configuration reads beside its own folder.
READ = ("terraform", "shared/*.proto", "workflows/*.yaml")
HOW_TO_INSTALL = (
    "terraform 1.11 or newer is not installed: https://developer.hashicorp.com/terraform/install "
    "(one binary; `make terraform-check` needs no account and no network beyond PyPI)"
)


class CheckFailed(RuntimeError):
    """Terraform found something; its own words are the message."""


@dataclass
class Outcome:
    """What `terraform test` did: its words, and what each run block planned, by its name."""

    output: str
    passed: bool
    plans: dict[str, Plan] = field(default_factory=dict)


class Plan:
    """What one run block would make of the project: its resources, as far as they are known."""

    def __init__(self, resources: list[Mapping[str, Any]]) -> None:
        self._resources = [one for one in resources if one["mode"] == "managed"]

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the values of a type's resources, by `name["key"]`."""
        return {
            found["address"].removeprefix(f"{kind}."): found["values"]
            for found in self._resources
            if found["type"] == kind and found["values"]
        }

    def actions(self, kind: str) -> dict[str, list[str]]:
        """Return what is done to each of a type's resources, such as ["create"]; of a plan only."""
        return {
            found["address"].removeprefix(f"{kind}."): found["change"]["actions"]
            for found in self._resources
            if found["type"] == kind
        }

    @property
    def kinds(self) -> set[str]:
        """The types of the resources."""
        return {found["type"] for found in self._resources}


def installed() -> bool:
    """Say whether there is a terraform to run."""
    return shutil.which("terraform") is not None


@contextmanager
def working_copy() -> Iterator[Workspace]:
    """Give a copy of the configuration, initialised; CheckFailed where that fails."""
    with tempfile.TemporaryDirectory(prefix="terraform-") as folder:
        root = Path(folder)
        for pattern in READ:
            for source in ROOT.glob(pattern):
                target = root / source.relative_to(ROOT)
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".terraform*"))
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
        with stub_provider.serving(root) as environment:
            workspace = Workspace(root / "terraform", environment)
            workspace.run("init", "-backend=false", "-input=false")
            yield workspace


class Workspace:
    """One folder with a configuration; `run` calls Terraform there."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TF_")},
            **environment,
            "TF_CLI_CONFIG_FILE": os.devnull,
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }

    def run(self, *arguments: str) -> str:
        """Return what Terraform printed; CheckFailed with it where it fails."""
        done = self._call(*arguments, "-no-color")
        if done.returncode:
            raise CheckFailed(f"terraform {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def test(self, *arguments: str) -> Outcome:
        """Run the run blocks of tests/*.tftest.hcl, and keep what they planned."""
        done = self._call("test", "-json", "-verbose", *arguments)
        said, plans = [], {}
        for line in done.stdout.splitlines():
            event = json.loads(line)
            kind, run = event["type"], event.get("@testrun", "")
            if kind in ("test_plan", "test_state"):
                plans[run] = Plan(_resources(event[kind]))
            elif kind == "diagnostic":
                said.append(_words(event["diagnostic"]))
            elif kind == "test_summary" or event.get(kind, {}).get("progress") == "complete":
                said.append(event["@message"])
        return Outcome("\n".join(said) + done.stderr, done.returncode == 0, plans)

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )


def _resources(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the resources of a plan, or of what an apply left, in Terraform's JSON."""
    if "root_module" in said:
        return list(said["root_module"]["resources"])
    return [
        {**one, "values": one["change"].get("after")} for one in said.get("resource_changes", [])
    ]


def _words(diagnostic: Mapping[str, Any]) -> str:
    where = diagnostic.get("range") or {}
    line = (where.get("start") or {}).get("line", "")
    place = f"{where.get('filename', '')}:{line}: " if where else ""
    return f"{diagnostic['severity']}: {place}{diagnostic['summary']}: {diagnostic['detail']}"
