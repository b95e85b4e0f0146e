"""Which versions' revisions and artifacts may be cleared away: a decision, nothing is touched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.domain.deployment import Deployment, Status
from shared.domain.model import Model, previous

EVIDENCE_KEPT = timedelta(days=1)
"""How long what a failed or cancelled rollout left is kept, for people to look at."""


@dataclass(frozen=True)
class Expired:
    """Ids of deployments whose revision (with its tag), or whose artifacts, may go."""

    revisions: frozenset[str]
    artifacts: frozenset[str]


def expired(
    model: Model,
    deployments: Sequence[Deployment],
    in_use: Collection[str],
    keep_versions: int,
    keep_artifacts: int,
    now: datetime,
) -> Expired:
    """Return what neither the policy nor anything that runs needs any more.

    `deployments` are all of the model's; `in_use` the revisions that the service names with a
    share of traffic, written or served. Of the versions that served, those that served last
    are kept: `keep_versions` with their revision, `keep_artifacts` with their files. Never
    gone: what is in use, desired or in the snapshot of a rollout; the active version and the
    one that a rollback goes to; what is under way. A revision keeps the artifacts it starts
    from, whichever version they were copied for.
    """
    needed = _needed(model, deployments, in_use)
    served = sorted(
        (found for found in deployments if found.deployed_at),
        key=lambda found: (_served_last(found, now), found.version),
        reverse=True,
    )
    past = [found for found in deployments if _is_past(found, now)]
    old = [*past, *served[keep_versions:]]
    revisions = {found.id for found in old if found.id not in needed}
    old = [*past, *served[keep_artifacts:]]
    artifacts = {found.id for found in old if found.id in revisions}
    pointed_at = {folder_of(found) for found in deployments if found.id not in artifacts}
    return Expired(
        frozenset(revisions),
        frozenset(
            found.id
            for found in deployments
            if found.id in artifacts and own_folder(found) not in pointed_at
        ),
    )


def own_folder(deployment: Deployment) -> str:
    """Return where a version's own artifacts are copied to, below the serving bucket."""
    return f"models/{deployment.model_id}/{deployment.name}/"


def folder_of(deployment: Deployment) -> str:
    """Return the folder whose artifacts it serves: of another version, where it brings it back."""
    folder = own_folder(deployment)
    return folder.replace(f"/{deployment.name}/", f"/v{deployment.origin}/")


def _needed(
    model: Model, deployments: Sequence[Deployment], in_use: Collection[str]
) -> frozenset[str]:
    by_id = {found.id: found for found in deployments}
    active = by_id.get(model.active or "")
    back = previous(active, deployments)
    rolling = [found for found in deployments if found.status is Status.DEPLOYING]
    held = by_id.get(model.lock.deployment_id) if model.lock else None
    revisions = {*in_use, *model.desired}
    for found in [*rolling, *([held] if held else [])]:
        revisions |= set(found.snapshot)
    kept = {found.id for found in rolling}
    kept |= {found.id for found in deployments if found.cloud_run_revision in revisions - {""}}
    kept |= {found.id for found in (active, back, held) if found}
    return frozenset(kept)


def _served_last(deployment: Deployment, now: datetime) -> datetime:
    return now if deployment.status is Status.ACTIVE else deployment.deactivated_at or now


def _is_past(deployment: Deployment, now: datetime) -> bool:
    """Say whether it ended without ever serving, long enough ago."""
    if deployment.deployed_at or deployment.status is Status.DEPLOYING:
        return False
    return (deployment.deactivated_at or deployment.created_at) <= now - EVIDENCE_KEPT
