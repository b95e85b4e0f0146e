"""The generated pages are what the code says now, and say something about all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from serving.errors import TooManyCustomers
from shared.domain.deployment import TRANSITIONS
from shared.errors import Superseded
from shared.messages import ModelDeclaration, TrainingCompleted
from tests.docs.pages import ROOT
from tools.docs.__main__ import stale
from tools.docs.settings import variables
from turnout.cli import app

REFERENCE = ROOT / "docs" / "reference"


def test_every_page_is_current() -> None:
    assert stale() == [], "run make docs"


def text(name: str) -> str:
    return (REFERENCE / name).read_text()


def test_every_command_and_option_is_described() -> None:
    page = text("cli.md")

    def check(command: object, name: str) -> None:
        assert f"`{name}`" in page or name == "turnout"
        for parameter in command.params:  # type: ignore[attr-defined]
            for option in parameter.opts:
                if option.startswith("--"):
                    assert option in page, f"{name} {option}"
        for inner, found in getattr(command, "commands", {}).items():
            check(found, f"{name} {inner}")

    check(typer.main.get_command(app), "turnout")


@pytest.mark.parametrize(
    ("page", "model"), [("messages.md", TrainingCompleted), ("terraform.md", ModelDeclaration)]
)
def test_every_field_is_described(page: str, model: type[TrainingCompleted]) -> None:
    fields = {
        *model.model_fields,
        *(
            field
            for found in model.model_json_schema()["$defs"].values()
            for field in found.get("properties", {})
        ),
    }
    assert [field for field in fields if f"| `{field}` |" not in text(page)] == []


def test_every_variable_of_terraform_is_described() -> None:
    lines = [
        line.split('"')[1]
        for file in (ROOT / "terraform").glob("*.tf")
        for line in file.read_text().splitlines()
        if line.startswith(("variable ", "output "))
    ]
    assert [name for name in lines if f"| `{name}` |" not in text("terraform.md")] == []


@pytest.mark.parametrize(
    ("code", "status"),
    [(Superseded.code, Superseded.http_status), (TooManyCustomers.code, 400)],
)
def test_an_error_is_listed_with_its_status(code: str, status: int) -> None:
    assert f"| `{code}` | {status} " in text("errors.md")


def test_every_transition_is_drawn() -> None:
    drawing = (ROOT / "docs" / "states.svg").read_text()
    drawn = [f"{before} to {after}" for before, found in TRANSITIONS.items() for after in found]
    assert [one for one in drawn if one not in drawing] == []


def test_figures_of_the_readme_are_those_that_were_measured() -> None:
    rows = re.findall(
        r"^\| \*\*.*?\*\* \| (.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    said = {figure for row in rows for figure in re.findall(r"\d+(?:[.,]\d+)+|\d{3,}", row)}
    measured = "".join(
        (ROOT / file).read_text()
        for file in (
            *(f"docs/{name}.md" for name in ("measurements", "candidates", "chaos", "faults")),
            "benchmarks/rollback.json",
        )
    )
    assert len(said) >= 10
    # A rounded one begins as the one that was measured does: 9.9 of 9.87, 0.30 of 0.301.
    close = {f"{float(found):.1f}" for found in re.findall(r"\b\d+\.\d+\b", measured)}
    close |= {f"{float(found):.2f}" for found in re.findall(r"\b\d+\.\d+\b", measured)}
    known = measured + measured.replace(",", "")
    assert [
        one
        for one in said
        if one not in known and one.replace(",", "") not in known and one not in close
    ] == []


def test_variables_are_found_however_they_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "one.py").write_text(
        "import os\n"
        "os.environ['BY_INDEX']\n"
        "os.environ.get('BY_GET') or env.get('BY_SHORT', 'NOT_A_NAME_OF_ONE'.lower())\n"
        "'BY_IN' in values\n"
        "read_integer(env, 'BY_HELPER')\n"
        "_listed(values, 'BY_ONE' if iap else 'BY_OTHER')\n"
        "typer.Option(envvar=['BY_TYPER'])\n"
        "other.get('NOT_READ')\n"
    )
    found = set(variables(tmp_path))
    assert found == {
        *("BY_INDEX", "BY_GET", "BY_SHORT", "BY_IN", "BY_HELPER", "BY_ONE", "BY_OTHER"),
        "BY_TYPER",
    }
