"""Make the deployment the active one, and start the run that waited for its turn."""

from __future__ import annotations

from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.outcome import log_end
from functions.steps import edit
from shared import logs
from shared.domain.deployment import CAN_BE_RETURNED_TO, Deployment, Status
from shared.domain.model import finish
from shared.errors import TrafficNotApplied
from shared.messages import FinishDeployment
from shared.ports import Ports
from shared.wiring import ports


def conclude(command: FinishDeployment, ports: Ports) -> dict[str, Any]:
    """Check that Cloud Run really serves it, then move the statuses in one transaction.

    A repeat finds that it was active already, even where a newer version took over since,
    and only starts the run whose turn it is again, whose own claim lets one execution go on.
    """
    deployment = ports.state.deployment(command.deployment_id)
    first = deployment.status not in {Status.ACTIVE, *CAN_BE_RETURNED_TO}
    if first:
        edit(command, ports, lambda found: found)  # this execution's, and still its turn
        served = ports.cloud_run.service(deployment.config.service).split
        if dict(served) != {deployment.cloud_run_revision: 100}:
            raise TrafficNotApplied(
                deployment.config.service, f"100 % of {deployment.name}", str(dict(served)), 0
            )
    now = ports.clock.now()
    next_up = ports.state.change(
        deployment.model_id, lambda book: finish(book, command.deployment_id, now)
    )
    if first:
        log_end(deployment, Status.ACTIVE, "", now)
    start_soon(next_up, ports)
    status = ports.state.deployment(deployment.id).status
    return {"deployment_id": deployment.id, "status": status.value}


def start(deployment: Deployment | None, ports: Ports) -> None:
    """Start the workflow for the run whose turn it is, unless one has claimed it.

    When this dies half-way, reconcile finds a lock whose deployment has no execution.
    """
    if deployment is not None and not deployment.execution:
        execution = ports.executions.start(deployment)
        logs.log("execution started", deployment_id=deployment.id, execution=execution)


def start_soon(deployment: Deployment | None, ports: Ports) -> None:
    """Start the run whose turn it is, here or by the next reconcile.

    The traffic is where it should be by now; a workflow service that is down must not turn
    that into a failure. A lock that no execution has claimed is what reconcile looks for.
    """
    try:
        start(deployment, ports)
    except Exception as error:  # any fault of the service: see above
        waits = deployment.id if deployment else ""
        logs.log_exception("execution not started", error, deployment_id=waits)


@functions_framework.http
def finish_deployment(request: flask.Request) -> ResponseReturnValue:
    """Make the deployment the active one (last step of the workflow)."""
    return respond(FinishDeployment, request, lambda command: conclude(command, ports()))
