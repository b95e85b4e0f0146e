"""What Cloud Run and the serving bucket tell of a model, without any document."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from shared.domain.deployment import Deployment, ModelConfig, RetrievalKind, Status
from shared.domain.marks import DEPLOYMENT, REQUESTED_BY, metrics_of
from shared.domain.policy import RolloutPolicy
from shared.domain.rollout import Strategy, plan_rollout
from shared.domain.traffic import Split
from shared.errors import Conflict

OF_THE_PIPELINE = frozenset(
    {
        "MODEL_ID",
        "MODEL_PATH",
        "MODEL_VERSION",
        "MODEL_DIGEST",
        "TRAINING_RUN",
        "RETRIEVAL",
        "PREPARED_DIGEST",
        "TRACEPARENT",
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    }
)
"""Variables of a revision that the pipeline sets; the others are the model's configuration."""


@dataclass(frozen=True)
class RevisionFacts:
    """What Cloud Run keeps of a revision: how it was made, and when."""

    name: str
    created_at: datetime
    image: str
    service_account: str
    cpu: str
    memory: str
    max_instances: int
    concurrency: int
    startup_timeout_s: int
    env: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reality:
    """What Cloud Run and the serving bucket say of one model.

    `split` is what is served, `token` and `lived` are the service's marks; `folders` are the
    versions whose artifacts are there, `sources` where those were copied from.
    """

    service: str
    url: str
    split: Split
    token: int
    lived: tuple[int, ...]
    revisions: Sequence[RevisionFacts]
    folders: Collection[int]
    sources: Mapping[int, str]


def by_version(reality: Reality) -> dict[int, RevisionFacts]:
    """Return the pipeline's revisions, of each version the one with traffic, or the newest."""
    found: dict[int, RevisionFacts] = {}
    for one in sorted(reality.revisions, key=lambda one: (one.name in reality.split, one.name)):
        version = number_of(one.name, reality.service)
        if version and one.env.get("MODEL_VERSION") == f"v{version}":
            found[version] = one
    return found


def serving_version(reality: Reality, facts: Mapping[int, RevisionFacts]) -> int:
    """Return the version with the largest share, 0 for the empty v0 that came with the service."""
    shares = {number_of(name, reality.service): share for name, share in reality.split.items()}
    strange = [name for name in reality.split if not _is_known(name, reality.service, facts)]
    if strange or not shares:
        raise Conflict(
            f"{', '.join(sorted(strange)) or 'nothing'} serves {reality.service!r}, which the "
            "pipeline did not make; give the traffic to one of its versions, then recover again"
        )
    return max(shares, key=lambda version: (shares[version], -(version or 0))) or 0


def _is_known(revision: str, service: str, facts: Mapping[int, RevisionFacts]) -> bool:
    version = number_of(revision, service)
    return version == 0 or version in facts


def versions_that_lived(
    reality: Reality, facts: Mapping[int, RevisionFacts], active: int
) -> dict[int, Status]:
    """Return the versions that once had traffic, in the order of its end, and their status.

    One that an earlier version came after was gone back from. The order is all that is known.
    """
    sharing = [number_of(name, reality.service) or 0 for name in reality.split]
    order = [version for version in reality.lived if version not in sharing]
    order += [*sorted(version for version in sharing if version and version != active), active]

    def origin(version: int) -> int:
        path = facts[version].env.get("MODEL_PATH", "") if version in facts else ""
        return _folder(path) or version

    found = {}
    for version, after in zip(order, [*order[1:], None], strict=True):
        gone = version not in sharing
        back = gone and after is not None and after > 0 and origin(after) < origin(version)
        found[version] = Status.ROLLED_BACK if back else Status.INACTIVE
    found[active] = Status.ACTIVE
    return found


def rebuilt(
    facts: RevisionFacts,
    version: int,
    reality: Reality,
    declared: ModelConfig,
    policy: RolloutPolicy,
    at: datetime,
) -> Deployment:
    """Return a deployment as its revision and its artifacts tell of it.

    Who asked, the metrics and the id are the revision's marks. Steps, judgements and the
    report on its answers are lost. Without marks the id says so, and no message finds it.
    """
    env, marks = facts.env, facts.annotations
    run = int(env.get("TRAINING_RUN", "0"))
    origin = _folder(env.get("MODEL_PATH", "")) or version
    metrics = metrics_of(marks)
    prefix = f"{declared.model_id}-{run}-"
    found = marks.get(DEPLOYMENT, "")
    deployment_id = found if found.startswith(prefix) else prefix + unmarked(version)
    return Deployment(
        id=deployment_id,
        model_id=declared.model_id,
        version=version,
        training_run=run,
        request_id=deployment_id.removeprefix(prefix),
        artifact_uri=reality.sources.get(origin, ""),
        config=_config(facts, declared),
        plan=plan_rollout(Strategy.IMMEDIATE, (), 0),
        deployed_by=marks.get(REQUESTED_BY, "") or "unknown",
        created_at=facts.created_at,
        policy=policy,
        status=Status.FAILED,
        reason="it never had all of the traffic",
        deactivated_at=at,
        metrics=metrics,
        recall_at_100=metrics.get("recall_at_100"),
        recall_at_50=metrics.get("recall_at_50"),
        recall_at_10=metrics.get("recall_at_10"),
        redeploys=None if origin == version else origin,
    )


def _config(facts: RevisionFacts, declared: ModelConfig) -> ModelConfig:
    """Return the configuration that the revision was made of; Cloud Run keeps most of it."""
    others = {name: value for name, value in facts.env.items() if name not in OF_THE_PIPELINE}
    kind = RetrievalKind(facts.env.get("RETRIEVAL", RetrievalKind.EXACT))
    return replace(
        declared,
        image=facts.image,
        service_account=facts.service_account,
        cpu=facts.cpu,
        memory=facts.memory,
        max_instances=facts.max_instances,
        concurrency=facts.concurrency,
        startup_timeout_s=facts.startup_timeout_s,
        env=others,
        retrieval=replace(declared.retrieval, kind=kind),
    )


def unmarked(version: int) -> str:
    return f"recovered-v{version}"


def number_of(revision: str, service: str) -> int | None:
    """Return the version of a revision of the pipeline's, None of any other."""
    found = re.fullmatch(rf"{re.escape(service)}-v([0-9]+)-[0-9]+", revision)
    return int(found[1]) if found else None


def _folder(path: str) -> int | None:
    """Return the version whose folder an artifact path is."""
    found = re.fullmatch(r"gs://[^/]+/models/[^/]+/v([0-9]+)/", path)
    return int(found[1]) if found else None
