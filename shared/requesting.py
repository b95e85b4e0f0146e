"""Asking for a deployment: the message that training publishes, for a run that is known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any

from shared.messages import Deploy


def message_to_deploy(run: Mapping[str, Any], deploy: Deploy) -> dict[str, Any]:
    """Return the training-completed message of a stored `run`, with how to deploy it.

    The only way in: the command line and the dashboard publish it as training does.
    """
    completed_at = run["completed_at"].astimezone(UTC).isoformat().replace("+00:00", "Z")
    kept = {name: run[name] for name in ("feature_config", "dataset", "metrics")}
    return {
        "schema_version": 1,
        "model_id": run["model_id"],
        "run_number": run["run_number"],
        "artifact_uri": run["artifact_uri"],
        "completed_at": completed_at,
        **kept,
        "deploy": deploy.model_dump(mode="json", exclude_none=True),
    }
