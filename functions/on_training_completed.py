"""The only way in: a training-completed message becomes a deployment, or says why not."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import functions_framework
from cloudevents.http import CloudEvent
from pydantic import ValidationError

from functions.finish_deployment import start
from shared import logs
from shared.domain.deployment import Deployment, Status
from shared.domain.model import enter
from shared.domain.quality_gate import Decision, decide
from shared.domain.rollout import RolloutPlan, parse_duration, plan_rollout
from shared.errors import MessageRefused
from shared.messages import Deploy, ModelDeclaration, TrainingCompleted, explain
from shared.ports import Ports
from shared.wiring import ports


def receive(data: bytes, message_id: str, ports: Ports) -> str:
    """Handle one delivery; return what became of it. Transient faults raise: Pub/Sub retries.

    A message that can never succeed is recorded, goes to the dead-letter topic and is
    acknowledged. A redelivery finds the run and the deployment of the first delivery.
    """
    try:
        message = read(data)
        declaration = _admit(message, ports)
        run = _remember(message, ports)
        return _deploy(message, declaration, run, ports)
    except MessageRefused as refusal:
        _refuse(data, message_id, refusal, ports)
        return "refused"


def read(data: bytes) -> TrainingCompleted:
    """Return the message; MessageRefused names each field that is wrong."""
    try:
        return TrainingCompleted.model_validate(json.loads(data))
    except ValidationError as error:
        raise MessageRefused(explain(error)) from None
    except ValueError:
        raise MessageRefused("the message is not JSON") from None


def _admit(message: TrainingCompleted, ports: Ports) -> ModelDeclaration:
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


def _remember(message: TrainingCompleted, ports: Ports) -> Mapping[str, Any]:
    """Record the run once; return what is stored. Other artifacts under its number are refused."""
    run = message.model_dump(exclude={"deploy", "schema_version"})
    stored = ports.state.record_run(_run_id(message), run)
    if stored.get("artifact_uri") != message.artifact_uri:
        raise MessageRefused(
            f"run {message.run_number} of {message.model_id!r} is known with the artifacts "
            f"{stored.get('artifact_uri')!r}; give the new ones another run number"
        )
    return stored


def _deploy(
    message: TrainingCompleted,
    declaration: ModelDeclaration,
    run: Mapping[str, Any],
    ports: Ports,
) -> str:
    gate = _decided_once(message, declaration, run, ports)
    if not gate.deploy:
        return "listed"
    wanted = _deployment(message, declaration, ports)
    deployment = ports.state.change(message.model_id, lambda book: enter(book, wanted, gate.why))
    if deployment.status is not Status.DEPLOYING:
        return "known"
    if deployment.waiting:
        return "waiting"
    # Twice is safe: the claim lets one execution of a deployment go on.
    start(deployment, ports)
    return "started"


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
    request_id = (message.deploy or Deploy()).request_id
    if earlier := run.get("decisions", {}).get(request_id):
        return Decision(earlier["deploy"], earlier["why"])
    gate = decide(
        (message.deploy or Deploy()).when or declaration.policy.when,
        declaration.policy.primary_metric,
        declaration.policy.minimum_margin,
        message.metrics,
        _live_metrics(message.model_id, ports),
    )
    decision = {"deploy": gate.deploy, "why": gate.why, "at": ports.clock.now()}
    kept = ports.state.decide(_run_id(message), request_id, decision)
    logs.log("gate decided", run=_run_id(message), deploy=kept["deploy"], why=kept["why"])
    return Decision(kept["deploy"], kept["why"])


def _run_id(message: TrainingCompleted) -> str:
    return f"{message.model_id}-{message.run_number}"


def _live_metrics(model_id: str, ports: Ports) -> dict[str, float] | None:
    active = ports.state.model(model_id).active
    return dict(ports.state.deployment(active).metrics) if active else None


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


def _deployment(
    message: TrainingCompleted, declaration: ModelDeclaration, ports: Ports
) -> Deployment:
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
        cloud_run_service=config.service,
        metrics=message.metrics,
        recall_at_100=message.metrics.get("recall_at_100"),
        recall_at_50=message.metrics.get("recall_at_50"),
        recall_at_10=message.metrics.get("recall_at_10"),
    )


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
    ports.dead_letters.publish(
        data, {"reason": str(refusal)[:1000], "code": refusal.code, "message_id": message_id}
    )


@functions_framework.cloud_event
def on_training_completed(event: CloudEvent) -> None:
    """Receive a Pub/Sub message (the topic `training-completed`)."""
    message: dict[str, Any] = event.data["message"]
    message_id = str(message.get("messageId") or message.get("message_id") or event["id"])
    outcome = receive(base64.b64decode(message.get("data", "")), message_id, ports())
    logs.log("message handled", message_id=message_id, outcome=outcome)
