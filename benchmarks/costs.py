"""What one deployment is billed as, and for how much at list price.

Prices in US dollars without the free tiers, of the cheapest regions; in europe-central2 they are
up to some 40 % higher. They are copied from these pages by hand: look there before relying on one.
- Firestore, Oregon: https://firebase.google.com/docs/firestore/pricing
- Workflows, internal steps: https://cloud.google.com/workflows/pricing
- functions are Cloud Run services, tier 1: https://cloud.google.com/run/pricing

Left out, because they are a fraction of a cent in any case or depend on the model: storage and its
operations, Pub/Sub, and the CPU time of the job that prepares answers and of the new container.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.counted_cloud import CALLS
from localcloud.workflows.store import StepEntry, Store
from turnout.demo import ROOT

PRICES = {
    "Firestore reads": 0.03 / 100_000,
    "Firestore writes": 0.09 / 100_000,
    "Firestore deletes": 0.01 / 100_000,
    "workflow steps": 0.01 / 1_000,
    "function calls": 0.40 / 1_000_000,
    # 1 vCPU and 512 MiB while a request is answered.
    "function time, s": 0.000024 + 0.5 * 0.0000025,
}
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


def price(used: Mapping[str, float]) -> float:
    """Return the list price of it in US dollars."""
    return sum(used[name] * each for name, each in PRICES.items())


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
