"""Code and JSON in the pages is what the libraries and the project's own types take."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tree_sitter
import tree_sitter_go

from shared.messages import ModelDeclaration, Policy, TrainingCompleted, check_plan, parse
from tests.docs.pages import ROOT, Fence, all_fences, fences

VERTEX = ROOT / "docs/how-to/publish-from-vertex-ai-pipelines.md"
KUBEFLOW = ROOT / "docs/how-to/publish-from-kubeflow-pipelines.md"
# Not among the project's own packages: KFP pins other versions (`make docs-check` compiles with
# it), and the Vertex AI client is as large as all others together.
ELSEWHERE = {"kfp", "turnout_component", "google.cloud.aiplatform"}


def where(fence: Fence) -> str:
    return fence.where


@pytest.mark.parametrize("fence", all_fences("python"), ids=where)
def test_python_compiles_and_imports_what_exists(fence: Fence) -> None:
    modules = imported(ast.parse(fence.body, fence.where)) - ELSEWHERE
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


def imported(tree: ast.AST) -> set[str]:
    """Return the modules that code imports; of `from google.cloud import x` the package x too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.module == "google.cloud":
            found |= {f"google.cloud.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


@pytest.mark.parametrize("fence", all_fences("json"), ids=where)
def test_json_is_what_the_types_take(fence: Fence) -> None:
    found: dict[str, Any] = json.loads(fence.body)
    if "artifact_uri" in found:
        parse(TrainingCompleted, found)
    for model_id, declared in found.get("models", {}).items():
        check_plan(ModelDeclaration(model_id=model_id, **declared).policy)
    if "policy" in found:
        check_plan(Policy(**found["policy"]))


def test_go_parses() -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_go.language()))
    found = all_fences("go")
    assert found
    for fence in found:
        assert not parser.parse(fence.body.encode()).root_node.has_error, fence.where


def python_fences(page: Path) -> list[str]:
    return [one.body for one in fences(page) if one.language == "python" and one.kind != "cloud"]


@pytest.mark.skipif(not os.environ.get("KFP_PYTHON"), reason="make docs-check installs KFP")
@pytest.mark.parametrize("page", [VERTEX, KUBEFLOW], ids=lambda page: page.stem)
def test_pipelines_compile_with_kfp(page: Path, tmp_path: Path) -> None:
    (tmp_path / "turnout_component.py").write_text(python_fences(VERTEX)[0])
    (tmp_path / "pipeline.py").write_text(python_fences(page)[-1])
    python = ROOT / os.environ["KFP_PYTHON"]
    done = subprocess.run(
        [str(python), "pipeline.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [compiled] = [*tmp_path.glob("train_movies.*")]
    assert "google-cloud-pubsub==2.44.0" in compiled.read_text()


def test_the_component_pins_the_client_that_was_tested() -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    [pinned] = [line for line in lock if line.startswith("google-cloud-pubsub==")]
    assert pinned in python_fences(VERTEX)[0]
