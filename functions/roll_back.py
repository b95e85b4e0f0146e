"""Go back to an earlier version at once, even in the middle of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.abort_deployment import settle
from functions.copy_artifacts import MANIFEST
from functions.entry import caller, respond
from functions.finish_deployment import start_soon
from functions.prepare_model import cancel_preparation
from shared import logs, tracing
from shared.domain.deployment import CAN_BE_RETURNED_TO, Deployment
from shared.domain.model import Book, Check, LockKind, previous, redeploy, unchecked, under_way
from shared.domain.model import roll_back as want_back
from shared.domain.recovery import check_current
from shared.domain.rollout import Strategy, plan_rollout
from shared.domain.traffic import describe
from shared.errors import Conflict, NotFound, NothingToRollBackTo, Unavailable
from shared.messages import RollBack
from shared.ports import Ports, ServiceView
from shared.wiring import ports

CHECKED_FOR_S = 30.0
CHECK_POLL_S = 1.0


def go_back(
    command: RollBack, actor: str, ports: Ports, source: str = "", check: Check = unchecked
) -> dict[str, Any]:
    """Take the fencing token, want the old split, write it; then stop what was running.

    Repeating it finds the statuses moved, takes another token and writes again: always
    safe, and what completes a rollback that died half-way. The canary is never run again.
    A version whose revision is gone is deployed again from its kept artifacts. `check` may
    refuse inside the transaction that takes the token.
    """
    target = _target(command, ports)
    tracing.link(target.trace)
    if target.deployed_at is None:
        raise Conflict(f"{target.name} is {target.status}: only a version that served can return")
    service = target.config.service
    # Read before the token is taken, and written over: see `apply_traffic`.
    seen = ports.cloud_run.service(service)
    if not _has_revision(target, seen, command.check, ports):
        return _bring_back(target, seen, command, actor, ports, source, check)
    if command.check:
        _check_answers(target, seen, ports)
    now = ports.clock.now()

    def move(book: Book) -> list[Deployment]:
        check_current(book.model, seen.token)
        check(book)
        stopped = under_way(book)
        want_back(book, target.id, now, actor, command.reason, source)
        return stopped

    stopped = ports.state.change(command.model_id, move)
    served = settle(command.model_id, service, ports, seen)
    for deployment in stopped:
        tracing.link(deployment.trace)
        call_off(deployment, ports)
    split = (served or ports.cloud_run.service(service)).split
    if dict(split) != {target.cloud_run_revision: 100}:
        took_over = f"a newer change than going back to {target.name} took over"
        raise Conflict(f"{took_over}: {describe(split)} is served")
    return {
        "deployment_id": target.id,
        "version": target.name,
        "traffic": dict(split),
        "said": f"{target.name} has the traffic again: {describe(split)}",
    }


def call_off(deployment: Deployment, ports: Ports) -> None:
    """Stop the workflow and the job of a rollout that has ended; no fault here is a fault.

    Neither can do harm: without its token every step of the workflow is refused, and nobody
    reads what the job writes. What could not be stopped ends by itself.
    """
    try:
        if deployment.execution:
            ports.executions.cancel(deployment.execution)
    except Exception as error:  # the service may be down in any way: see above
        logs.log_exception("execution not cancelled", error, execution=deployment.execution)
    try:
        cancel_preparation(deployment.id, ports)
    except Exception as error:  # as above
        logs.log_exception("preparation not cancelled", error, deployment_id=deployment.id)


def _target(command: RollBack, ports: Ports) -> Deployment:
    """The version asked for; else the live one under a change; else the one before it."""
    if command.version is not None:
        return _version(command.model_id, command.version, ports)
    model = ports.state.model(command.model_id)
    for rolling in ports.state.deploying(command.model_id) if model.lock else []:
        if rolling.redeploys:
            # It was asked for already; asking again goes on with it instead of ending it.
            return _version(command.model_id, rolling.redeploys, ports)
    if model.lock is not None and model.active and model.lock.kind is not LockKind.UPKEEP:
        # Under a rollout or its abort that is the live version; under a rollback that died
        # half-way its own target, so that asking again completes it and goes no further back.
        return ports.state.deployment(model.active)
    active = ports.state.deployment(model.active) if model.active else None
    deployments: Sequence[Deployment] = ()
    for listed in (ports.state.deployments, ports.state.every_deployment):
        deployments = listed(command.model_id)
        if found := previous(active, deployments):
            return found
    known = [found.name for found in deployments if found.status in CAN_BE_RETURNED_TO]
    if active and known:
        raise Conflict(
            f"no version earlier than {active.name} is left that was not rolled back from; "
            f"name one of {', '.join(known)} with --to if you mean it"
        )
    raise NothingToRollBackTo(command.model_id)


def _version(model_id: str, version: int, ports: Ports) -> Deployment:
    for listed in (ports.state.deployments, ports.state.every_deployment):
        for deployment in listed(model_id):
            if deployment.version == version:
                return deployment
    raise NotFound(f"{model_id!r} has no version {version}")


def _has_revision(target: Deployment, seen: ServiceView, check: bool, ports: Ports) -> bool:
    """Say whether there is a revision to go back to; Conflict where it would not start.

    A tag or a share of the traffic is proof enough: Cloud Run deletes no such revision.
    """
    revision = target.cloud_run_revision
    if target.revision_gone or not revision:
        return False
    if not check and revision in {*seen.tags.values(), *seen.split}:
        return True
    found = ports.cloud_run.revision(seen.name, revision)
    if check and found and found.ready is False:
        raise Conflict(
            f"{target.name} would not start: {found.message}; if you know better, "
            "go back without the check (--no-check)"
        )
    return found is not None


def _check_answers(target: Deployment, seen: ServiceView, ports: Ports) -> None:
    """Conflict unless the version says, where it has a URL of its own, that it is healthy.

    Nobody may have asked it for long, so that an instance has to start first: it is waited
    for, and Cloud Run itself lets the request wait for it.
    """
    url = seen.tag_urls.get(target.tag)
    if not url or seen.tags.get(target.tag) != target.cloud_run_revision:
        return
    began = ports.clock.now()
    while why := _fault(target, url, ports):
        if (ports.clock.now() - began).total_seconds() >= CHECKED_FOR_S:
            raise Conflict(
                f"{target.name} {why}; nothing was changed. "
                "Go back to another version, or without the check (--no-check)"
            )
        ports.clock.sleep(CHECK_POLL_S)


def _fault(target: Deployment, url: str, ports: Ports) -> str:
    """Return what is wrong with the answer of GET /health, or "".

    An instance that answers is enough: the model that it still loads has been live before.
    Conflict where another model answers there, which waiting cannot mend.
    """
    try:
        status, body = ports.predictions.health(url, CHECKED_FOR_S)
    except Unavailable as error:
        return (
            f"may still be starting, as nobody asked it for long ({error} within "
            f"{CHECKED_FOR_S:.0f} s): ask again in a minute"
        )
    if status != 200 or body.get("status") not in ("healthy", "loading"):
        why = body.get("reason") or "without a reason"
        return f"is not healthy: {url}/health answers {status}, {why}"
    expected = {"model_version": target.name, "artifact_digest": target.artifact_digest}
    if wrong := {name: body.get(name) for name in expected if body.get(name) != expected[name]}:
        raise Conflict(
            f"another model answers at {url}: {wrong}, expected "
            f"{ {name: expected[name] for name in wrong} }; go back to another version, or "
            "without the check (--no-check)"
        )
    return ""


def _bring_back(
    target: Deployment,
    seen: ServiceView,
    command: RollBack,
    actor: str,
    ports: Ports,
    source: str,
    check: Check,
) -> dict[str, Any]:
    """Deploy a version again whose revision is gone, or go back to one that did so before.

    Any rollout under way ends first, and its traffic goes back. A repeat finds the
    deployment of the first call and, where its start was lost, starts it again.
    """
    known = ports.state.every_deployment(command.model_id)
    copies = [found for found in known if found.redeploys == target.origin]
    if stand_in := next((found for found in copies if _may_stand_in(found, target)), None):
        return go_back(
            command.model_copy(update={"version": stand_in.version}), actor, ports, source, check
        )
    _check_artifacts(target, ports)
    wanted = _anew(target, actor, copies, ports)
    now = ports.clock.now()

    def move(book: Book) -> tuple[Deployment, list[Deployment]]:
        check_current(book.model, seen.token)
        check(book)
        stopped = [found for found in under_way(book) if found.id != wanted.id]
        return redeploy(book, target.id, wanted, now, actor, command.reason, source), stopped

    made, stopped = ports.state.change(command.model_id, move)
    served = settle(command.model_id, seen.name, ports, seen)
    for deployment in stopped:
        call_off(deployment, ports)
    if served is None and not made.waiting:
        # Twice is safe: the claim lets one execution of a deployment go on.
        start_soon(ports.state.deployment(made.id), ports)
    split: Mapping[str, int] = (served or seen).split
    return {
        "deployment_id": made.id,
        "version": made.name,
        "traffic": dict(split),
        "said": f"the revision of {target.name} is gone: {made.name} deploys its kept artifacts "
        f"again and takes the traffic once it is healthy; until then {describe(split)}",
    }


def _may_stand_in(copy: Deployment, target: Deployment) -> bool:
    returnable = copy.deployed_at is not None and not copy.revision_gone
    return returnable and copy.version > target.version


def _check_artifacts(target: Deployment, ports: Ports) -> None:
    bucket, _, prefix = target.serving_model_path.removeprefix("gs://").partition("/")
    if target.artifacts_gone or not prefix or not ports.objects.read(bucket, prefix + MANIFEST):
        raise Conflict(
            f"the revision and the artifacts of {target.name} are gone; publish run "
            f"{target.training_run} again with a new request id to deploy it anew, "
            "or go back to another version"
        )


def _anew(target: Deployment, actor: str, copies: list[Deployment], ports: Ports) -> Deployment:
    """Return the deployment that brings `target` back: its artifacts and its configuration.

    The id says which try it is, so that a repeat finds the one that is under way.
    """
    ended = [found for found in copies if found.deactivated_at or found.deployed_at]
    request_id = f"back-to-v{target.origin}-{len(ended) + 1}"
    now, request = ports.clock.now(), tracing.current()
    return Deployment(
        id=f"{target.model_id}-{target.training_run}-{request_id}",
        model_id=target.model_id,
        version=0,  # taken in the transaction
        training_run=target.training_run,
        request_id=request_id,
        artifact_uri=target.artifact_uri,
        config=target.config,
        plan=plan_rollout(Strategy.IMMEDIATE, (), 0),
        deployed_by=actor,
        created_at=now,
        policy=target.policy,
        cloud_run_service=target.cloud_run_service,
        serving_model_path=target.serving_model_path,
        artifact_digest=target.artifact_digest,
        prepared_digest=target.prepared_digest,
        prepared_customers=target.prepared_customers,
        metrics=target.metrics,
        recall_at_100=target.recall_at_100,
        recall_at_50=target.recall_at_50,
        recall_at_10=target.recall_at_10,
        redeploys=target.origin,
        trace=tracing.begin(f"{target.model_id} {request_id} {now.isoformat()}", request),
        trace_parent=request,
    )


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
