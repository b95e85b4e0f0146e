"""The runbook has one section for each alert, whole, and none for anything else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
