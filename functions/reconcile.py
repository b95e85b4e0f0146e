"""Every few minutes: find what died half-way, and complete or undo it."""

from __future__ import annotations

import contextlib
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.abort_deployment import end, settle
from functions.announce import announce
from functions.collect import collect
from functions.entry import respond
from functions.finish_deployment import start
from functions.prepare_model import cancel_preparation
from functions.steps import require_current
from shared import logs
from shared.domain.deployment import Status, service_of
from shared.domain.model import (
    RECONCILE,
    Lock,
    LockKind,
    Model,
    is_tidy,
    note,
    note_drift,
    put_back,
    tidy,
)
from shared.domain.policy import Drift
from shared.domain.recovery import finished_unseen
from shared.domain.traffic import describe, difference
from shared.errors import NotFound, StateIsOlder, Unavailable
from shared.gcp.workflows import DEAD
from shared.messages import Reconcile
from shared.ports import Ports
from shared.wiring import ports

UNCLAIMED_AFTER_S = 120.0
EXECUTION_ENDED = "execution_ended"


def repair_all(command: Reconcile, ports: Ports) -> dict[str, Any]:
    """Repair each model; one that cannot be repaired now does not keep the others waiting.

    Unavailable, once all were tried, where one failed: the scheduler shows it.
    """
    try:
        return _repair_each(command, ports)
    finally:
        # What died, or found Pub/Sub away, before it was announced.
        announce(ports)


def _repair_each(command: Reconcile, ports: Ports) -> dict[str, Any]:
    if command.model_id:
        return {"findings": _look_after(command.model_id, ports)}
    findings: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    for model_id in ports.state.model_ids():
        try:
            findings |= _look_after(model_id, ports)
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


def _look_after(model_id: str, ports: Ports) -> dict[str, list[str]]:
    found = _logged(model_id, repair(model_id, ports))
    found += _logged(model_id, collect(model_id, ports))
    return {model_id: found} if found else {}


def _logged(model_id: str, findings: list[str]) -> list[str]:
    """Log what was found, which is then known also where something else fails."""
    if findings:
        logs.log("reconcile found", severity="WARNING", model_id=model_id, findings=findings)
    return findings


def repair(model_id: str, ports: Ports) -> list[str]:
    """Return what was found and done. Each repair is the ordinary path, so a repeat is safe.

    Lock, waiting run and deployments are made to agree first. Then an abort or rollback that
    stopped before its traffic was served is completed; a rollout whose execution ended is
    aborted; one that no execution claimed gets another. While nothing runs, traffic that
    differs from the desired is reported, or put back where the policy says so. StateIsOlder,
    and nothing is touched, where the documents were restored to an earlier time.
    """
    service = service_of(model_id)
    require_current(model_id, service, ports)
    findings = _tidy(model_id, ports)
    lock = ports.state.model(model_id).lock
    if lock is not None:
        return findings + _complete(model_id, service, lock, ports)
    # Read this late, so that a declaration which cannot be read keeps nothing half-way.
    declaration = ports.state.declaration(model_id)
    if declaration is None:
        raise NotFound(f"there is no model {model_id!r}")
    return findings + _drift(model_id, service, declaration.policy.drift, ports)


def _tidy(model_id: str, ports: Ports) -> list[str]:
    deploying = ports.state.deploying(model_id)
    if is_tidy(ports.state.model(model_id), deploying):
        return []
    # Read one after the other they may only seem to disagree: the transaction looks again.
    now, ids = ports.clock.now(), {found.id for found in deploying}
    return ports.state.change(model_id, lambda book: tidy(book, ids, now))


def _complete(model_id: str, service: str, lock: Lock, ports: Ports) -> list[str]:
    """Complete what the lock's holder left, where nobody is at it any more."""
    if lock.kind is not LockKind.ROLLOUT:
        # Its own function may be at it still: both write the same split.
        settle(model_id, service, ports)
        said = f"completed the {lock.kind} of {lock.deployment_id}"
        _record(model_id, lock.deployment_id, said, ports)
        _stop_preparation(lock.deployment_id, ports)
        return [said]
    deployment = ports.state.deployment(lock.deployment_id)
    if not deployment.execution:
        age_s = (ports.clock.now() - lock.taken_at).total_seconds()
        if age_s < UNCLAIMED_AFTER_S:
            return []
        said = f"started {deployment.id} again: no execution had claimed it"
        _record(model_id, deployment.id, said, ports)
        start(deployment, ports)
        return [said]
    state = ports.executions.state(deployment.execution)
    if state not in DEAD:
        return []
    split = ports.cloud_run.service(service).split
    if finished_unseen(ports.state.model(model_id), deployment, state, split):
        said = f"{deployment.id} rolls out, and its execution succeeded with all of the traffic"
        raise StateIsOlder(model_id, said)
    why = f"its workflow execution ended as {state}: {ports.executions.error(deployment.execution)}"
    end(deployment, Status.FAILED, RECONCILE, why, ports, code=EXECUTION_ENDED)
    return [f"aborted {deployment.id}: {why}"]


def _stop_preparation(deployment_id: str, ports: Ports) -> None:
    with contextlib.suppress(NotFound):  # the lock of a deployment that is gone
        cancel_preparation(deployment_id, ports)


def _record(model_id: str, deployment_id: str, said: str, ports: Ports) -> None:
    now = ports.clock.now()
    ports.state.change(
        model_id, lambda book: note(book, deployment_id, now, RECONCILE, "repaired", said)
    )


def _drift(model_id: str, service: str, policy: Drift, ports: Ports) -> list[str]:
    """Compare what is written and what is served with what is desired, while nothing runs.

    A difference is recorded once, on the active version, or on the newest where none is (the
    first was given up); the next one, once more. A rollout that began on a change made by hand
    gives that back when it is ended, and a recovery keeps a split that was shared: what is live
    is said not to be decided, whatever the policy, until a person does.
    """
    model = ports.state.model(model_id)
    seen = ports.cloud_run.service(service)
    found = difference(model.desired, seen.written, seen.split)
    if not found and (found := _undecided(model, ports)):
        policy = Drift.REPORT
    if found and ports.state.model(model_id) != model:
        return []  # Something began to move it meanwhile.
    now = ports.clock.now()
    # What is desired was so by a deployment: there is one.
    about = model.active or (ports.state.deployments(model_id)[0].id if found else "")
    if found != model.drift:
        ports.state.change(model_id, lambda book: note_drift(book, model, about, found, now))
    if not found:
        return []
    if policy is Drift.REPORT:
        return [f"drift, left as it is: {found}"]
    why = f"put back: {found}"
    lock = ports.state.change(model_id, lambda book: put_back(book, model, about, why, now))
    if lock is None:
        return [f"drift, left to what runs now: {found}"]
    settle(model_id, service, ports, seen)
    return [f"drift, {why}"]


def _undecided(model: Model, ports: Ports) -> str:
    """Return how what is desired differs from the live version with all of the traffic, or ""."""
    if model.active is None:
        return ""
    live = ports.state.deployment(model.active)
    if dict(model.desired) == {live.cloud_run_revision: 100}:
        return ""
    return (
        f"{describe(model.desired)} is served and desired, and {live.name} is the live version by "
        "the documents: roll back to the one that should have all, and they agree"
    )


@functions_framework.http
def reconcile(request: flask.Request) -> ResponseReturnValue:
    """Repair what died half-way (Cloud Scheduler calls it)."""
    return respond(Reconcile, request, lambda command: repair_all(command, ports()))
