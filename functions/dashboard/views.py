"""From what is stored to what is shown: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

from functions.dashboard.schemas import (
    AgreementView,
    ComparedView,
    DecisionView,
    DeploymentView,
    EventView,
    HourView,
    JudgementView,
    KeyView,
    LatencyView,
    MetricChange,
    PairedView,
    PlanView,
    RecallView,
    RunView,
    SkewView,
    SpreadView,
    StageView,
    StepView,
    Today,
    TrafficShare,
    View,
)
from functions.planning import Plan
from shared.domain.deployment import (
    CAN_BE_RETURNED_TO,
    Deployment,
    Event,
    Status,
    Step,
    StepName,
)
from shared.domain.estimate import progress
from shared.domain.model import LockKind, Model
from shared.domain.traffic import version_of
from shared.messages import Policy

TITLES = {
    StepName.COPY_ARTIFACTS: "Copy artifacts",
    StepName.PREPARE_MODEL: "Prepare model",
    StepName.CONFIGURE_SERVICE: "Configure service",
    StepName.DEPLOY_REVISION: "Deploy revision",
    StepName.HEALTH_CHECKS: "Health checks",
    StepName.SWITCH_TRAFFIC: "Switch traffic",
}
# By their names, as training reports them; of everything else more is better.
LESS_IS_BETTER = ("loss", "error", "rmse", "mse", "mae", "rank", "latency_ms")

V = TypeVar("V", bound=View)

_deployments = TypeAdapter(Deployment)


@dataclass(frozen=True)
class Live:
    """The live version's metrics and what "better" means for the model."""

    policy: Policy
    metrics: Mapping[str, float] | None


def etag_of(deployment: Deployment) -> str:
    """Return what changes with every change of the deployment."""
    content: Any = _deployments.dump_python(deployment, mode="json")
    return sha256(_canonical(content).encode()).hexdigest()[:32]


def deployment_view(
    deployment: Deployment, model: Model, earlier: Sequence[Deployment], now: datetime
) -> DeploymentView:
    """Return a version as shown; `earlier` ones say how long its steps should take."""
    done, left_s = progress(deployment, earlier, now)
    live = model.active == deployment.id
    rolling = model.lock is not None and model.lock.kind is LockKind.ROLLOUT
    return DeploymentView(
        id=deployment.id,
        model_id=deployment.model_id,
        version=deployment.version,
        name=deployment.name,
        training_run=deployment.training_run,
        status=deployment.status,
        waiting=deployment.waiting,
        paused=deployment.paused,
        skipped=deployment.skipped,
        holding_since=deployment.holding_since,
        holding_until=_holding_until(deployment),
        judgement=judgement_view(deployment.judgement),
        skew=skew_view(deployment.skew),
        redeploys=deployment.redeploys,
        revision_gone=deployment.revision_gone,
        artifacts_gone=deployment.artifacts_gone,
        is_live=live,
        # The live version takes its traffic back from a rollout.
        can_be_returned_to=(live and rolling)
        or (deployment.status in CAN_BE_RETURNED_TO and not _lost(deployment)),
        can_be_cancelled=deployment.status is Status.DEPLOYING,
        strategy=deployment.plan.strategy,
        stages=[
            StageView(percent=stage.percent, bake_s=stage.bake_s)
            for stage in deployment.plan.stages
        ],
        traffic_percent=deployment.traffic_percent,
        cloud_run_service=deployment.cloud_run_service,
        cloud_run_revision=deployment.cloud_run_revision,
        endpoint_url=deployment.endpoint_url,
        serving_model_path=deployment.serving_model_path,
        artifact_digest=deployment.artifact_digest,
        prepare_execution=deployment.prepare_execution,
        prepared_digest=deployment.prepared_digest,
        prepared_customers=deployment.prepared_customers,
        metrics=dict(deployment.metrics),
        recall_at_100=deployment.recall_at_100,
        recall_at_50=deployment.recall_at_50,
        recall_at_10=deployment.recall_at_10,
        steps=[_step(name, deployment.steps.get(name.value, Step())) for name in StepName],
        progress=round(done, 2),
        seconds_left=round(left_s),
        reason=deployment.reason,
        deployed_by=deployment.deployed_by,
        created_at=deployment.created_at,
        deployed_at=deployment.deployed_at,
        deactivated_at=deployment.deactivated_at,
        etag=etag_of(deployment),
    )


def judgement_view(found: Mapping[str, Any]) -> JudgementView | None:
    """Return the judge's last word as shown; None before there is one."""
    if not found:
        return None
    return JudgementView(
        verdict=found["verdict"], why=found["why"], numbers=dict(found.get("numbers") or {})
    )


def skew_view(found: Mapping[str, Any]) -> SkewView | None:
    """Return the report on a version's answers as shown; None before there is one."""
    if not found:
        return None
    customers, live = found["customers"], found["live"]
    recalls = [RecallView(**recall) for recall in found["recall"].values()]
    return SkewView(
        check=found["check"],
        kind=customers["kind"],
        asked=customers["asked"],
        answered=customers["answered"],
        recalls=sorted(recalls, key=lambda recall: recall.k),
        tolerance=found.get("tolerance"),
        spread=_maybe(SpreadView, found["spread"]),
        live_version=live["version"],
        live_spread=_maybe(SpreadView, live["spread"]),
        agreement=_maybe(AgreementView, live["agreement"]),
        latency=_maybe(LatencyView, found["latency"]),
        findings=[finding["why"] for finding in found["findings"]],
        faults=list(found["faults"]),
        notes=list(found["notes"]),
    )


def decision_view(found: Mapping[str, Any]) -> DecisionView:
    """Return the gate's decision as shown."""
    numbers: Mapping[str, Any] = found.get("comparison") or {}
    compared = []
    if numbers:
        compared = [_compared(numbers["metric"], numbers)]
        compared += [_compared(name, one) for name, one in sorted(numbers["guards"].items())]
    tested: Mapping[str, Any] = numbers.get("by_customer") or {}
    return DecisionView(
        deploy=found["deploy"],
        why=found["why"],
        at=found.get("at"),
        compared=compared,
        minimum_margin=numbers.get("minimum_margin"),
        significance=numbers.get("significance"),
        by_customer=PairedView(**tested) if "mean" in tested else None,
        untested=tested.get("why", ""),
    )


def plan_view(plan: Plan) -> PlanView:
    """Return what a message would do as shown."""
    gate = decision_view(asdict(plan.gate)) if plan.gate else None
    return PlanView.model_validate({**asdict(plan), "gate": gate})


def run_view(run: Mapping[str, Any], live: Live) -> RunView:
    """Return a training run beside the live version; better only where both were measured."""
    metric, decisions = live.policy.primary_metric, run.get("decisions") or {}
    model_id, number, metrics = run["model_id"], run["run_number"], dict(run["metrics"])
    gain = None
    if live.metrics is not None and metric in live.metrics and metric in metrics:
        gain = metrics[metric] - live.metrics[metric]
    return RunView(
        model_id=model_id,
        run_number=number,
        artifact_uri=run["artifact_uri"],
        feature_config_id=run["feature_config"]["id"],
        feature_config_name=run["feature_config"]["name"],
        dataset_name=run["dataset"]["name"],
        dataset_version=run["dataset"]["version"],
        metrics=metrics,
        completed_at=run["completed_at"],
        decisions={name: decision_view(found) for name, found in sorted(decisions.items())},
        deployments=[
            f"{model_id}-{number}-{request}"
            for request, decision in sorted(decisions.items())
            if decision["deploy"]
        ],
        primary_metric=metric,
        better_by=gain,
        is_better=gain is not None and gain > 0 and gain >= live.policy.minimum_margin,
    )


def changes(
    current: Mapping[str, float], new: Mapping[str, float], first: str
) -> list[MetricChange]:
    """Return all metrics of either, the one named `first` first."""
    names = sorted({*current, *new}, key=lambda name: (name != first, name))
    return [_change(name, current.get(name), new.get(name)) for name in names]


def traffic_view(split: Mapping[str, int]) -> list[TrafficShare]:
    """Return what is served, the largest share first."""
    ordered = sorted(split.items(), key=lambda item: (-item[1], item[0]))
    return [
        TrafficShare(revision=revision, version=version_of(revision), percent=percent)
        for revision, percent in ordered
    ]


def event_view(event: Event) -> EventView:
    """Return an event as shown."""
    return EventView(
        at=event.at,
        actor=event.actor,
        source=event.source,
        action=event.action,
        reason=event.reason,
        before=event.before,
        after=event.after,
        traffic=dict(event.traffic),
        deployment_id=event.deployment_id,
        model_id=event.model_id,
    )


def key_view(key: Mapping[str, Any], now: datetime) -> KeyView:
    """Return a key as shown, never its hash as such, never the key."""
    state: Literal["active", "revoked", "expired"] = "active"
    if not key["is_active"]:
        state = "revoked"
    elif key["expires_at"] and key["expires_at"] <= now:
        state = "expired"
    shown = {name: key.get(name) for name in KeyView.model_fields if name != "state"}
    return KeyView(**shown, state=state)


def hour_view(found: Mapping[str, Any]) -> HourView:
    """Return one hour as shown."""
    return HourView(**{name: found[name] for name in HourView.model_fields})


def today_view(hours: Sequence[Mapping[str, Any]]) -> Today:
    """Return the sums of a day's hours; the latency is weighed by requests."""
    requests = sum(int(hour["request_count"]) for hour in hours)
    weighed_ms = sum(hour["avg_latency_ms"] * hour["request_count"] for hour in hours)
    return Today(
        requests=requests,
        errors=sum(int(hour["error_count"]) for hour in hours),
        avg_latency_ms=weighed_ms / requests if requests else None,
    )


def _holding_until(deployment: Deployment) -> datetime | None:
    limit = timedelta(seconds=deployment.policy.hold.limit_s)
    return deployment.holding_since + limit if deployment.holding_since else None


def _lost(deployment: Deployment) -> bool:
    return deployment.revision_gone and deployment.artifacts_gone


def _maybe(kind: type[V], found: Mapping[str, Any] | None) -> V | None:
    return kind(**found) if found else None


def _compared(metric: str, found: Mapping[str, Any]) -> ComparedView:
    return ComparedView(
        metric=metric,
        candidate=found["candidate"],
        live=found["live"],
        gain=found["gain"],
        may_fall_by=found.get("may_fall_by"),
    )


def _step(name: StepName, step: Step) -> StepView:
    return StepView(
        name=name,
        title=TITLES[name],
        state=step.state,
        started_at=step.started_at,
        ended_at=step.ended_at,
        detail=step.detail,
        error=step.error,
    )


def _change(name: str, current: float | None, new: float | None) -> MetricChange:
    if current is None or new is None:
        return MetricChange(metric=name, current=current, new=new, change=None, better=None)
    change = new - current
    better = (change < 0) if name.endswith(LESS_IS_BETTER) else (change > 0)
    return MetricChange(
        metric=name, current=current, new=new, change=change, better=better if change else None
    )


def _canonical(content: Any) -> str:
    """Return JSON that is the same for the same content, in whatever order maps were read."""
    if isinstance(content, Mapping):
        parts = (f"{name!r}:{_canonical(content[name])}" for name in sorted(content))
        return "{" + ",".join(parts) + "}"
    if isinstance(content, list):
        return "[" + ",".join(map(_canonical, content)) + "]"
    return repr(content)
