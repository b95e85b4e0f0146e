"""What arrives from outside, typed: the training-completed message and each step's request."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from shared.domain.deployment import ModelConfig, RetrievalKind
from shared.domain.policy import Checking, Drift, OnInconclusive, RolloutPolicy, Superseding
from shared.domain.quality_gate import DeployWhen
from shared.domain.rollout import Strategy, parse_duration, plan_rollout
from shared.errors import InvalidRequest

ModelId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,22}[a-z0-9]$")]
"""At most 24 of a-z, 0-9 and hyphens, so that service, revision and tag names fit."""

REGION = r"^([a-z]+-[a-z]+[0-9]+)?$"
RequestId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
DeploymentId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,99}$")]
UNSEEN = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""Characters that steer a terminal, end a line or turn the direction of reading around."""

Line = Annotated[str, Field(max_length=300, pattern=f"^[^{UNSEEN}]*$")]
"""One line of text for people, of characters that they see: a log line stays one."""

SCHEMA_VERSION = 1
EXPLAINED_AT_MOST = 1000
_configs = TypeAdapter(ModelConfig)
_policies = TypeAdapter(RolloutPolicy)
# A name, never an address: of those (the metadata server's among them) no certificate vouches.
_WEBHOOK = re.compile(
    r"(https://(?=[^/:]{1,253}(?:[/:]|$))(?:[A-Za-z0-9-]+\.)+[A-Za-z][A-Za-z0-9-]*"
    r"|http://(localhost|127\.0\.0\.1))(:\d{1,5})?(/[!-~]{0,1900})?"
)
# Half a character, which JSON can escape, fits into no document either.
_ARTIFACT_URI = re.compile(
    rf"gs://([a-z0-9][a-z0-9._-]{{1,220}}[a-z0-9])/([^{UNSEEN}\ud800-\udfff\\]{{1,900}})"
)


class Message(BaseModel):
    """Base of all: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FeatureConfig(Message):
    """Which feature configuration the model was trained with."""

    id: Line = ""
    name: Line = ""


class Dataset(Message):
    """Which data the model was trained on."""

    name: Line = ""
    version: int = 0


class Deploy(Message):
    """How the sender wants the run deployed; fields left out follow the model's policy."""

    when: DeployWhen | None = None
    strategy: Strategy | None = None
    steps_percent: Annotated[tuple[int, ...], Field(max_length=20)] = ()
    over: str = ""
    requested_by: Line = ""
    request_id: RequestId = "auto"

    @field_validator("over")
    @classmethod
    def _over_is_a_duration(cls, over: str) -> str:
        if over:
            parse_duration(over)
        return over


class TrainingCompleted(Message):
    """The message: a finished training run, and optionally how to deploy it."""

    schema_version: int
    model_id: ModelId
    run_number: Annotated[int, Field(ge=1, le=2_147_483_647)]
    artifact_uri: str
    feature_config: FeatureConfig = FeatureConfig()
    dataset: Dataset = Dataset()
    metrics: Annotated[dict[str, float], Field(max_length=100)] = {}
    completed_at: datetime
    deploy: Deploy | None = None

    @field_validator("schema_version")
    @classmethod
    def _version_is_known(cls, version: int) -> int:
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema version {version} is unknown; send {SCHEMA_VERSION}")
        return version

    @field_validator("artifact_uri")
    @classmethod
    def _uri_is_a_plain_folder(cls, uri: str) -> str:
        found = _ARTIFACT_URI.fullmatch(uri)
        if not found:
            raise ValueError("artifact_uri looks like gs://BUCKET/FOLDER")
        if any(part in ("", ".", "..") for part in found[2].rstrip("/").split("/")):
            raise ValueError("artifact_uri must not contain empty parts, '.' or '..'")
        return uri.rstrip("/")

    @field_validator("metrics")
    @classmethod
    def _metrics_are_finite(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
                raise ValueError(f"a metric's name is lower case with underscores, got {name!r}")
            if value != value or abs(value) == float("inf"):
                raise ValueError(f"metric {name} is {value}; it must be a finite number")
        return metrics

    @field_validator("completed_at")
    @classmethod
    def _time_has_a_zone(cls, at: datetime) -> datetime:
        if at.tzinfo is None:
            raise ValueError("completed_at needs a time zone, such as a trailing Z")
        return at

    @property
    def bucket(self) -> str:
        """The bucket of `artifact_uri`."""
        return self.artifact_uri.removeprefix("gs://").split("/", 1)[0]

    @property
    def deployment_id(self) -> str:
        """Derived from model, run and request, so that a redelivery finds the same one."""
        request = self.deploy.request_id if self.deploy else "auto"
        return f"{self.model_id}-{self.run_number}-{request}"


Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[int, Field(ge=0, le=30 * 24 * 3600)]


class Canary(Message):
    """How a stage that bakes is judged: see `domain.policy.CanaryPolicy`."""

    judge: Checking = Checking.GATE
    minimum_requests: Annotated[int, Field(ge=1)] = 200
    warm_up_s: Seconds = 60
    metrics_lag_s: Seconds = 240
    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    error_rate_increase: Share = 0.005
    latency_ratio: Annotated[float, Field(ge=1)] = 1.5
    max_error_rate: Share = 0.05
    max_p95_ms: Annotated[float, Field(gt=0)] | None = None
    inconclusive_for_s: Seconds = 3600
    on_inconclusive: OnInconclusive = OnInconclusive.HOLD
    webhooks: Annotated[tuple[str, ...], Field(max_length=5)] = ()

    @field_validator("webhooks")
    @classmethod
    def _webhooks_are_private(cls, webhooks: tuple[str, ...]) -> tuple[str, ...]:
        for url in webhooks:
            if not _WEBHOOK.fullmatch(url):
                raise ValueError("a webhook is https://NAME/PATH, or http:// on localhost")
        return webhooks


class Skew(Message):
    """What the candidate is asked before any traffic: see `domain.policy.SkewPolicy`."""

    check: Checking = Checking.REPORT
    tolerance: Share = 0.02
    customers: Annotated[int, Field(ge=1, le=100_000)] = 2000
    minimum_coverage: Share | None = None
    maximum_concentration: Share | None = None
    minimum_overlap: Share | None = None


class Hold(Message):
    """Where a person must agree: see `domain.policy.HoldPolicy`."""

    at_percent: tuple[Annotated[int, Field(ge=1, le=99)], ...] = ()
    limit_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] = 24 * 3600


class Policy(Message):
    """What happens to a run whose message does not say, and how its rollout is guarded.

    `guard_metrics` may fall below the live version's by at most so much each. With
    `significance` (a p-value) a gain must also be one, where training gives its results by
    customer. `keep_versions` stay one call away, `keep_artifacts` can be deployed anew.
    """

    when: DeployWhen = DeployWhen.IF_BETTER
    primary_metric: str = "recall_at_100"
    minimum_margin: Annotated[float, Field(ge=0)] = 0.0
    guard_metrics: dict[str, Annotated[float, Field(ge=0)]] = {}
    significance: Annotated[float, Field(gt=0, lt=1)] | None = None
    strategy: Strategy = Strategy.IMMEDIATE
    steps_percent: tuple[int, ...] = (10, 50, 100)
    over: str = "1h"
    canary: Canary = Canary()
    skew: Skew = Skew()
    hold: Hold = Hold()
    superseding: Superseding = Superseding.QUEUE
    drift: Drift = Drift.REPORT
    keep_versions: Annotated[int, Field(ge=1, le=100)] = 5
    keep_artifacts: Annotated[int, Field(ge=1, le=1000)] = 20

    @field_validator("over")
    @classmethod
    def _plan_is_possible(cls, over: str) -> str:
        parse_duration(over)
        return over

    @property
    def rollout(self) -> RolloutPolicy:
        """What a deployment keeps of it."""
        return _policies.validate_python(self.model_dump(include={"canary", "skew", "hold"}))


class Prepare(Message):
    """What is prepared before a revision exists: answers a customer, for whom, by how many tasks.

    With `top_k` 0 the model is only checked; without `customers` all of customers.txt count.
    """

    top_k: Annotated[int, Field(ge=0, le=100)] = 10
    customers: Annotated[int, Field(ge=1)] | None = None
    tasks: Annotated[int, Field(ge=1, le=100)] = 1


class Retrieval(Message):
    """How products are searched, and the recall against exact that an index must reach."""

    kind: RetrievalKind = RetrievalKind.EXACT
    minimum_recall: Annotated[float, Field(ge=0, le=1)] = 0.95


class ModelDeclaration(Message):
    """One model as Terraform's `models` map declares it (Firestore: model_configs/ID).

    `region` is where its service and its job are, for ever; empty: where the pipeline is.
    """

    model_id: ModelId
    image: Annotated[str, Field(min_length=1)]
    service_account: Line
    region: Annotated[str, Field(pattern=REGION)] = ""
    cpu: str = "2"
    memory: str = "4Gi"
    min_instances: Annotated[int, Field(ge=0)] = 1
    max_instances: Annotated[int, Field(ge=1)] = 10
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 80
    startup_timeout_s: Annotated[int, Field(ge=10, le=240)] = 240
    env: dict[str, str] = {}
    golden_customers: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    prepare: Prepare = Prepare()
    retrieval: Retrieval = Retrieval()
    policy: Policy = Policy()

    @property
    def config(self) -> ModelConfig:
        """What a deployment keeps: all but the policy, which its plan followed, and the region."""
        return _configs.validate_python(self.model_dump(exclude={"policy", "region"}))


class StepRequest(Message):
    """What every step of the workflow sends: which deployment, and which execution asks."""

    deployment_id: DeploymentId
    execution: Annotated[str, Field(min_length=1, max_length=500)]


class ClaimDeployment(StepRequest):
    """Take the deployment for one execution."""


class CopyArtifacts(StepRequest):
    """Copy the training artifacts to the serving bucket."""


class PrepareModel(StepRequest):
    """Load the model before any revision exists, and compute its prepared answers."""


class CreateRevision(StepRequest):
    """Create the Cloud Run revision at 0 percent."""


class CheckHealth(StepRequest):
    """Ask the candidate through its tag URL."""


class ShiftTraffic(StepRequest):
    """Give the candidate its next share of traffic."""

    percent: Annotated[int, Field(ge=1, le=100)]


class JudgeCanary(StepRequest):
    """Ask whether the stage that bakes may be left."""


class FinishDeployment(StepRequest):
    """Make the deployment the active one."""


class AbortDeployment(StepRequest):
    """End the rollout after a failure; `error` is what the workflow caught."""

    error: Any = None


class RollBack(Message):
    """Go back to an earlier version; without `version`, to the one before.

    With `check` it is asked first whether it is ready and healthy.
    """

    model_id: ModelId
    version: Annotated[int, Field(ge=1)] | None = None
    check: bool = True
    reason: Line = "no reason given"
    requested_by: Line = ""


class Cancel(Message):
    """Stop a rollout that is running or waiting."""

    deployment_id: DeploymentId
    reason: Line = "no reason given"
    requested_by: Line = ""


class Reconcile(Message):
    """Look for what died half-way; without `model_id`, in every model."""

    model_id: ModelId | None = None


class CollectMetrics(Message):
    """Bring the hourly serving metrics up to date; without `model_id`, of every model."""

    model_id: ModelId | None = None


M = TypeVar("M", bound=Message)


def parse(kind: type[M], body: object) -> M:
    """Return `body` (decoded JSON) as a `kind`; InvalidRequest names each wrong field."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(explain(error)) from None


def explain(error: ValidationError) -> str:
    """Return pydantic's findings as one line, without the values (they may be secret).

    It names fields that the sender may have made up: it stays short, and text.
    """
    said = "; ".join(
        f"{'.'.join(str(part) for part in found['loc']) or 'body'}: {found['msg']}"
        for found in error.errors(include_url=False, include_input=False)
    )
    return "".join(c if c.isprintable() else "\ufffd" for c in said[:EXPLAINED_AT_MOST])


def check_plan(policy: Policy) -> None:
    """ValueError unless the policy's steps and duration make a rollout."""
    plan_rollout(policy.strategy, policy.steps_percent, parse_duration(policy.over))
