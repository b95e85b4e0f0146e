"""Every workflow of the project against the published JSON schema, and against the interpreter."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from localcloud.workflows.source import load

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "workflows").glob("*.yaml"))
SCHEMA = json.loads((Path(__file__).parent / "workflows.schema.json").read_text())


def schema_errors(source: str) -> list[str]:
    """Return what the published schema finds wrong with a workflow's source."""
    validator = jsonschema.Draft7Validator(SCHEMA)
    return [
        f"{error.json_path}: {error.message}"
        for error in validator.iter_errors(yaml.safe_load(source))
    ]


def test_the_project_has_workflows() -> None:
    assert SOURCES, "workflows/ holds no *.yaml: there is nothing to deploy"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_workflow_passes_the_published_schema(path: Path) -> None:
    assert schema_errors(path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_workflow_can_be_deployed_to_the_local_cloud(path: Path) -> None:
    assert load(path.read_text()).main.body.steps


def test_schema_finds_a_misspelt_keyword() -> None:
    assert schema_errors("main: {steps: [{a: {asign: [{x: 1}]}}]}")
    assert not schema_errors("main: {steps: [{a: {assign: [{x: 1}]}}]}")
