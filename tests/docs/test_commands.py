"""Every command of every page is run, or checked against the tool's own help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from tests.docs.pages import ROOT, SHELLS, Fence, all_fences, commands, inline_code, pages
from tests.docs.syntax import parts, what_is_wrong

KINDS = frozenset({"", "live", "cloud", "long", "covered-by", "languages", "webhook-call"})
QUICK = frozenset({"make", "turnout", "python", "cat", "echo", "export", "."})
"""What a fence without a mark may run: nothing that changes anything but a scratch folder."""
NOT_QUICK = frozenset(
    {"demo", "up", "test", "deploy", "destroy", "clean", "chaos", "faults", "bench"}
)
SHELL_FENCES = all_fences(*SHELLS)
_INLINE = re.compile(r"^(turnout|make|gcloud|python -m|terraform) [a-z-]")


def where(fence: Fence) -> str:
    return fence.where


@pytest.mark.parametrize("fence", SHELL_FENCES, ids=where)
def test_commands_are_ones_that_their_tools_know(fence: Fence) -> None:
    assert fence.kind in KINDS, f"{fence.where}: tests/docs/pages.py lists the marks"
    checked = subprocess.run(
        ["bash", "-n"], input=fence.body, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert [wrong for one in commands(fence.body) for wrong in what_is_wrong(one)] == []


@pytest.mark.parametrize(
    "fence", [one for one in SHELL_FENCES if one.kind == "covered-by"], ids=where
)
def test_the_test_that_covers_a_command_exists(fence: Fence) -> None:
    file, _, name = fence.more.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("fence", [one for one in SHELL_FENCES if not one.kind], ids=where)
def test_quick_commands_run(fence: Fence, tmp_path: Path) -> None:
    for command in commands(fence.body):
        for words in parts(command):
            assert words[0] in QUICK, f"{command}: mark the fence (see tests/docs/pages.py)"
            assert not (words[0] == "make" and NOT_QUICK & set(words)), f"{command}: is not quick"
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", fence.body],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fence", all_fences("console"), ids=where)
def test_transcripts_show_commands_that_exist(fence: Fence) -> None:
    body = re.sub(r"\\\n\s*", " ", fence.body)
    typed = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
    shown = [re.sub(r"\[[^\]]*\](\.\.\.)?|<[^>]*>|COMMAND|#.*", "", line) for line in typed]
    assert [found for line in shown for found in unknown_names(line)] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_exist(page: Path) -> None:
    told = [one for one in inline_code(page) if _INLINE.match(one)]
    assert [f"`{one}`: {found}" for one in told for found in unknown_names(one)] == []


def unknown_names(command: str) -> list[str]:
    """Return what is wrong with a command that may be shortened: its names have to exist."""
    cut = re.sub(r"['\"]?[…|].*", "", command)
    return [
        found
        for found in what_is_wrong(cut)
        if not re.search(r"Missing|NoArgsIsHelp|BadParameter|is no whole command", found)
    ]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("turnout rolback movies", "No such command"),
        ("turnout rollback movies --because x", "No such option"),
        ("turnout keys make movies", "No such command"),
        ("make everything", "no target everything"),
        ("python -m benchmarks.nothing", "no such module"),
        ("python -m examples.movielens --run 1 --enormous", "no --enormous"),
        ("rm -rf build", "no check is known"),
        ("export KEY=$(turnout keys make movies)", "No such command"),
        ("cat message.json | turnout publish --filename -", "No such option"),
        ("TURNOUT_CHAT_WEBHOOK=https://example.com make everything", "no target"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, says: str) -> None:
    assert [found for found in what_is_wrong(command) if says in found]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("gcloud pubsub topics publish training-completed --text=x", "no --text"),
        ("gcloud pubsub topics", "is no whole command"),
        ("terraform plan -output=x", "no -output"),
        ("curl --fail-with-everything https://example.com", "no --fail-with-everything"),
    ],
)
def test_an_option_that_a_tool_does_not_have_is_found(command: str, says: str) -> None:
    found = what_is_wrong(command)
    if not found and not which(command.split()[0]):
        pytest.skip(f"{command.split()[0]} is not installed")
    assert any(says in one for one in found), found
