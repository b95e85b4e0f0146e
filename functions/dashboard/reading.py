"""What the API and the pages show: queries in, schemas out, a bounded number of reads each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from google.api_core.exceptions import GoogleAPICallError, RetryError

from functions.dashboard.records import Records
from functions.dashboard.schemas import (
    Comparison,
    DecisionView,
    DeploymentPage,
    DeploymentView,
    EventPage,
    HealthView,
    KeyList,
    KeyView,
    MetricsView,
    ModelList,
    ModelView,
    PlanView,
    RunPage,
    RunView,
)
from functions.dashboard.views import (
    Live,
    changes,
    decision_view,
    deployment_view,
    event_view,
    hour_view,
    key_view,
    plan_view,
    run_view,
    today_view,
    traffic_view,
)
from functions.planning import plan
from shared import logs
from shared.domain.deployment import Deployment, Status, service_of
from shared.domain.model import LockKind, Model, previous
from shared.errors import NotFound, PipelineError, Unavailable
from shared.messages import ModelDeclaration, Policy
from shared.ports import Ports

ESTIMATED_FROM = 10
"""The newest versions that say how long a step takes; also what a model page needs of them."""
HOURS = 24
HOURS_AT_MOST = 30 * 24
LIMIT, LIMIT_AT_MOST = 20, 100
MODELS_AT_ONCE = 8
WERE_LIVE = 10


class Reader:
    """Answers every question that the dashboard asks."""

    def __init__(self, ports: Ports, records: Records) -> None:
        self._ports = ports
        self._records = records

    def models(self) -> ModelList:
        """Return all models, each as `model` does."""
        model_ids = self._ports.state.model_ids()
        with ThreadPoolExecutor(MODELS_AT_ONCE) as threads:
            return ModelList(items=list(threads.map(self.model, model_ids)))

    def model(self, model_id: str) -> ModelView:
        """Return a model; NotFound where none is declared.

        Reads of Firestore, whatever the history's length: declaration 1, state 1, newest
        versions ESTIMATED_FROM (10) + 1, those of live, under way and waiting that are older
        at most 3, rollback target 1 (after a rollback 1 + 10), the live one's run 1, and
        today's hours of the versions that served today.
        """
        declaration, model = self._declared(model_id)
        now = self._ports.clock.now()
        newest, _ = self._records.deployments(model_id, None, ESTIMATED_FROM)
        found = self._found(model, newest)

        def shown(deployment_id: str | None) -> DeploymentView | None:
            deployment = found.get(deployment_id or "")
            return deployment_view(deployment, model, newest, now) if deployment else None

        live = found.get(model.active or "")
        run = self._ports.state.run(f"{model_id}-{live.training_run}") if live else None
        endpoint_url, split = self._served(service_of(model_id))
        target = self._target(model, found)
        under_way = shown(_under_way(model))
        return ModelView(
            model_id=model_id,
            service=service_of(model_id),
            endpoint_url=endpoint_url or (live.endpoint_url if live else ""),
            live=shown(model.active),
            live_run=run_view(run, _live(declaration.policy, live)) if run else None,
            under_way=under_way if under_way and under_way.status is Status.DEPLOYING else None,
            waiting=shown(model.waiting),
            rollback_target=deployment_view(target, model, newest, now) if target else None,
            traffic=traffic_view(split),
            today=today_view(self._records.hours("model_id", model_id, _midnight(now))),
            default_strategy=declaration.policy.strategy,
            default_steps_percent=list(declaration.policy.steps_percent),
            default_over=declaration.policy.over,
        )

    def runs(self, model_id: str, cursor: str | None = None, limit: int = LIMIT) -> RunPage:
        """Return training runs, newest first, each beside the live version."""
        declaration, model = self._declared(model_id)
        live = _live(declaration.policy, self._active(model))
        found, next_cursor = self._records.runs(model_id, cursor, limit)
        return RunPage(items=[run_view(run, live) for run in found], next_cursor=next_cursor)

    def run(self, model_id: str, run_number: int) -> RunView:
        """Return one training run; NotFound where there is none."""
        declaration, model = self._declared(model_id)
        return run_view(
            self._run(model_id, run_number), _live(declaration.policy, self._active(model))
        )

    def deployments(
        self, model_id: str, cursor: str | None = None, limit: int = LIMIT
    ) -> DeploymentPage:
        """Return versions, newest first."""
        _, model = self._declared(model_id)
        found, next_cursor = self._records.deployments(model_id, cursor, limit)
        now = self._ports.clock.now()
        return DeploymentPage(
            items=[deployment_view(one, model, found, now) for one in found],
            next_cursor=next_cursor,
        )

    def deployment(self, deployment_id: str) -> DeploymentView:
        """Return one version; NotFound where there is none."""
        deployment = self._ports.state.deployment(deployment_id)
        model = self._ports.state.model(deployment.model_id)
        earlier: Sequence[Deployment] = []
        if deployment.status is Status.DEPLOYING:
            earlier, _ = self._records.deployments(deployment.model_id, None, ESTIMATED_FROM)
        return deployment_view(deployment, model, earlier, self._ports.clock.now())

    def decision(self, deployment: DeploymentView) -> DecisionView | None:
        """Return what the gate decided on this deployment's request: one read; None for none."""
        run_id = f"{deployment.model_id}-{deployment.training_run}"
        decisions = (self._ports.state.run(run_id) or {}).get("decisions") or {}
        found = decisions.get(deployment.id.removeprefix(f"{run_id}-"))
        return decision_view(found) if found else None

    def plan(self, message: Mapping[str, Any]) -> PlanView:
        """Return what a training-completed message would do now; nothing is written."""
        return plan_view(plan(json.dumps(message).encode(), self._ports))

    def compare(self, model_id: str, run_number: int) -> Comparison:
        """Return a training run beside the live version, all metrics of either."""
        declaration, model = self._declared(model_id)
        live = self._active(model)
        new = run_view(self._run(model_id, run_number), _live(declaration.policy, live))
        now = self._ports.clock.now()
        return Comparison(
            model_id=model_id,
            current=deployment_view(live, model, [], now) if live else None,
            new=new,
            changes=changes(
                live.metrics if live else {}, new.metrics, declaration.policy.primary_metric
            ),
        )

    def events_of_deployment(
        self, deployment_id: str, cursor: str | None = None, limit: int = LIMIT
    ) -> EventPage:
        """Return what happened to one version, newest first."""
        self._ports.state.deployment(deployment_id)
        found, next_cursor = self._records.events(deployment_id, cursor, limit)
        return EventPage(items=[event_view(event) for event in found], next_cursor=next_cursor)

    def audit(self, model_id: str, cursor: str | None = None, limit: int = LIMIT) -> EventPage:
        """Return everything that happened to a model, newest first."""
        self._declared(model_id)
        found, next_cursor = self._records.audit(model_id, cursor, limit)
        return EventPage(items=[event_view(event) for event in found], next_cursor=next_cursor)

    def metrics(self, deployment_id: str, hours: int = HOURS) -> MetricsView:
        """Return one version's last `hours` hours, oldest first."""
        self._ports.state.deployment(deployment_id)
        found = self._records.hours("deployment_id", deployment_id, self._since(hours))
        return MetricsView(deployment_id=deployment_id, hours=[hour_view(hour) for hour in found])

    def model_metrics(self, model_id: str, hours: int = HOURS) -> list[MetricsView]:
        """Return the last `hours` hours of every version that served in them."""
        self._declared(model_id)
        served: dict[str, list[Mapping[str, Any]]] = {}
        for hour in self._records.hours("model_id", model_id, self._since(hours)):
            served.setdefault(hour["deployment_id"], []).append(hour)
        return [
            MetricsView(deployment_id=one, hours=[hour_view(hour) for hour in of_it])
            for one, of_it in sorted(served.items())
        ]

    def keys(self, model_id: str) -> KeyList:
        """Return a model's keys, newest first."""
        self._declared(model_id)
        now = self._ports.clock.now()
        return KeyList(items=[key_view(key, now) for key in self._records.keys(model_id)])

    def key(self, model_id: str, key_id: str) -> KeyView:
        """Return one of a model's keys; NotFound where it has none of that id."""
        key = self._records.key(key_id)
        if key["model_id"] != model_id:
            raise NotFound(f"{model_id!r} has no such key")
        return key_view(key, self._ports.clock.now())

    def health(self, model_id: str) -> HealthView:
        """Ask the live service's /health now; what does not answer is unhealthy, not an error."""
        self._declared(model_id)
        begun = time.perf_counter()
        try:
            url = self._ports.cloud_run.service(service_of(model_id)).url
            begun = time.perf_counter()
            status, body = self._ports.predictions.health(url)
        except PipelineError as error:
            return HealthView(
                healthy=False, status_code=None, latency_ms=None, body={}, error=str(error)
            )
        healthy = status == 200 and body.get("status") == "healthy"
        return HealthView(
            healthy=healthy,
            status_code=status,
            latency_ms=(time.perf_counter() - begun) * 1000,
            body=dict(body),
            error="" if healthy else str(body.get("reason") or f"/health answers {status}"),
        )

    def _declared(self, model_id: str) -> tuple[ModelDeclaration, Model]:
        declaration = self._ports.state.declaration(model_id)
        if declaration is None:
            raise NotFound(f"there is no model {model_id!r}")
        return declaration, self._ports.state.model(model_id)

    def _active(self, model: Model) -> Deployment | None:
        return self._ports.state.deployment(model.active) if model.active else None

    def _run(self, model_id: str, run_number: int) -> Mapping[str, Any]:
        run = self._ports.state.run(f"{model_id}-{run_number}")
        if run is None:
            raise NotFound(f"{model_id!r} has no training run {run_number}")
        return run

    def _found(self, model: Model, newest: Sequence[Deployment]) -> dict[str, Deployment]:
        """The deployments that the model names, and the newest, by id."""
        found = {deployment.id: deployment for deployment in newest}
        named = {model.active, model.waiting, _under_way(model)} - {None}
        missing = sorted(one for one in named if one and one not in found)
        return found | {one.id: one for one in self._records.deployments_of(missing)}

    def _target(self, model: Model, found: Mapping[str, Deployment]) -> Deployment | None:
        """What a rollback without a name goes to, as `roll_back` itself decides."""
        active = found.get(model.active or "")
        if active and model.lock and model.lock.kind is not LockKind.UPKEEP:
            return active
        # The last one nearly always; after a rollback it may be newer than the live version.
        for at_most in (1, WERE_LIVE):
            if target := previous(active, self._records.that_were_live(model.id, at_most)):
                return target
        return None

    def _served(self, service: str) -> tuple[str, Mapping[str, int]]:
        try:
            view = self._ports.cloud_run.service(service)
        except NotFound:
            return "", {}  # declared, and not yet applied
        except (GoogleAPICallError, RetryError, Unavailable) as error:
            # One region that is away: what the documents say is shown, the traffic is not known.
            logs.log(
                "service could not be read", severity="WARNING", service=service, error=str(error)
            )
            return "", {}
        return view.url, view.split

    def _since(self, hours: int) -> datetime:
        now = self._ports.clock.now()
        return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours - 1)


def _live(policy: Policy, deployment: Deployment | None) -> Live:
    return Live(policy, deployment.metrics if deployment else None)


def _under_way(model: Model) -> str | None:
    return model.lock.deployment_id if model.lock else None


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
