"""What an installation costs while nobody uses it, as far as its declaration says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.costs import MONTH_S, TIERS, Prices
from deploy.target import Target

_GIB = {"Mi": 1 / 1024, "Gi": 1.0}


def warm_instances(target: Target) -> dict[str, tuple[float, float]]:
    """Return what each model's warm instances cost a month, in US dollars, without discounts.

    Two numbers: in the cheaper regions, and in the others. What a model leaves out is as in
    terraform/variables.tf.
    """
    cheaper, dearer = (TIERS[tier] for tier in ("1", "2"))
    return {
        name: (_month(model, cheaper), _month(model, dearer))
        for name, model in target.models.items()
    }


def _month(model: Mapping[str, Any], prices: Prices) -> float:
    memory = str(model.get("memory", "4Gi"))
    second = float(model.get("cpu", "2")) * prices.cpu_s
    second += float(memory[:-2]) * _GIB[memory[-2:]] * prices.memory_gib_s
    return int(model.get("min_instances", 1)) * second * MONTH_S
