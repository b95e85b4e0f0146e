"""What one deployment used of each priced thing, counted at the local cloud's servers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.costs import PRICES
from benchmarks.counted_cloud import CALLS
from localcloud.workflows.store import StepEntry, Store
from turnout.demo import ROOT

WORKFLOW = ROOT / "workflows" / "deploy_model.yaml"
# The step of the workflow's subworkflows that calls a function.
CALL = "call_function"
CALL_KIND = "call"


@dataclass(frozen=True)
class Window:
    """When the deployment ran (Unix time, s), and the execution (its id) that ran it."""

    begin: float
    end: float
    execution: str


def counts(folder: Path, window: Window) -> dict[str, float]:
    """Return how much of each priced thing one deployment used.

    Firestore calls are told apart by time only, so nothing else may happen meanwhile.
    """
    found: Counter[str] = Counter()
    for line in (folder / CALLS).read_text().splitlines():
        call = json.loads(line)
        if window.begin <= call["at"] <= window.end:
            for name in ("reads", "writes", "deletes"):
                found[f"Firestore {name}"] += call[name]
    entries = Store(folder / "workflows").step_entries(window.execution)
    found["workflow steps"] = sum(_billed(entry, _assignments()) for entry in entries)
    calls = [entry for entry in entries if entry.step == CALL and entry.kind == CALL_KIND]
    # The message's own function starts the workflow.
    found["function calls"] = len(calls) + 1
    seconds = sum((entry.left or entry.entered) - entry.entered for entry in calls)
    return {**{name: float(found[name]) for name in PRICES}, "function time, s": seconds}


def _billed(entry: StepEntry, assignments: Mapping[tuple[str, str], int]) -> int:
    """Return how many billable steps a step is: each assignment, call or choice is one."""
    if entry.kind == "assign":
        return assignments[entry.routine, entry.step]
    return int(entry.kind in ("call", "switch", "return", "raise"))


def _assignments() -> dict[tuple[str, str], int]:
    """Return how many variables each `assign` step of the workflow sets."""
    found: dict[tuple[str, str], int] = {}

    def look(routine: str, steps: Sequence[Mapping[str, Any]]) -> None:
        for named in steps:
            for name, step in named.items():
                if "assign" in step:
                    found[routine, name] = len(step["assign"])
                for inner in (
                    step,
                    step.get("for", {}),
                    step.get("try", {}),
                    step.get("except", {}),
                ):
                    if isinstance(inner, Mapping) and "steps" in inner:
                        look(routine, inner["steps"])

    for routine, body in yaml.safe_load(WORKFLOW.read_text()).items():
        look(routine, body["steps"])
    return found
