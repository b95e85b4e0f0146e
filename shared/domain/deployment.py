"""A deployment: what is recorded about it, and which status may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from shared.domain.policy import RolloutPolicy
from shared.domain.rollout import RolloutPlan
from shared.errors import TransitionRefused


class Status(StrEnum):
    """The six words that the API and the pages use."""

    DEPLOYING = "deploying"
    ACTIVE = "active"
    INACTIVE = "inactive"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


# A version that once was active can be active again (rollback); one that failed or was
# cancelled never was, and is deployed anew by another request.
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.DEPLOYING: frozenset({Status.ACTIVE, Status.FAILED, Status.CANCELLED}),
    Status.ACTIVE: frozenset({Status.INACTIVE, Status.ROLLED_BACK}),
    Status.INACTIVE: frozenset({Status.ACTIVE}),
    Status.ROLLED_BACK: frozenset({Status.ACTIVE}),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}

CAN_BE_RETURNED_TO = frozenset({Status.INACTIVE, Status.ROLLED_BACK})

SERVICE_PREFIX = "model-serving-"


def service_of(model_id: str) -> str:
    """Return the name of the Cloud Run service that serves a model."""
    return f"{SERVICE_PREFIX}{model_id}"


class StepName(StrEnum):
    """The steps of the progress view, in their order."""

    COPY_ARTIFACTS = "copy_artifacts"
    PREPARE_MODEL = "prepare_model"
    CONFIGURE_SERVICE = "configure_service"
    DEPLOY_REVISION = "deploy_revision"
    HEALTH_CHECKS = "health_checks"
    SWITCH_TRAFFIC = "switch_traffic"


class StepState(StrEnum):
    """How far one step has come."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Step:
    """One step's record; `detail` says what it did, `error` why it could not."""

    state: StepState = StepState.PENDING
    started_at: datetime | None = None
    ended_at: datetime | None = None
    detail: str = ""
    error: str = ""


class RetrievalKind(StrEnum):
    """How the model's products are searched: all of them, or through an approximate index."""

    EXACT = "exact"
    APPROXIMATE = "approximate"


@dataclass(frozen=True)
class PrepareConfig:
    """What is computed before a revision exists: `top_k` answers a customer (0: none).

    `customers` limits it to so many of customers.txt, its first lines; `tasks` share the work.
    """

    top_k: int = 10
    customers: int | None = None
    tasks: int = 1


@dataclass(frozen=True)
class RetrievalConfig:
    """How products are searched; an index whose recall is below the minimum (0-1) is refused."""

    kind: RetrievalKind = RetrievalKind.EXACT
    minimum_recall: float = 0.95


@dataclass(frozen=True)
class ModelConfig:
    """A model as Terraform declares it; the pipeline only reads it, and snapshots it."""

    model_id: str
    image: str
    service_account: str
    cpu: str = "2"
    memory: str = "4Gi"
    min_instances: int = 1
    max_instances: int = 10
    concurrency: int = 80
    startup_timeout_s: int = 240
    env: Mapping[str, str] = field(default_factory=dict)
    golden_customers: tuple[str, ...] = ()
    prepare: PrepareConfig = PrepareConfig()
    retrieval: RetrievalConfig = RetrievalConfig()

    @property
    def service(self) -> str:
        """The Cloud Run service that serves this model."""
        return service_of(self.model_id)

    @property
    def job(self) -> str:
        """The Cloud Run job that prepares this model's versions."""
        return f"prepare-{self.model_id}"


@dataclass(frozen=True)
class Deployment:
    """One version of one model, from the request to what became of it.

    `token` is the fencing token while (and since) it holds the model's lock; without one
    it waits for its turn. `snapshot` is the traffic that an abort restores. `paused` and
    `approved` are a person's word on the stage that bakes: stay, or go on now; `skipped`
    means that all stages left are. `holding_since` is when the stage began to wait for a
    person. `judgement` is the canary judge's last word on the stage, `skew` the report on
    the candidate's answers before any traffic, both with their numbers.
    `prepare_execution` is the job's execution that prepares it, `prepared_digest` the
    identity of what that wrote, `prepared_customers` how many have their answers in it.
    `redeploys` is the version that this one brings back from its kept artifacts; of one that
    was cleared away, the revision or the artifacts (or both) are gone. `trace` is the
    traceparent (W3C) of its root span, `trace_parent` that of the span which that continues.
    `better_than` is as in the gate's Decision: what was live when it was let in.
    """

    id: str
    model_id: str
    version: int
    training_run: int
    request_id: str
    artifact_uri: str
    config: ModelConfig
    plan: RolloutPlan
    deployed_by: str
    created_at: datetime
    policy: RolloutPolicy = field(default_factory=RolloutPolicy)
    status: Status = Status.DEPLOYING
    token: int | None = None
    execution: str = ""
    cloud_run_service: str = ""
    cloud_run_revision: str = ""
    attempt: int = 0
    endpoint_url: str = ""
    traffic_percent: int = 0
    serving_model_path: str = ""
    artifact_digest: str = ""
    prepare_execution: str = ""
    prepared_digest: str = ""
    prepared_customers: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    recall_at_100: float | None = None
    recall_at_50: float | None = None
    recall_at_10: float | None = None
    healthy: bool = False
    stage_started_at: datetime | None = None
    paused: bool = False
    approved: bool = False
    skipped: bool = False
    holding_since: datetime | None = None
    judgement: Mapping[str, Any] = field(default_factory=dict)
    skew: Mapping[str, Any] = field(default_factory=dict)
    snapshot: Mapping[str, int] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)
    reason: str = ""
    deployed_at: datetime | None = None
    deactivated_at: datetime | None = None
    redeploys: int | None = None
    revision_gone: bool = False
    artifacts_gone: bool = False
    trace: str = ""
    trace_parent: str = ""
    better_than: str | None = None

    @property
    def origin(self) -> int:
        """The version whose artifacts it serves: its own, or the one that it brings back."""
        return self.redeploys or self.version

    @property
    def name(self) -> str:
        """`v3`, as people and the serving container call it."""
        return f"v{self.version}"

    @property
    def tag(self) -> str:
        """The Cloud Run tag of this version (three characters at least)."""
        return f"ver-{self.version}"

    @property
    def waiting(self) -> bool:
        """True while another rollout of the model holds the lock."""
        return self.status is Status.DEPLOYING and self.token is None

    def revision_of_attempt(self, attempt: int) -> str:
        """The revision name of an attempt: unique for ever, as Cloud Run demands."""
        return f"{self.config.service}-v{self.version}-{attempt}"

    def become(self, after: Status, at: datetime, reason: str) -> Deployment:
        """Return it with status `after`; TransitionRefused where the machine lists none."""
        if after not in TRANSITIONS[self.status]:
            raise TransitionRefused(self.id, self.status, after)
        moved = replace(self, status=after, reason=reason)
        if after is Status.ACTIVE:
            return replace(moved, deployed_at=at, deactivated_at=None, traffic_percent=100)
        ended_step = {
            name: replace(step, state=StepState.FAILED, ended_at=at, error=step.error or reason)
            if step.state is StepState.RUNNING
            else step
            for name, step in self.steps.items()
        }
        return replace(moved, deactivated_at=at, traffic_percent=0, steps=ended_step)

    def with_step(self, name: StepName, step: Step) -> Deployment:
        """Return it with one step's record replaced."""
        return replace(self, steps={**self.steps, name.value: step})


@dataclass(frozen=True)
class Event:
    """One thing that happened to a deployment: who, when, why, and from where.

    `source` says how the actor came in, such as `dashboard 203.0.113.9`.
    """

    deployment_id: str
    model_id: str
    at: datetime
    actor: str
    action: str
    reason: str
    before: str = ""
    after: str = ""
    traffic: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
