"""The quality gate: is a run better than the version that is live?"""

from __future__ import annotations

from dataclasses import replace

from functions.evaluation import Unreadable, read_results
from shared.domain.deployment import Deployment
from shared.domain.paired import CUSTOMERS_AT_LEAST, Paired, compare_paired
from shared.domain.quality_gate import Decision, DeployWhen, GatePolicy, decide
from shared.errors import NotFound
from shared.messages import Deploy, ModelDeclaration, Policy, TrainingCompleted
from shared.ports import Ports


def judge(message: TrainingCompleted, declaration: ModelDeclaration, ports: Ports) -> Decision:
    """Return what the gate says now, against the version that is live now; only reads."""
    gate = _policy(declaration.policy, (message.deploy or Deploy()).when)
    active = ports.state.model(message.model_id).active
    if active is None or gate.when is DeployWhen.OFF:
        decision = decide(gate, message.metrics, None)
    else:
        live = ports.state.deployment(active)
        by_customer = _by_customer(message.artifact_uri, live, gate, ports)
        decision = decide(gate, message.metrics, live.metrics, by_customer)
    if gate.when is DeployWhen.IF_BETTER:
        return replace(decision, better_than=active or "")
    return decision


def outdone(deployment: Deployment, ports: Ports) -> str:
    """Return why the gate would no longer let a waiting deployment in, "" where it would.

    Another version may have gone live since it was compared. Judged again are the metrics,
    which every document has; that the gain is significant was the first look's question.
    NotFound where the model is no longer declared.
    """
    active = ports.state.model(deployment.model_id).active
    if deployment.better_than is None or active in (None, deployment.better_than):
        return ""
    declaration = ports.state.declaration(deployment.model_id)
    if declaration is None:
        raise NotFound(f"there is no model {deployment.model_id!r}")
    live = ports.state.deployment(active)
    gate = replace(_policy(declaration.policy, DeployWhen.IF_BETTER), significance=None)
    decision = decide(gate, deployment.metrics, live.metrics)
    return "" if decision.deploy else f"{live.name} went live meanwhile: {decision.why}"


def _policy(policy: Policy, when: DeployWhen | None) -> GatePolicy:
    return GatePolicy(
        when=when or policy.when,
        metric=policy.primary_metric,
        minimum_margin=policy.minimum_margin,
        guard_metrics=policy.guard_metrics,
        significance=policy.significance,
    )


def _by_customer(
    artifact_uri: str, live: Deployment, gate: GatePolicy, ports: Ports
) -> Paired | str:
    """Return the difference over the customers whom both measured, or why there is none."""
    confidence = 1 - gate.significance if gate.significance else 0.95
    try:
        candidate = read_results(artifact_uri, gate.metric, ports)
        before = read_results(live.serving_model_path, gate.metric, ports)
    except Unreadable as why:
        return str(why)
    return compare_paired(candidate, before, confidence) or (
        f"fewer than {CUSTOMERS_AT_LEAST} customers have {gate.metric} in both versions' results"
    )
