"""End a rollout that failed: traffic back where it was, and the reason kept."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.finish_deployment import start_soon
from functions.outcome import code_of, log_end
from functions.prepare_model import cancel_preparation
from functions.steps import apply_traffic
from shared.domain.deployment import Deployment, Status
from shared.domain.model import Book, Check, Lock, LockKind, abort, release, unchecked
from shared.errors import Conflict, Superseded
from shared.messages import AbortDeployment
from shared.ports import Ports, ServiceView
from shared.wiring import ports

REASON_HEAD, REASON_TAIL = 500, 1500


def undo(command: AbortDeployment, ports: Ports) -> dict[str, Any]:
    """Abort because the workflow caught an error; Conflict where another execution owns it."""
    deployment = ports.state.deployment(command.deployment_id)

    def owned(book: Book) -> None:
        # In the transaction: another execution may claim it while this one gives up.
        owner = book.deployment(deployment.id).execution
        if owner not in ("", command.execution):
            raise Conflict(f"{deployment.id!r} belongs to execution {owner!r}")

    why, code = reason_of(command.error), code_of(command.error, _body_of(command.error))
    end(deployment, Status.FAILED, "pipeline", why, ports, check=owned, code=code)
    return {
        "deployment_id": deployment.id,
        "status": ports.state.deployment(deployment.id).status.value,
    }


def end(
    deployment: Deployment,
    after: Status,
    actor: str,
    reason: str,
    ports: Ports,
    source: str = "",
    check: Check = unchecked,
    code: str = "",
) -> None:
    """End the rollout, restore its snapshot, free the lock, then stop its preparation.

    Safe to repeat from anywhere.

    The statuses move first, under a new token, so that no slow step of this rollout can
    write after this point; the lock is freed only once Cloud Run serves the snapshot.
    `check` may refuse inside the same transaction. `code` says in the log why it failed.
    """
    now = ports.clock.now()

    def move(book: Book) -> bool:
        check(book)
        return abort(book, deployment.id, after, now, actor, reason, source)

    if ports.state.change(deployment.model_id, move):
        log_end(deployment, after, code, now)
    settle(deployment.model_id, deployment.config.service, ports)
    cancel_preparation(deployment.id, ports)


def settle(
    model_id: str,
    service: str,
    ports: Ports,
    seen: ServiceView | None = None,
    dropped: Collection[str] = (),
) -> ServiceView | None:
    """Complete an abort, a rollback or upkeep: serve the desired split, then hand the lock on.

    Returns the service that serves it, None where there was nothing to complete (or no
    traffic yet). Whoever is overtaken here completes the newer change instead: returning
    before it is served would leave older writers their turn. `seen` is the service as it was
    before the lock was taken; `dropped` tags are taken away.
    """
    model = ports.state.model(model_id)
    lock = model.lock
    if lock is None or lock.kind is LockKind.ROLLOUT:
        return None
    served = None
    try:
        if model.desired:
            served = apply_traffic(service, model_id, lock.token, ports, seen=seen, dropped=dropped)
    except Superseded:
        # A rollout that checked its token before either of us took ours can still write
        # until Cloud Run has taken the newer split. Tokens only grow, so this ends.
        return settle(model_id, service, ports)
    start_soon(ports.state.change(model_id, lambda book: _release(book, lock, ports)), ports)
    return served


def reason_of(error: Any) -> str:
    """Return what a person reads, from what the workflow caught (an HTTP error or a map)."""
    if not isinstance(error, dict):
        return _shortened(str(error or "the workflow gave no reason"))
    body = _body_of(error)
    detail = body.get("detail") if isinstance(body, dict) else None
    return _shortened(str(detail or error.get("message") or error))


def _body_of(error: Any) -> Any:
    body = error.get("body") if isinstance(error, dict) else None
    if not isinstance(body, str):
        return body
    # Workflows decodes application/json only; a problem document arrives as text.
    try:
        return json.loads(body)
    except ValueError:
        return {"detail": body}


def _shortened(reason: str) -> str:
    # What failed is said first; why, in a container's last lines, comes last.
    if len(reason) <= REASON_HEAD + REASON_TAIL:
        return reason
    return f"{reason[:REASON_HEAD]} … {reason[-REASON_TAIL:]}"


def _release(book: Book, lock: Lock, ports: Ports) -> Deployment | None:
    # Only the very lock that was completed: a newer one is somebody else's.
    return release(book, ports.clock.now()) if book.model.lock == lock else None


@functions_framework.http
def abort_deployment(request: flask.Request) -> ResponseReturnValue:
    """Put the traffic back and record why (the workflow's failure path)."""
    return respond(AbortDeployment, request, lambda command: undo(command, ports()))
