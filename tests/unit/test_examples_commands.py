"""The trainer's command lines, run as a person runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLES = (
    "TURNOUT_PROJECT",
    "GOOGLE_CLOUD_PROJECT",
    "TRAINING_BUCKET",
    "TURNOUT_TRAINING_BUCKETS",
)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=inherited | {"NO_COLOR": "1", "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "teaches"),
    [
        ("examples.movielens", ["--publish", "--request-id", "Example:"]),
        ("examples.movielens.train", ["--settings", "--fold", "Example:"]),
        ("examples.movielens.publish", ["--bucket", "--strategy", "Example:"]),
    ],
)
def test_help_teaches_every_option(module: str, teaches: list[str]) -> None:
    finished = run(module, "--help")
    assert finished.returncode == 0, finished.stderr
    for words in teaches:
        assert words in finished.stdout


def test_command_line_is_there_before_tensorflow_is_imported() -> None:
    listing = (
        "import sys, examples.movielens.commands, examples.movielens.train;"
        "print(sorted({'tensorflow', 'keras', 'pandas'} & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(["--publish"], "--project", id="no project to publish to"),
        pytest.param(["--publish", "--project", "p"], "--bucket", id="no bucket to publish to"),
        pytest.param(["--when", "always"], "--publish", id="a deployment nobody is told of"),
        pytest.param(["--publish", "--steps", "50,10"], "ascend", id="steps that fall"),
        pytest.param(["--publish", "--steps", "half"], "whole percents", id="steps in words"),
    ],
)
def test_impossible_request_is_refused_before_training(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    finished = run("examples.movielens", "--run", "1", "--output", str(tmp_path), *arguments)
    assert finished.returncode == 2
    assert reason in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_publishing_a_run_that_was_not_trained_says_so(tmp_path: Path) -> None:
    finished = run(
        "examples.movielens.publish",
        "--run=1",
        f"--output={tmp_path}",
        TURNOUT_PROJECT="turnout-local",
        TURNOUT_TRAINING_BUCKETS="first-bucket,second-bucket",
        # Nobody listens here, and nobody is asked.
        STORAGE_EMULATOR_HOST="http://127.0.0.1:9",
        PUBSUB_EMULATOR_HOST="127.0.0.1:9",
    )
    assert finished.returncode == 2
    assert "train it first" in finished.stderr
