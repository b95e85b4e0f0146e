"""Go back to an earlier version at once, even in the middle of a rollout."""

from __future__ import annotations

from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue
from google.api_core.exceptions import GoogleAPICallError

from functions.abort_deployment import settle
from functions.entry import caller, respond
from functions.prepare_model import cancel_preparation
from shared import logs
from shared.domain.deployment import CAN_BE_RETURNED_TO, Deployment, Status
from shared.domain.model import Book, Check, unchecked
from shared.domain.model import roll_back as want_back
from shared.errors import Conflict, NotFound, NothingToRollBackTo
from shared.messages import RollBack
from shared.ports import Ports
from shared.wiring import ports


def go_back(
    command: RollBack, actor: str, ports: Ports, source: str = "", check: Check = unchecked
) -> dict[str, Any]:
    """Take the fencing token, want the old split, write it; then stop what was running.

    Repeating it finds the statuses moved, takes another token and writes again: always
    safe, and what completes a rollback that died half-way. The canary is never run again.
    `check` may refuse inside the transaction that takes the token.
    """
    target = _target(command, ports)
    service = target.config.service
    seen = ports.cloud_run.revision(service, target.cloud_run_revision)
    if seen is None:
        raise Conflict(
            f"revision {target.cloud_run_revision!r} of {target.name} is gone; publish run "
            f"{target.training_run} again with a new request id to deploy it anew"
        )
    if seen.ready is False:
        raise Conflict(f"{target.name} would not start: {seen.message}")
    stopped = _under_way(command.model_id, ports)
    now = ports.clock.now()

    def move(book: Book) -> Deployment:
        check(book)
        return want_back(book, target.id, now, actor, command.reason, source)

    ports.state.change(command.model_id, move)
    settle(command.model_id, service, ports)
    for deployment in stopped:
        cancel_execution(deployment, ports)
        cancel_preparation(deployment.id, ports)
    split = ports.cloud_run.service(service).split
    return {"deployment_id": target.id, "version": target.name, "traffic": dict(split)}


def cancel_execution(deployment: Deployment, ports: Ports) -> None:
    """Stop a workflow whose rollout has ended; it can do no harm, so a fault here is no fault.

    Without its token every step it may still take is refused.
    """
    if not deployment.execution:
        return
    try:
        ports.executions.cancel(deployment.execution)
    except GoogleAPICallError as error:
        logs.log(
            "execution not cancelled",
            severity="WARNING",
            execution=deployment.execution,
            error=str(error),
        )


def _target(command: RollBack, ports: Ports) -> Deployment:
    """The version asked for; else the live one under a change; else the one before it."""
    deployments = ports.state.deployments(command.model_id)
    if command.version is not None:
        for deployment in deployments:
            if deployment.version == command.version:
                return deployment
        raise NotFound(f"{command.model_id!r} has no version {command.version}")
    model = ports.state.model(command.model_id)
    if model.lock is not None and model.active:
        # Under a rollout or its abort that is the live version; under a rollback that died
        # half-way its own target, so that asking again completes it and goes no further back.
        return ports.state.deployment(model.active)
    # A version that was rolled back from is known to be bad: only by name.
    before = [found for found in deployments if found.status is Status.INACTIVE]
    if not before:
        known = [found.name for found in deployments if found.status in CAN_BE_RETURNED_TO]
        if known:
            raise Conflict(
                f"only versions that were rolled back are left ({', '.join(known)}); "
                "name one with --version if you mean it"
            )
        raise NothingToRollBackTo(command.model_id)
    return max(before, key=lambda found: found.deactivated_at or found.created_at)


def _under_way(model_id: str, ports: Ports) -> list[Deployment]:
    return [
        deployment
        for deployment in ports.state.deployments(model_id)
        if deployment.status is Status.DEPLOYING
    ]


@functions_framework.http
def roll_back(request: flask.Request) -> ResponseReturnValue:
    """Go back to an earlier version (people and the dashboard call it)."""
    return respond(
        RollBack,
        request,
        # `requested_by` is only said; who called is what the platform checked.
        lambda command: go_back(
            command,
            command.requested_by or caller(request),
            ports(),
            f"function, called by {caller(request)}",
        ),
    )
