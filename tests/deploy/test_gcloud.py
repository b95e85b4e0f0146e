"""Every gcloud command that is run or written down is one that gcloud's own parser takes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.conftest import DOWN, Cloud, deploy
from tests.docs.pages import SHELLS, all_fences, commands
from tests.docs.syntax import parts

PARSER = Path(__file__).with_name("gcloud_parser.py")
#: What words on a page stand for, where gcloud looks at their form.
STANDING_FOR = {r"\bREGION\b": "europe-west1", r"\bPROJECT_NUMBER\b": "12345", "PROJECT": "shop"}
PROGRAM = shutil.which("gcloud")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="the Google Cloud CLI is not installed")


def faults(called: list[list[str]], folder: Path) -> list[str]:
    """Return what gcloud's parser has against each of these, only where it has."""
    sdk = Path(str(PROGRAM)).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-S", str(PARSER), str(sdk)],
        input=json.dumps(called),
        env={"CLOUDSDK_CONFIG": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return [f"{shlex.join(c)}\n{s}" for c, s in zip(called, said, strict=True) if s]


def as_typed(word: str) -> str:
    """Return a word of a page with examples in the place of what stands for them."""
    for pattern, example in STANDING_FOR.items():
        word = re.sub(pattern, example, word)
    return word


def test_commands_of_up_and_down_are_gclouds(running: Cloud, tmp_path: Path) -> None:
    deploy(*DOWN, "--confirm", "shop-test")
    called = [call[1:] for call in running.calls() if call[0] == "gcloud"]
    assert len(called) >= 20
    assert faults(called, tmp_path) == []


def test_commands_in_the_pages_are_gclouds(tmp_path: Path) -> None:
    written = [
        [as_typed(word) for word in words[1:]]
        for fence in all_fences(*SHELLS)
        for command in commands(fence.body)
        for words in parts(command)
        if words[0] == "gcloud"
    ]
    wrong = [["services", "lst"], ["builds", "submit", "x.zip", "--nonsense"]]
    assert written
    assert [one.split("\n")[0] for one in faults([*written, *wrong], tmp_path)] == [
        shlex.join(words) for words in wrong
    ]
