"""End a rollout that failed: traffic back where it was, and the reason kept."""

from __future__ import annotations

import json
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.finish_deployment import start
from functions.steps import apply_traffic
from shared.domain.deployment import Deployment, Status
from shared.domain.model import Book, Lock, LockKind, abort, release
from shared.errors import Superseded
from shared.messages import AbortDeployment
from shared.ports import Ports
from shared.wiring import ports


def undo(command: AbortDeployment, ports: Ports) -> dict[str, Any]:
    """Abort because the workflow caught an error; nothing where another execution owns it."""
    deployment = ports.state.deployment(command.deployment_id)
    if deployment.execution not in ("", command.execution):
        return {"deployment_id": deployment.id, "status": deployment.status.value}
    end(deployment, Status.FAILED, "pipeline", reason_of(command.error), ports)
    return {
        "deployment_id": deployment.id,
        "status": ports.state.deployment(deployment.id).status.value,
    }


def end(deployment: Deployment, after: Status, actor: str, reason: str, ports: Ports) -> None:
    """End the rollout, restore its snapshot, then free the lock. Safe to repeat from anywhere.

    The statuses move first, under a new token, so that no slow step of this rollout can
    write after this point; the lock is freed only once Cloud Run serves the snapshot.
    """
    now = ports.clock.now()
    ports.state.change(
        deployment.model_id,
        lambda book: abort(book, deployment.id, after, now, actor, reason),
    )
    settle(deployment.model_id, deployment.config.service, ports)


def settle(model_id: str, service: str, ports: Ports) -> bool:
    """Complete an abort or a rollback: serve the desired split, then hand the lock on.

    True where there was one to complete. Whoever is overtaken here stops: the newer
    change completes itself, or reconcile does.
    """
    model = ports.state.model(model_id)
    lock = model.lock
    if lock is None or lock.kind is LockKind.ROLLOUT:
        return False
    try:
        if model.desired:
            apply_traffic(service, model_id, lock.token, ports)
    except Superseded:
        return True
    start(ports.state.change(model_id, lambda book: _release(book, lock, ports)), ports)
    return True


def reason_of(error: Any) -> str:
    """Return what a person reads, from what the workflow caught (an HTTP error or a map)."""
    if not isinstance(error, dict):
        return str(error or "the workflow gave no reason")[:1000]
    body = error.get("body")
    if isinstance(body, str):
        # Workflows decodes application/json only; a problem document arrives as text.
        try:
            body = json.loads(body)
        except ValueError:
            body = {"detail": body}
    detail = body.get("detail") if isinstance(body, dict) else None
    return str(detail or error.get("message") or error)[:1000]


def _release(book: Book, lock: Lock, ports: Ports) -> Deployment | None:
    # Only the very lock that was completed: a newer one is somebody else's.
    return release(book, ports.clock.now()) if book.model.lock == lock else None


@functions_framework.http
def abort_deployment(request: flask.Request) -> ResponseReturnValue:
    """Put the traffic back and record why (the workflow's failure path)."""
    return respond(AbortDeployment, request, lambda command: undo(command, ports()))
