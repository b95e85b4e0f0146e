"""Every few minutes: find what died half-way, and complete or undo it."""

from __future__ import annotations

from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.abort_deployment import end, settle
from functions.entry import respond
from functions.finish_deployment import start
from functions.prepare_model import cancel_preparation
from shared import logs
from shared.domain.deployment import Status
from shared.domain.model import LockKind
from shared.domain.traffic import describe
from shared.errors import NotFound, Unavailable
from shared.gcp.workflows import DEAD
from shared.messages import Reconcile
from shared.ports import Ports
from shared.wiring import ports

UNCLAIMED_AFTER_S = 120.0


def repair_all(command: Reconcile, ports: Ports) -> dict[str, Any]:
    """Repair each model; one that cannot be repaired now does not keep the others waiting.

    Unavailable, once all were tried, where one failed: the scheduler shows it.
    """
    if command.model_id:
        return {"findings": _found(command.model_id, repair(command.model_id, ports))}
    findings: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    for model_id in ports.state.model_ids():
        try:
            findings |= _found(model_id, repair(model_id, ports))
        except Exception as error:  # the boundary of one model's repair: all are tried
            logs.log_exception("repair failed", error, model_id=model_id)
            failed[model_id] = f"{type(error).__name__}: {error}"
    if failed:
        raise Unavailable(
            "; ".join(
                f"{model_id} could not be repaired: {why}" for model_id, why in failed.items()
            )
        )
    return {"findings": findings}


def _found(model_id: str, findings: list[str]) -> dict[str, list[str]]:
    """Log what was found, which is then known also where another model fails."""
    if not findings:
        return {}
    logs.log("reconcile found", severity="WARNING", model_id=model_id, findings=findings)
    return {model_id: findings}


def repair(model_id: str, ports: Ports) -> list[str]:
    """Return what was found and done. Each repair is the ordinary path, so a repeat is safe.

    An abort or rollback that stopped before its traffic was served is completed; a rollout
    whose execution ended is aborted; one that no execution claimed gets another; traffic
    that differs from the desired while nothing runs is reported.
    """
    declaration = ports.state.declaration(model_id)
    if declaration is None:
        raise NotFound(f"there is no model {model_id!r}")
    service = f"model-serving-{model_id}"
    model = ports.state.model(model_id)
    lock = model.lock
    if lock is None:
        return _drift(model_id, service, ports)
    if lock.kind is not LockKind.ROLLOUT:
        # Its own function may be at it still: both write the same split.
        settle(model_id, service, ports)
        cancel_preparation(lock.deployment_id, ports)
        return [f"completed the {lock.kind} of {lock.deployment_id}"]
    deployment = ports.state.deployment(lock.deployment_id)
    if not deployment.execution:
        age_s = (ports.clock.now() - lock.taken_at).total_seconds()
        if age_s < UNCLAIMED_AFTER_S:
            return []
        start(deployment, ports)
        return [f"started {deployment.id} again: no execution had claimed it"]
    state = ports.executions.state(deployment.execution)
    if state not in DEAD:
        return []
    why = f"its workflow execution ended as {state}: {ports.executions.error(deployment.execution)}"
    end(deployment, Status.FAILED, "reconcile", why, ports)
    return [f"aborted {deployment.id}: {why}"]


def _drift(model_id: str, service: str, ports: Ports) -> list[str]:
    desired = ports.state.model(model_id).desired
    seen = ports.cloud_run.service(service)
    if not desired or dict(seen.split) == dict(desired):
        return []
    found = f"{describe(seen.split)} is served, {describe(desired)} is desired"
    logs.log("traffic drift", severity="WARNING", model_id=model_id, drift=found)
    return [f"drift, left as it is: {found}"]


@functions_framework.http
def reconcile(request: flask.Request) -> ResponseReturnValue:
    """Repair what died half-way (Cloud Scheduler calls it)."""
    return respond(Reconcile, request, lambda command: repair_all(command, ports()))
