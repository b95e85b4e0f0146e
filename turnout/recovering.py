"""What `turnout recover` does: each model's recovery, with the caller's own rights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from functions.recover import Recovery, recover
from shared import wiring
from turnout.output import FAILURES, console, errors, harmless, print_json, problem_of


def recover_all(models: Sequence[str], person: str, dry_run: bool, as_json: bool) -> bool:
    """Recover each model, or all that are declared; print it, and say whether all could be.

    One that cannot be recovered does not keep the others waiting. What a function would log
    goes to stderr.
    """
    found: list[Recovery] = []
    failed: dict[str, dict[str, Any]] = {}
    for model_id in models or wiring.state().model_ids():
        try:
            with redirect_stdout(sys.stderr):
                found.append(recover(model_id, person, wiring.ports(), dry_run))
        except FAILURES as error:
            failed[model_id] = problem_of(error)
    if as_json:
        print_json({"dry_run": dry_run, "models": found, "failed": failed})
        return not failed
    for one in found:
        _say(f"{one.model_id}: {one.found}; {one.traffic}")
        for done in one.done:
            _say(f"  would: {done}" if dry_run else f"  {done}")
    for model_id, why in failed.items():
        detail = harmless(why["detail"])
        errors.print(f"{model_id}: {detail}", style="red", highlight=False, markup=False)
    return not failed


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
