"""The models that the suite declares: one for each story, so that no test disturbs another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.e2e.artifacts import NAN_CUSTOMER

FAULTS = ("crash", "deaf", "replace", "rewrite", "failing", "none")
GOLDEN = ["C000", "C007"]
ELSEWHERE = "us-central1"


def _declared(image: str = "turnout-serving", **changes: Any) -> dict[str, Any]:
    return {
        "image": image,
        "service_account": "serving",
        "memory": "2Gi",
        "min_instances": 0,
        "golden_customers": GOLDEN,
        "policy": {
            "when": "if_better",
            "strategy": "immediate",
            "over": "8s",
            "canary": {"judge": "off"},
        },
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
    "wrong-recall": "wrong-recall",
    "one-list": "one-list",
    "occupied": "good",
    "crash": "good",
    "deaf": "good",
    "replace": "good",
    "rewrite": "good",
}

# Measured at once, so a stage is judged as soon as its first minute is over. The latencies of
# this machine's processes are no test's business.
JUDGED = {
    "strategy": "gradual",
    "steps_percent": [30],
    "over": "10s",
    "canary": {
        "warm_up_s": 0,
        "metrics_lag_s": 0,
        "minimum_requests": 300,
        "latency_ratio": 20,
        "inconclusive_for_s": 600,
        "on_inconclusive": "abort",
    },
}

MODELS = {
    "once": _declared(),
    "console": _declared(),
    "untouched": _declared("none"),
    "queue": _declared("none"),
    "steady": _declared(region=ELSEWHERE),
    "back": _declared("none"),
    "halt": _declared("none"),
    "first": _declared("none"),
    "corrupt": _declared(),
    "missing": _declared("none"),
    "unknown-signature": _declared(),
    "nan": _declared(),
    "nan-for-one": _declared(golden_customers=[*GOLDEN, NAN_CUSTOMER]),
    "aborting": _declared(),
    # Of the first ten products few are among the 100 that were taken, so the bound is wide.
    "wrong-recall": _declared(
        policy={"when": "if_better", "skew": {"check": "gate", "tolerance": 0.16}}
    ),
    "one-list": _declared(),
    "occupied": _declared("none"),
    "crash": _declared("crash"),
    "deaf": _declared("deaf", startup_timeout_s=10),
    "replace": _declared("replace"),
    "rewrite": _declared("rewrite"),
    "judged": _declared("failing", policy=JUDGED),
    "equal": _declared(policy=JUDGED, region=ELSEWHERE),
    "rescued": _declared(),
    # The model of the documentation: test_docs.py.
    "movies": _declared(),
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
