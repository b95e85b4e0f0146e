"""Cancel a rollout: an abort that a person asked for."""

from __future__ import annotations

from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.abort_deployment import end
from functions.entry import caller, respond
from functions.roll_back import call_off
from shared.domain.deployment import Status
from shared.domain.model import Check, unchecked
from shared.errors import Conflict
from shared.messages import Cancel
from shared.ports import Ports
from shared.wiring import ports


def stop(
    command: Cancel, actor: str, ports: Ports, source: str = "", check: Check = unchecked
) -> dict[str, Any]:
    """End the rollout as cancelled, with its traffic restored, then stop the workflow.

    A repeat finds it cancelled and completes what may have died half-way. `check` may
    refuse inside the transaction that moves the status.
    """
    deployment = ports.state.deployment(command.deployment_id)
    if deployment.status not in (Status.DEPLOYING, Status.CANCELLED):
        raise Conflict(f"{deployment.id!r} is {deployment.status}: only a rollout can be cancelled")
    why = f"cancelled by {actor}: {command.reason}"
    end(deployment, Status.CANCELLED, actor, why, ports, source, check)
    call_off(deployment, ports)
    status = ports.state.deployment(deployment.id).status
    if status is not Status.CANCELLED:
        raise Conflict(f"{deployment.id!r} became {status} before it could be cancelled")
    return {"deployment_id": deployment.id, "status": status.value}


@functions_framework.http
def cancel(request: flask.Request) -> ResponseReturnValue:
    """Cancel a rollout that is running or waiting (people and the dashboard call it)."""
    return respond(
        Cancel,
        request,
        # `requested_by` is only said; who called is what the platform checked.
        lambda command: stop(
            command,
            command.requested_by or caller(request),
            ports(),
            f"function, called by {caller(request)}",
        ),
    )
