"""Executions of the deployment workflow."""

from __future__ import annotations

import json

from google.api_core import exceptions
from google.cloud.workflows import executions_v1

from shared.config import WORKFLOW, Settings
from shared.domain.deployment import Deployment

GONE = "GONE"
# Google's client sets no deadline by itself: without one a silent service is waited for for ever.
STARTED_WITHIN_S = 30.0
SEEN_WITHIN_S = 10.0
CANCELLED_WITHIN_S = 5.0
DEAD = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", GONE})


class WorkflowExecutions:
    """Starts, looks at and cancels executions."""

    def __init__(self, client: executions_v1.ExecutionsClient, settings: Settings) -> None:
        self._client = client
        self._parent = f"{settings.parent}/workflows/{WORKFLOW}"

    def start(self, deployment: Deployment) -> str:
        """Start one for the deployment; return its resource name.

        The API takes no request id, so a repeat makes a second execution: the first step,
        `claim_deployment`, lets only one of them go on.
        """
        made = self._client.create_execution(
            parent=self._parent,
            execution=executions_v1.Execution(
                argument=json.dumps({"deployment_id": deployment.id}),
                labels={"model": deployment.model_id, "version": deployment.name},
            ),
            timeout=STARTED_WITHIN_S,
        )
        return str(made.name)

    def state(self, execution: str) -> str:
        """Return ACTIVE, SUCCEEDED, FAILED, CANCELLED, ..., or GONE where there is none."""
        try:
            found = self._client.get_execution(name=execution, timeout=SEEN_WITHIN_S)
            return str(found.state.name)
        except exceptions.NotFound:
            return GONE

    def error(self, execution: str) -> str:
        """Return why it failed, in a line."""
        try:
            found = self._client.get_execution(name=execution, timeout=SEEN_WITHIN_S)
        except exceptions.NotFound:
            return "its record is gone"
        return found.error.context or found.error.payload or str(found.state.name).lower()

    def cancel(self, execution: str) -> None:
        """Ask it to stop; one that ended already, or is unknown, stays as it is."""
        try:
            self._client.cancel_execution(name=execution, timeout=CANCELLED_WITHIN_S)
        except (exceptions.NotFound, exceptions.FailedPrecondition):
            return
