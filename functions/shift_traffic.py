"""Give the candidate its next share of traffic."""

from __future__ import annotations

from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.steps import apply_traffic, edit, step
from shared.domain.deployment import StepName
from shared.domain.model import shift
from shared.domain.traffic import describe
from shared.messages import ShiftTraffic
from shared.ports import Ports
from shared.wiring import ports


def move(command: ShiftTraffic, ports: Ports) -> dict[str, Any]:
    """Write the desired split with the fencing token checked, then make Cloud Run serve it.

    A repeat wants the same split and writes it again. Superseded once a rollback, a cancel
    or a newer rollout took over: the traffic is theirs.
    """
    with step(command, StepName.SWITCH_TRAFFIC, ports) as (deployment, recorder):
        edit(command, ports, lambda found: found)  # this execution's, and still its turn
        now = ports.clock.now()
        deployment = ports.state.change(
            deployment.model_id,
            lambda book: shift(book, command.deployment_id, command.percent, now),
        )
        served = apply_traffic(
            deployment.config.service, deployment.model_id, deployment.token, ports
        )
        recorder.detail = describe(served.split)
        recorder.more = command.percent < 100
    return {"deployment_id": deployment.id, "traffic": dict(served.split)}


@functions_framework.http
def shift_traffic(request: flask.Request) -> ResponseReturnValue:
    """Move the candidate to `percent` of traffic (one workflow step)."""
    return respond(ShiftTraffic, request, lambda command: move(command, ports()))
