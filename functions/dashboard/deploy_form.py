"""The deploy dialog's form: what was typed, what is wrong with it, and the sentence it makes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from pydantic import ValidationError

from functions.dashboard.presenting import as_sentence, traffic_sentence
from functions.dashboard.schemas import CreateDeployment, ModelView, StageView
from shared.domain.rollout import RolloutPlan, Strategy, parse_duration, plan_rollout

_REQUEST_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class DeployForm:
    """What stands in the form. `error` says why it cannot be carried out, or is empty.

    `request_id` is made with the page, so that a form sent twice deploys once.
    """

    strategy: Strategy
    steps: str
    over: str
    request_id: str
    error: str = ""
    sentence: str = ""
    plan: RolloutPlan | None = None

    def request(self, run_number: int) -> CreateDeployment:
        """Return the API's request; call it only without an `error`."""
        gradual = self.strategy is Strategy.GRADUAL
        return CreateDeployment(
            training_run=run_number,
            strategy=self.strategy,
            steps_percent=[stage.percent for stage in self.plan.stages]
            if gradual and self.plan
            else [],
            over=self.over if gradual else "",
            request_id=self.request_id,
        )


def read_form(typed: Mapping[str, str], model: ModelView, version: str) -> DeployForm:
    """Read the form; what was not typed follows the model's policy."""
    gradual = typed.get("strategy", model.default_strategy.value) == Strategy.GRADUAL.value
    below = [str(percent) for percent in model.default_steps_percent if percent < 100]
    request_id = typed.get("request_id", "")
    form = DeployForm(
        strategy=Strategy.GRADUAL if gradual else Strategy.IMMEDIATE,
        steps=typed.get("steps", ", ".join(below))[:200],
        over="".join(typed.get("over", model.default_over).lower().split())[:20],
        request_id=request_id if _REQUEST_ID.fullmatch(request_id) else secrets.token_hex(4),
    )
    try:
        plan = _plan(form)
        made = DeployForm(form.strategy, form.steps, form.over, form.request_id, plan=plan)
        made.request(1)
    except (ValueError, ValidationError) as error:
        words = as_sentence(_first_line(error))
        return DeployForm(form.strategy, form.steps, form.over, form.request_id, error=words)
    stages = [StageView(percent=stage.percent, bake_s=stage.bake_s) for stage in plan.stages]
    sentence = traffic_sentence(version, model.live.name if model.live else None, stages)
    return DeployForm(
        form.strategy, form.steps, form.over, form.request_id, sentence=sentence, plan=plan
    )


def _plan(form: DeployForm) -> RolloutPlan:
    if form.strategy is Strategy.IMMEDIATE:
        return plan_rollout(form.strategy, (), 0)
    return plan_rollout(form.strategy, _percents(form.steps), parse_duration(form.over))


def _percents(typed: str) -> list[int]:
    parts = [part for part in re.split(r"[\s,;%→]+", typed) if part]
    if not all(part.isdecimal() and 1 <= int(part) <= 100 for part in parts):
        raise ValueError(f"steps are whole numbers from 1 to 100, such as 10, 50; got {typed!r}")
    percents = [int(part) for part in parts]
    if any(later <= earlier for earlier, later in pairwise(percents)):
        raise ValueError(f"each step must be larger than the one before; got {typed!r}")
    return percents


def _first_line(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors(include_url=False, include_input=False)[0]["msg"])
    return str(error)
