"""What an installation costs while nobody uses it, as far as its declaration says."""

from __future__ import annotations

import json
from pathlib import Path

MODELS = Path("terraform/models.auto.tfvars.json")
#: Cloud Run, billed by instance, in US dollars: the cheaper regions; the others cost a fifth more.
#: https://cloud.google.com/run/pricing
VCPU_SECOND, GIB_SECOND = 0.000018, 0.000002
MONTH_S = 730 * 3600
_GIB = {"Mi": 1 / 1024, "Gi": 1.0}


def warm_instances(models: Path = MODELS) -> dict[str, float]:
    """Return what each model's warm instances cost a month, in US dollars, without discounts.

    What a model leaves out is as in terraform/variables.tf.
    """
    declared = json.loads(models.read_text())["models"]
    return {
        name: int(model.get("min_instances", 1)) * _instance(model) * MONTH_S
        for name, model in declared.items()
    }


def _instance(model: dict[str, str]) -> float:
    memory = model.get("memory", "4Gi")
    amount, unit = memory[:-2], memory[-2:]
    return float(model.get("cpu", "2")) * VCPU_SECOND + float(amount) * _GIB[unit] * GIB_SECOND
