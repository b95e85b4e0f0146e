"""The only way in: a training-completed message becomes a deployment, or says why not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import functions_framework
from cloudevents.http import CloudEvent
from pydantic import ValidationError

from functions.abort_deployment import settle
from functions.announce import announce_own
from functions.finish_deployment import start
from functions.gate import judge
from functions.steps import require_current
from shared import logs, tracing
from shared.domain.deployment import Deployment, Status
from shared.domain.model import Book, enter
from shared.domain.policy import Superseding
from shared.domain.quality_gate import Decision
from shared.domain.rollout import RolloutPlan, parse_duration, plan_rollout
from shared.errors import MessageRefused
from shared.messages import Deploy, ModelDeclaration, TrainingCompleted, explain
from shared.ports import Ports
from shared.wiring import ports

REASON_BYTES = 1000
STEP = "on_training_completed"


def deliver(message: Mapping[str, Any], ports: Ports, announce: Callable[[], None]) -> str:
    """Handle one delivery of a Pub/Sub message in a span of its trace; return what became of it.

    The trace is the publisher's where the message has the attribute `traceparent`.
    """
    data, message_id = base64.b64decode(message.get("data", "")), str(message["messageId"])
    publisher = str((message.get("attributes") or {}).get("traceparent", ""))
    root, began = tracing.begin(message_id, publisher), ports.clock.now()
    about = {"turnout.step": STEP, "messaging.message.id": message_id}
    try:
        with (
            logs.about(step=STEP, message_id=message_id),
            tracing.span(STEP, root, attributes=about) as span,
        ):
            outcome = receive(data, message_id, ports, publisher)
            span.set_attribute("turnout.outcome", outcome)
            logs.log("message handled", outcome=outcome)
            announce()
            traced = _is_traced(data, root, ports)
        if not traced:
            # No deployment will end this trace: that is all there was.
            ended = ports.clock.now()
            tracing.record(root, publisher, f"message {outcome}", began, ended, about)
    finally:
        tracing.flush()
    return outcome


def receive(data: bytes, message_id: str, ports: Ports, publisher: str = "") -> str:
    """Handle one delivery; return what became of it. Transient faults raise: Pub/Sub retries.

    A message that can never succeed is recorded, goes to the dead-letter topic and is
    acknowledged. A redelivery finds the run and the deployment of the first delivery.
    `publisher` is the traceparent that came with it.
    """
    try:
        message = read(data)
        logs.note(model_id=message.model_id, deployment_id=message.deployment_id)
        declaration = admit(message, ports)
        run = _remember(message, ports)
        traced = (tracing.begin(message_id, publisher), tracing.checked(publisher))
        return _deploy(message, declaration, run, traced, ports)
    except MessageRefused as refusal:
        _refuse(data, message_id, refusal, ports)
        return "refused"


def read(data: bytes) -> TrainingCompleted:
    """Return the message; MessageRefused names each field that is wrong."""
    try:
        return TrainingCompleted.model_validate(json.loads(data))
    except ValidationError as error:
        raise MessageRefused(explain(error)) from None
    except (ValueError, RecursionError):
        raise MessageRefused("the message is not JSON") from None


def admit(message: TrainingCompleted, ports: Ports) -> ModelDeclaration:
    """Return the declaration of the message's model; MessageRefused where it cannot be right."""
    declaration = ports.state.declaration(message.model_id)
    if declaration is None:
        raise MessageRefused(
            f"there is no model {message.model_id!r}; declare it in Terraform's `models` first"
        )
    if message.bucket not in ports.settings.training_buckets:
        raise MessageRefused(
            f"bucket {message.bucket!r} is not a training bucket "
            f"({', '.join(sorted(ports.settings.training_buckets))}); a model is code, "
            "so only listed buckets are deployed from"
        )
    _plan(message.deploy or Deploy(), declaration)
    return declaration


def check_artifacts(message: TrainingCompleted, run: Mapping[str, Any]) -> None:
    """MessageRefused where the run is stored with other artifacts than the message's."""
    if run.get("artifact_uri") != message.artifact_uri:
        raise MessageRefused(
            f"run {message.run_number} of {message.model_id!r} is known with the artifacts "
            f"{run.get('artifact_uri')!r}; give the new ones another run number"
        )


def decided(message: TrainingCompleted, run: Mapping[str, Any]) -> Decision | None:
    """Return the gate's decision that is stored with the run for this request, or None."""
    earlier = run.get("decisions", {}).get((message.deploy or Deploy()).request_id)
    return _decision(earlier) if earlier else None


def deployment_of(
    message: TrainingCompleted, gate: Decision, declaration: ModelDeclaration, ports: Ports
) -> Deployment:
    """Return the deployment that the message asks for, without the version it will get."""
    deploy = message.deploy or Deploy()
    config = declaration.config
    return Deployment(
        id=message.deployment_id,
        model_id=message.model_id,
        version=0,  # taken in the transaction
        training_run=message.run_number,
        request_id=deploy.request_id,
        artifact_uri=message.artifact_uri,
        config=config,
        plan=_plan(deploy, declaration),
        deployed_by=deploy.requested_by or "training",
        created_at=ports.clock.now(),
        policy=declaration.policy.rollout,
        better_than=gate.better_than,
        cloud_run_service=config.service,
        metrics=message.metrics,
        recall_at_100=message.metrics.get("recall_at_100"),
        recall_at_50=message.metrics.get("recall_at_50"),
        recall_at_10=message.metrics.get("recall_at_10"),
    )


def entry(
    wanted: Deployment, gate: Decision, declaration: ModelDeclaration
) -> Callable[[Book], Deployment]:
    """Return the move that creates the deployment: started, waiting, or the one known already."""
    superseding = declaration.policy.superseding
    return lambda book: enter(book, wanted, gate.why, superseding)


def outcome_of(deployment: Deployment) -> str:
    """Return what became of a message that led to this deployment."""
    if deployment.status is not Status.DEPLOYING:
        return "known"
    return "waiting" if deployment.waiting else "started"


def _is_traced(data: bytes, root: str, ports: Ports) -> bool:
    """Tell whether a deployment has this trace: an earlier delivery of the message began it."""
    try:
        found = ports.state.glance(read(data).deployment_id)
    except MessageRefused:
        return False
    if found and found.trace != root:
        tracing.link(found.trace)
    return found is not None and found.trace == root


def _remember(message: TrainingCompleted, ports: Ports) -> Mapping[str, Any]:
    """Record the run once; return what is stored. Other artifacts under its number are refused."""
    run = message.model_dump(exclude={"deploy", "schema_version"})
    stored = ports.state.record_run(_run_id(message), run)
    check_artifacts(message, stored)
    return stored


def _deploy(
    message: TrainingCompleted,
    declaration: ModelDeclaration,
    run: Mapping[str, Any],
    traced: tuple[str, str],
    ports: Ports,
) -> str:
    # Before anything is decided: against older documents it would be decided wrongly, once and
    # for all, and under a version that exists already. Pub/Sub brings the message again.
    require_current(message.model_id, declaration.config.service, ports)
    gate = _decided_once(message, declaration, run, ports)
    if not gate.deploy:
        return "listed"
    trace, trace_parent = traced
    wanted = replace(
        deployment_of(message, gate, declaration, ports), trace=trace, trace_parent=trace_parent
    )
    deployment = ports.state.change(message.model_id, entry(wanted, gate, declaration))
    if deployment.waiting and declaration.policy.superseding is Superseding.REPLACE:
        # It may have ended the rollout under way: that one's traffic goes back first, and this
        # one is started. Dying here is safe: a redelivery, or reconcile, completes it.
        settle(message.model_id, wanted.config.service, ports)
        return outcome_of(ports.state.deployment(deployment.id))
    outcome = outcome_of(deployment)
    if outcome == "started":
        # Twice is safe: the claim lets one execution of a deployment go on.
        start(deployment, ports)
    return outcome


def _decided_once(
    message: TrainingCompleted,
    declaration: ModelDeclaration,
    run: Mapping[str, Any],
    ports: Ports,
) -> Decision:
    """Return the gate's decision on this request: the first one, however often it arrives.

    Decided again later, the same message could find another version live, and deploy a run
    that was only listed, or compare the run with itself.
    """
    if earlier := decided(message, run):
        return earlier
    request_id = (message.deploy or Deploy()).request_id
    decision = {**asdict(judge(message, declaration, ports)), "at": ports.clock.now()}
    kept = ports.state.decide(_run_id(message), request_id, decision)
    logs.log("gate decided", run=_run_id(message), deploy=kept["deploy"], why=kept["why"])
    return _decision(kept)


def _decision(kept: Mapping[str, Any]) -> Decision:
    return Decision(
        kept["deploy"], kept["why"], kept.get("comparison", {}), kept.get("better_than")
    )


def _run_id(message: TrainingCompleted) -> str:
    return f"{message.model_id}-{message.run_number}"


def _plan(deploy: Deploy, declaration: ModelDeclaration) -> RolloutPlan:
    policy = declaration.policy
    try:
        return plan_rollout(
            deploy.strategy or policy.strategy,
            deploy.steps_percent or policy.steps_percent,
            parse_duration(deploy.over or policy.over),
        )
    except ValueError as error:
        raise MessageRefused(f"deploy: {error}") from None


def _refuse(data: bytes, message_id: str, refusal: MessageRefused, ports: Ports) -> None:
    """Record, then publish to the dead letters. A redelivery repeats both under one id."""
    logs.log("message refused", severity="WARNING", message_id=message_id, why=str(refusal))
    ports.state.record_refusal(
        message_id,
        {
            "reason": str(refusal),
            "data": data[:10_000].decode(errors="replace"),
            "at": ports.clock.now(),
        },
    )
    # An attribute has 1,024 bytes at most; a longer one would be refused at every redelivery.
    reason = str(refusal).encode()[:REASON_BYTES].decode(errors="ignore")
    ports.dead_letters.publish(
        data, {"reason": reason, "code": refusal.code, "message_id": message_id}
    )


@functions_framework.cloud_event
def on_training_completed(event: CloudEvent) -> None:
    """Receive a Pub/Sub message (the topic `training-completed`)."""
    tracing.start()
    message: dict[str, Any] = event.data["message"]
    message_id = message.get("messageId") or message.get("message_id") or event["id"]
    deliver({**message, "messageId": message_id}, ports(), announce_own)
