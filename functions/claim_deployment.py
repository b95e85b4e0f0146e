"""The workflow's first step: one execution takes the deployment, the others end."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.abort_deployment import end
from functions.entry import respond
from functions.gate import outdone
from functions.steps import model_of
from shared.domain.deployment import Status
from shared.domain.model import Book, claim, holds
from shared.domain.recovery import check_current
from shared.errors import Superseded
from shared.messages import ClaimDeployment
from shared.ports import Ports
from shared.wiring import ports


def take(command: ClaimDeployment, ports: Ports) -> dict[str, Any]:
    """Claim it, remember the traffic of this moment, and return the rollout's stages.

    Repeated by the same execution it answers the same and keeps the first snapshot. Nobody
    gets one that waited while a version went live than which it is no better: it is
    cancelled. From the lock on only a rollback makes another version live, and ends it.
    """
    model_id = model_of(command.deployment_id, ports)
    deployment = ports.state.deployment(command.deployment_id)
    service = ports.cloud_run.service(deployment.config.service)
    now = ports.clock.now()

    def has_turn(book: Book) -> None:
        check_current(book.model, service.token)
        holds(book, deployment)

    if not deployment.execution and not deployment.waiting and (why := outdone(deployment, ports)):
        with contextlib.suppress(Superseded):  # it has ended, or somebody goes back
            end(deployment, Status.CANCELLED, "pipeline", why, ports, check=has_turn)

    def move(book: Book) -> bool:
        check_current(book.model, service.token)
        return claim(book, command.deployment_id, command.execution, service.split, now)

    claimed = ports.state.change(model_id, move)
    deployment = ports.state.deployment(command.deployment_id)
    return {
        "deployment_id": deployment.id,
        "claimed": claimed,
        "stages": [asdict(stage) for stage in deployment.plan.stages],
    }


@functions_framework.http
def claim_deployment(request: flask.Request) -> ResponseReturnValue:
    """Claim the deployment for the calling execution (first step of the workflow)."""
    return respond(ClaimDeployment, request, lambda command: take(command, ports()))
