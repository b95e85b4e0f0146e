"""The models that the suite declares: one for each story, so that no test disturbs another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.e2e.artifacts import NAN_CUSTOMER

FAULTS = ("crash", "deaf", "replace", "rewrite", "none")
GOLDEN = ["C000", "C007"]


def _declared(image: str = "turnout-serving", **changes: Any) -> dict[str, Any]:
    return {
        "image": image,
        "service_account": "serving",
        "memory": "2Gi",
        "min_instances": 0,
        "golden_customers": GOLDEN,
        "policy": {"when": "if_better", "strategy": "immediate", "over": "8s"},
        **changes,
    }


# What a model's first run (and every odd one) is, by the model that it is published for.
BROKEN_ARTIFACTS = {
    "corrupt": "corrupt",
    "missing": "missing",
    "unknown-signature": "unknown-signature",
    "nan": "nan",
    "nan-for-one": "nan-for-one",
    "aborting": "aborting",
    "occupied": "good",
    "crash": "good",
    "deaf": "good",
    "replace": "good",
    "rewrite": "good",
}

MODELS = {
    "once": _declared(),
    "console": _declared(),
    "untouched": _declared("none"),
    "queue": _declared("none"),
    "steady": _declared(),
    "back": _declared(),
    "halt": _declared(),
    "first": _declared("none"),
    "corrupt": _declared(),
    "missing": _declared("none"),
    "unknown-signature": _declared(),
    "nan": _declared(),
    "nan-for-one": _declared(golden_customers=[*GOLDEN, NAN_CUSTOMER]),
    "aborting": _declared(),
    "occupied": _declared("none"),
    "crash": _declared("crash"),
    "deaf": _declared("deaf", startup_timeout_s=10),
    "replace": _declared("replace"),
    "rewrite": _declared("rewrite"),
}

KILLED_MODELS = {"survivor": _declared(), "quick": _declared("none")}


def write(folder: Path, models: dict[str, Any]) -> Path:
    """Write the declaration and the images that it names; return the declaration's path."""
    images = {
        fault: {"command": [sys.executable, "-m", "tests.e2e.containers", fault]}
        for fault in FAULTS
    }
    data = folder / "data"
    data.mkdir()
    (data / "images.json").write_text(json.dumps(images))
    path = folder / "models.json"
    path.write_text(json.dumps({"models": models}))
    return path
