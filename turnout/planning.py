"""What a message would do, in a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnout.output import console, harmless

WORDS = {
    "refused": "It would be refused and go to the dead letters",
    "listed": "The run would be listed as available, and not deployed",
    "known": "Nothing new: this request is known",
    "waiting": "It would wait for its turn",
    "started": "It would be deployed at once",
    "cancelled": "It would be cancelled at once",
}


def show_plan(plan: Mapping[str, Any]) -> None:
    """Print a plan as the API gives it."""
    said = [f"{WORDS[plan['outcome']]}: {plan['why']}"]
    if plan["deployment_id"]:
        said.append(f"  deployment  {plan['deployment_id']}, {plan['version']}")
    if plan["gate"] and plan["decided_before"]:
        said.append("  gate        decided by an earlier delivery of this request")
    if plan["waits_for"]:
        said.append(f"  waits for   {plan['waits_for']}")
    if plan["replaces"]:
        said.append(f"  cancels     {', '.join(plan['replaces'])}")
    if plan["steps"]:
        said.append(f"  steps       {', '.join(name.replace('_', ' ') for name in plan['steps'])}")
    if plan["stages"]:
        said.append(f"  traffic     {', then '.join(_stage(stage) for stage in plan['stages'])}")
    said += [
        f"  {check['checking']:<10}  {check['name']}: {check['why']}" for check in plan["checks"]
    ]
    for line in said:
        console.print(harmless(line), highlight=False, markup=False)


def _stage(stage: Mapping[str, Any]) -> str:
    bake = f" for {stage['bake_s']:,} s" if stage["bake_s"] else ""
    held = " until a person agrees" if stage["held"] else ""
    return f"{stage['percent']} %{bake}{held}"
