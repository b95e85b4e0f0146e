"""The runbook has one section for each alert, whole, and none for anything else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from functions.outcome import GAVE_UP
from functions.reconcile import EXECUTION_ENDED
from serving.errors import ServingError
from serving.model_slot import EMPTY, STARTING
from shared.domain.deployment import Status
from shared.errors import PipelineError
from shared.messages import ModelDeclaration, TrainingCompleted

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ALERTS, SITUATIONS = RUNBOOK.split("\n## Alerts\n")[1].split("\n## Situations\n")
PARTS = ("Means", "Affects", "Look", "Do", "Well again", "Escalate")


def sections(text: str) -> dict[str, str]:
    found = re.split(r"^### (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def titles() -> set[str]:
    """Return the alerts' titles as terraform/ writes them: the keys of its tables."""
    written = "".join((ROOT / "terraform" / f"{name}.tf").read_text() for name in ("alerts", "slo"))
    plain = set(re.findall(r'^ {4}"([A-Z][\w ]+)" = \{$', written, re.MULTILINE))
    paces = re.search(r"paces = \{ (.+) \}", written)
    assert paces
    return plain | {
        f"{kind} {pace}"
        for kind in re.findall(r'"(Predictions [\w ]+) \$\{local\.paces\[name\]\}"', written)
        for pace in re.findall(r'"([\w ]+)"', paces[1])
    }


def test_each_alert_has_its_section_and_each_section_its_alert() -> None:
    assert len(titles()) > 30
    assert titles() == set(sections(ALERTS))


@pytest.mark.parametrize("title", sections(ALERTS))
def test_section_says_all_that_somebody_who_was_woken_needs(title: str) -> None:
    text = sections(ALERTS)[title]
    assert tuple(re.findall(r"^\*\*([\w ]+)\.\*\* \S", text, re.MULTILINE)) == PARTS


@pytest.mark.parametrize(
    "title",
    [
        "Somebody has to go back now",
        "The pipeline is stuck",
        "Predictions are wrong but healthy",
        "The workflow service is down",
        "Firestore is down",
        "Pub/Sub has a backlog",
        "A quota is exhausted",
        "A key leaked",
        "A person changed traffic by hand",
    ],
)
def test_situation_that_no_alert_names_has_its_section(title: str) -> None:
    assert "`" in sections(SITUATIONS)[title]


def test_critical_alerts_are_called_so() -> None:
    written = (ROOT / "terraform" / "alerts.tf").read_text()
    critical = set(re.findall(r'"([\w ]+)" = \{\n\s+severity = "CRITICAL"', written))
    assert critical
    for title in critical:
        assert "Critical" in sections(ALERTS)[title], title


def codes(base: type[PipelineError] | type[ServingError]) -> set[str]:
    return {base.code, *(code for inner in base.__subclasses__() for code in codes(inner))}


def fields(model: type[BaseModel]) -> set[str]:
    schema = model.model_json_schema()
    inner = (found.get("properties", {}) for found in schema.get("$defs", {}).values())
    return {name for part in (schema["properties"], *inner) for name in part}


def known_words() -> set[str]:
    """Return what a word may be: a code, a field, a variable, a part, a command, a state."""
    variables = (ROOT / "terraform" / "variables.tf").read_text()
    commands = (ROOT / "docs" / "reference" / "cli.md").read_text()
    return {
        *codes(PipelineError),
        *codes(ServingError),
        *(GAVE_UP, EXECUTION_ENDED, "internal_error"),
        *fields(ModelDeclaration),
        *fields(TrainingCompleted),
        *(one.value for one in Status),
        *(EMPTY.status, STARTING.status),
        *re.findall(r'^variable "(\w+)"', variables, re.MULTILINE),
        *(file.stem for file in (ROOT / "functions").glob("*.py")),
        *("dashboard", "roll_back"),
        *re.findall(r"^## `turnout (\w+)", commands, re.MULTILINE),
        *re.findall(r"^### `turnout keys (\w+)", commands, re.MULTILINE),
    }


def test_every_code_and_setting_that_it_names_exists() -> None:
    text = re.sub(r"```.*?```", "", RUNBOOK, flags=re.DOTALL)
    named = set(re.findall(r"`([a-z][a-z0-9_]*)`", text)) - {"movies", "reason"}
    named = {word for word in named if not re.fullmatch(r"http_\d{3}", word)}
    assert len(named) > 30
    assert named - known_words() == set()


def test_steps_that_retire_a_model_name_all_that_terraform_protects() -> None:
    """What is declared for each model and refuses to be deleted has to be forgotten by hand."""
    page = (ROOT / "docs" / "how-to" / "retire-a-model.md").read_text()
    declared = (ROOT / "terraform" / "models.tf").read_text()
    protected = {
        f"{kind}.{name}"
        for kind, name, body in re.findall(
            r'^resource "(\w+)" "(\w+)" \{\n(.*?)^\}', declared, re.MULTILINE | re.DOTALL
        )
        if "for_each = local.models" in body and "deletion_p" in body
    }
    assert len(protected) == 3
    forgotten = re.search(r"state rm (.+?)\n *```", page, re.DOTALL)
    assert forgotten
    assert set(re.findall(r"'([\w.]+)\[\"books\"\]'", forgotten[1])) == protected
