"""The API's requests and responses; the pages render the same objects.

Shares and rates are 0 to 1, latencies milliseconds, times UTC with their zone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from shared.domain.canary import Verdict
from shared.domain.deployment import Status, StepName, StepState
from shared.domain.policy import Checking
from shared.domain.rollout import Strategy
from shared.messages import UNSEEN, DeploymentId, Line, ModelId, RequestId

Role = Literal["viewer", "deployer", "admin"]


def _whole(value: object) -> object:
    """JSON knows one kind of number: 62.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


RunNumber = Annotated[int, Field(ge=1, le=2_147_483_647), BeforeValidator(_whole)]
Percent = Annotated[int, Field(ge=1, le=100), BeforeValidator(_whole)]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class View(BaseModel):
    """Base of all responses."""

    model_config = ConfigDict(frozen=True)


class Body(BaseModel):
    """Base of all requests: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StepView(View):
    """One named step of the progress view."""

    name: StepName
    title: str
    state: StepState
    started_at: datetime | None
    ended_at: datetime | None
    detail: str
    error: str


class StageView(View):
    """One step of the rollout: the candidate's share in percent, then its bake time."""

    percent: int
    bake_s: int


class TrafficShare(View):
    """A revision's share of what Cloud Run really serves."""

    revision: str
    version: str
    percent: int


class JudgementView(View):
    """The canary's last judgement: candidate against live over the same minutes.

    `numbers` holds each side's requests, errors and latencies, and the evidence of the tests.
    """

    verdict: Verdict
    why: str
    numbers: dict[str, float | None]


class RecallView(View):
    """Recall@`k` through the endpoint, with its 95 % interval, and what training reported."""

    k: int
    served: float
    low: float
    high: float
    asked: int
    held_out: int
    reported: float | None


class SpreadView(View):
    """How the recommendations are spread over the catalogue of `products`."""

    products: int
    coverage: float
    concentration: float
    most_recommended: str
    gini: float


class AgreementView(View):
    """How alike the live version answers the same customers; the correlation is -1 to 1."""

    customers: int
    overlap: float
    rank_correlation: float | None


class LatencyView(View):
    """Latencies of single customers, both versions asked in turn."""

    customers: int
    p50_ms: float | None
    p95_ms: float | None
    live_p50_ms: float | None
    live_p95_ms: float | None


class SkewView(View):
    """What the candidate answered before it had any traffic.

    `kind` says whose answers these are; `findings` are outside of the policy's bounds,
    `faults` what no version may do.
    """

    check: str
    kind: str
    asked: int
    answered: int
    recalls: list[RecallView]
    tolerance: float | None
    spread: SpreadView | None
    live_version: str
    live_spread: SpreadView | None
    agreement: AgreementView | None
    latency: LatencyView | None
    findings: list[str]
    faults: list[str]
    notes: list[str]


class DeploymentView(View):
    """A version of a model. `etag` changes with every change of it (see If-Match).

    `prepared_customers` is None until the model's answers are prepared, `judgement` and
    `skew` until there is something to say. From `holding_since` to `holding_until` it waits
    for a person, then it is aborted. `redeploys` is the version that it brings back from kept
    artifacts; of one that was cleared away the revision, the artifacts or both are gone.
    """

    id: str
    model_id: str
    version: int
    name: str
    training_run: int
    status: Status
    waiting: bool
    paused: bool
    skipped: bool
    holding_since: datetime | None
    holding_until: datetime | None
    judgement: JudgementView | None
    skew: SkewView | None
    redeploys: int | None
    revision_gone: bool
    artifacts_gone: bool
    is_live: bool
    can_be_returned_to: bool
    can_be_cancelled: bool
    strategy: Strategy
    stages: list[StageView]
    traffic_percent: int
    cloud_run_service: str
    cloud_run_revision: str
    endpoint_url: str
    serving_model_path: str
    artifact_digest: str
    prepare_execution: str
    prepared_digest: str
    prepared_customers: int | None
    metrics: dict[str, float]
    recall_at_100: float | None
    recall_at_50: float | None
    recall_at_10: float | None
    steps: list[StepView]
    progress: Annotated[float, Field(ge=0, le=1)]
    seconds_left: float
    reason: str
    deployed_by: str
    created_at: datetime
    deployed_at: datetime | None
    deactivated_at: datetime | None
    etag: str


class DeploymentPage(View):
    """A page of versions, newest first; `next_cursor` asks for the next one."""

    items: list[DeploymentView]
    next_cursor: str | None


class PairedView(View):
    """The difference, candidate minus live, over `n` customers whom both measured."""

    n: int
    mean: float
    low: float
    high: float
    p: float
    confidence: float


class ComparedView(View):
    """One metric at the gate; `may_fall_by` is set where it is only guarded."""

    metric: str
    candidate: float | None
    live: float | None
    gain: float | None
    may_fall_by: float | None


class DecisionView(View):
    """What the quality gate decided on a request, with its numbers.

    `compared` begins with the primary metric, which must gain `minimum_margin`; it is empty
    where nothing was compared. `by_customer` is None where it could not be tested (`untested`
    says why).
    """

    deploy: bool
    why: str
    at: datetime | None
    compared: list[ComparedView]
    minimum_margin: float | None
    significance: float | None
    by_customer: PairedView | None
    untested: str


class PlannedStage(View):
    """One step of the rollout; `held` where a person has to agree before it goes on."""

    percent: int
    bake_s: int
    held: bool


class PlannedCheck(View):
    """A check of the candidate: `gate` may end the rollout, `report` only records."""

    name: str
    checking: Checking
    why: str


class PlanView(View):
    """What a training-completed message would do now; nothing was done.

    `gate` is None where the message is refused before it is judged; `decided_before` says
    that an earlier delivery of the same request was. The deployment waits for the rollout
    `waits_for`, or cancels those that it `replaces`.
    """

    outcome: Literal["refused", "listed", "known", "waiting", "started", "cancelled"]
    why: str
    model_id: str
    deployment_id: str
    version: str
    gate: DecisionView | None
    decided_before: bool
    waits_for: str
    replaces: list[str]
    steps: list[StepName]
    stages: list[PlannedStage]
    checks: list[PlannedCheck]


class RunView(View):
    """A training run, and how it compares with the live version."""

    model_id: str
    run_number: int
    artifact_uri: str
    feature_config_id: str
    feature_config_name: str
    dataset_name: str
    dataset_version: int
    metrics: dict[str, float]
    completed_at: datetime
    decisions: dict[str, DecisionView]
    deployments: list[str]
    primary_metric: str
    better_by: float | None
    is_better: bool


class RunPage(View):
    """A page of training runs, newest first."""

    items: list[RunView]
    next_cursor: str | None


class Today(View):
    """The live service's predictions since midnight UTC; None where nothing was measured."""

    requests: int
    errors: int
    avg_latency_ms: float | None


class ModelView(View):
    """A model: what is live, what moves, what could replace it."""

    model_id: str
    service: str
    endpoint_url: str
    live: DeploymentView | None
    live_run: RunView | None
    under_way: DeploymentView | None
    waiting: DeploymentView | None
    rollback_target: DeploymentView | None
    traffic: list[TrafficShare]
    today: Today
    default_strategy: Strategy
    default_steps_percent: list[int]
    default_over: str


class ModelList(View):
    """All models."""

    items: list[ModelView]


class MetricChange(View):
    """One metric of two versions; `change` is new minus current, `better` None where equal."""

    metric: str
    current: float | None
    new: float | None
    change: float | None
    better: bool | None


class Comparison(View):
    """A training run beside the live version, all metrics of either."""

    model_id: str
    current: DeploymentView | None
    new: RunView
    changes: list[MetricChange]


class EventView(View):
    """One thing that happened: who, when, why, from where."""

    at: datetime
    actor: str
    source: str
    action: str
    reason: str
    before: str
    after: str
    traffic: dict[str, int]
    deployment_id: str
    model_id: str


class EventPage(View):
    """A page of events, newest first."""

    items: list[EventView]
    next_cursor: str | None


class HourView(View):
    """One hour of one version (the specification's ServingMetrics)."""

    hour: datetime
    request_count: int
    unique_customers: int
    avg_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    error_count: int
    error_rate: float


class MetricsView(View):
    """A version's hours, oldest first."""

    deployment_id: str
    hours: list[HourView]


class HealthView(View):
    """What /health of the live service answers just now."""

    healthy: bool
    status_code: int | None
    latency_ms: float | None
    body: dict[str, object]
    error: str


class KeyView(View):
    """An API key, without the key."""

    id: str
    model_id: str
    name: str
    key_prefix: str
    is_active: bool
    state: Literal["active", "revoked", "expired"]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    requests_per_minute: int | None


class KeyList(View):
    """A model's keys, newest first."""

    items: list[KeyView]


class NewKeyView(KeyView):
    """A key just made: the only time that `key` is shown."""

    key: str


class CreateDeployment(Body):
    """Deploy a training run. Fields left out follow the model's policy."""

    training_run: RunNumber
    strategy: Strategy | None = None
    steps_percent: Annotated[list[Percent], Field(max_length=20)] = []
    over: Annotated[str, Field(max_length=20, pattern=r"^(\d+h)?(\d+m)?(\d+s)?$")] = ""
    request_id: RequestId | None = None


class DeploymentRequested(View):
    """The message is published; the deployment appears under this id within seconds."""

    deployment_id: str
    message_id: str


class AnyMessage(BaseModel):
    """A training-completed message, as it would be published; what is wrong in it is answered."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Why(Body):
    """Why somebody does it, for the history."""

    reason: Line = ""


class WayBack(Why):
    """Why somebody goes back; `check` asks first whether that version is ready and healthy."""

    check: bool = True


class Approval(Why):
    """Why somebody approves; `percent` is the share of traffic that they saw.

    Where it is at another by now the answer is 409. Without it only a rollout that waits for a
    person (`holding_since`) can be approved.
    """

    percent: Percent | None = None


class CreateKey(Body):
    """A key for the prediction API; `days` until it expires, none for never.

    `requests_per_minute` holds over all instances together; none is no limit.
    """

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=f"^[^{UNSEEN}]+$")]
    days: Annotated[float, Field(gt=0, le=3650)] | None = None
    requests_per_minute: (
        Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_whole)] | None
    ) = None


class OfModel(BaseModel):
    """The model in a path."""

    model_id: ModelId


class OfDeployment(BaseModel):
    """The deployment in a path."""

    deploy_id: DeploymentId


class OfKey(BaseModel):
    """The API key in a path."""

    key_id: KeyId


class Nothing(Body):
    """No query parameters."""


class PageOf(Body):
    """Which page of a list: `cursor` is the `next_cursor` of the page before."""

    cursor: Annotated[str, Field(max_length=400)] = ""
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class LastHours(Body):
    """How many hours back, this one included."""

    hours: Annotated[int, Field(ge=1, le=720)] = 24


class WhichRun(Body):
    """The training run to compare with the live version."""

    training_run: RunNumber


class Repeating(BaseModel):
    """A repeat with the same key and body gets the same answer, for a day."""

    idempotency_key: Annotated[
        str, Field(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{0,100}$")
    ] = ""


class Unchanged(BaseModel):
    """Only if the deployment is still the one that was looked at: its ETag, or `*`."""

    if_match: Annotated[
        str,
        Field(alias="If-Match", max_length=200, pattern=r'^(\*|(W/)?"[\x21\x23-\x7e]*")?$'),
    ] = ""


class Known(BaseModel):
    """Answered 304 where the caller's copy is the present one."""

    if_none_match: Annotated[str, Field(alias="If-None-Match", max_length=1000)] = ""


class Problem(View):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
