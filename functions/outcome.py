"""How a rollout ended, as one log line: what the objectives and the alerts are counted from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from shared import logs
from shared.domain.deployment import Deployment, Status
from shared.errors import (
    ArtifactsRefused,
    HealthCheckFailed,
    ModelRefused,
    RevisionFailed,
)

GAVE_UP = "gave_up"
"""The code of a stage that the judge, or nobody's approval, ended."""
CANDIDATES_OWN = frozenset(
    {
        GAVE_UP,
        ArtifactsRefused.code,
        ModelRefused.code,
        RevisionFailed.code,
        HealthCheckFailed.code,
    }
)
"""The codes by which a candidate was stopped that should be: all others are the pipeline's."""


def log_end(deployment: Deployment, outcome: Status, code: str, now: datetime) -> None:
    """Write how a rollout ended; `code` says why it failed, "" where it did not.

    `fault` is whose: the candidate's, which was stopped as it should be, or the pipeline's.
    `seconds` count from the message.
    """
    failed = outcome is Status.FAILED
    logs.log(
        "rollout ended",
        severity="WARNING" if failed else "INFO",
        model_id=deployment.model_id,
        deployment_id=deployment.id,
        version=deployment.version,
        outcome=outcome.value,
        code=code,
        fault=("candidate" if code in CANDIDATES_OWN else "pipeline") if failed else "none",
        seconds=round((now - deployment.created_at).total_seconds()),
    )


def code_of(error: Any, body: Any) -> str:
    """Return the code of what the workflow caught, whose decoded body is `body`.

    A function's own code where it answered, GAVE_UP for what the workflow raised itself
    (a text), the HTTP status or Workflows' tag for all else.
    """
    if isinstance(body, dict) and body.get("code"):
        return str(body["code"])
    if not isinstance(error, dict):
        return GAVE_UP
    if error.get("code"):
        return f"http_{error['code']}"
    tags = error.get("tags")
    return str(tags[0]) if isinstance(tags, list) and tags else "workflow"
