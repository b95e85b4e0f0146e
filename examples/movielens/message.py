"""The training-completed message: what was trained, where it lies, how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from examples.movielens.report import Report

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Deploy:
    """What the message asks of the deployment; what is None is left to the receiver.

    `when` is off, if_better or always; `strategy` immediate or gradual; `steps_percent` ascends;
    `over` is the whole rollout's bake time, such as 30s, 10m or 1h.
    """

    when: str | None = None
    strategy: str | None = None
    steps_percent: Sequence[int] | None = None
    over: str | None = None
    requested_by: str | None = None
    request_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the `deploy` block with only what was said."""
        said = {
            "when": self.when,
            "strategy": self.strategy,
            "steps_percent": list(self.steps_percent) if self.steps_percent else None,
            "over": self.over,
            "requested_by": self.requested_by,
            "request_id": self.request_id,
        }
        return {name: value for name, value in said.items() if value is not None}


def training_completed(
    report: Report, model_id: str, artifact_uri: str, deploy: Deploy
) -> dict[str, Any]:
    """Return the message's JSON; without a word about deployment it has no `deploy` block."""
    settings = report.settings
    message: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model_id": model_id,
        "run_number": report.run_number,
        "artifact_uri": artifact_uri,
        "feature_config": {"id": settings["id"], "name": settings["name"]},
        "dataset": dict(report.dataset),
        "metrics": dict(report.metrics),
        "completed_at": report.completed_at,
    }
    if block := deploy.as_json():
        message["deploy"] = block
    return message
