"""The workflow's first step: one execution takes the deployment, the others end."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.steps import model_of
from shared.domain.model import Book, claim
from shared.domain.recovery import check_current
from shared.messages import ClaimDeployment
from shared.ports import Ports
from shared.wiring import ports


def take(command: ClaimDeployment, ports: Ports) -> dict[str, Any]:
    """Claim it, remember the traffic of this moment, and return the rollout's stages.

    Repeated by the same execution it answers the same and keeps the first snapshot.
    """
    model_id = model_of(command.deployment_id, ports)
    service = ports.cloud_run.service(ports.state.deployment(command.deployment_id).config.service)
    now = ports.clock.now()

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
