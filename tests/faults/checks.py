"""What is promised about a model at rest, read from the outside: documents, events, Cloud Run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e.world import ENDED, served, specified, version_of
from tests.faults.rig import MODEL, Rig, Watch


@dataclass(frozen=True)
class Before:
    """The active deployment when the story began, "" for none, and the split."""

    active: str
    split: dict[str, int]

    @classmethod
    def of(cls, rig: Rig) -> Before:
        """Look at the model now."""
        return cls(rig.model().get("active") or "", served(rig.world.service(MODEL)))


def at_rest(rig: Rig, deployment_ids: Iterable[str]) -> bool:
    """True once every rollout has ended, nothing holds the lock and no execution is at work."""
    world = rig.alive()
    found = [world.deployment(deployment_id) for deployment_id in deployment_ids]
    model = rig.model()
    return (
        all(one is not None and one["status"] in ENDED for one in found)
        and model.get("lock") is None
        and model.get("waiting") is None
        and not rig.executions()
        and (not rig.refused or _dead_letter_of(rig) is not None)
    )


def outcome(rig: Rig, deployment_ids: Sequence[str], before: Before) -> str:
    """Return "completed", "as before", or what else it is."""
    model = rig.model()
    active = model.get("active") or ""
    split = served(rig.world.service(MODEL))
    if active in deployment_ids:
        return "completed"
    if active == before.active and split == before.split:
        return "as before"
    return f"{active} is active with {split}, before it was {before.active} with {before.split}"


def states(rig: Rig, deployment_ids: Sequence[str]) -> list[str]:
    """Return every promise that the model at rest breaks."""
    deployments = rig.world.deployments(MODEL)
    about = [one for one in deployments if one["id"] in deployment_ids]
    return [
        *_settled_traffic(rig),
        *_one_active(rig, deployments),
        *_versions(deployments),
        *[
            broken
            for one in about
            for broken in [*_reason(one), *_history(one, rig.world.events(one["id"]))]
        ],
    ]


def watched(rig: Rig, watch: Watch) -> list[str]:
    """Return every promise that was broken while the watch looked."""
    broken = _splits(watch, rig.world.deployments(MODEL))
    broken += [f"a prediction failed: {failure}" for failure in watch.failures()[:3]]
    return broken if watch.requests else [*broken, "no prediction was asked for"]


def _splits(watch: Watch, deployments: Sequence[dict[str, Any]]) -> list[str]:
    """Invariant 1: the sum is always 100, and a share is for who passed the health check."""
    healthy = {one["cloud_run_revision"] for one in deployments if one["healthy"]}
    broken = [
        f"a split that is not 100 %: {split}"
        for split in watch.splits
        if sum(percent for _, percent in split) != 100
    ]
    shares = {share for split in watch.splits for share in split}
    broken += [
        f"{revision} had {percent} % without a passed health check"
        for revision, percent in sorted(shares)
        if revision not in healthy and version_of(revision) != "v0"
    ]
    return broken


def _settled_traffic(rig: Rig) -> list[str]:
    """Desired, written and served are one."""
    service = rig.world.service(MODEL)
    desired = {version_of(name): share for name, share in rig.model().get("desired", {}).items()}
    if served(service) == specified(service) and desired in ({}, served(service)):
        return []
    return [f"{served(service)} is served, {specified(service)} written, {desired} desired"]


def _one_active(rig: Rig, deployments: Sequence[dict[str, Any]]) -> list[str]:
    """Invariant 2, and the active one has the traffic."""
    broken = []
    active = [one for one in deployments if one["status"] == "active"]
    known = rig.model().get("active")
    if [one["id"] for one in active] != ([known] if known else []):
        broken.append(f"{[one['id'] for one in active]} are active, the model says {known}")
    under_way = [one["id"] for one in deployments if one["status"] == "deploying"]
    if under_way:
        broken.append(f"{under_way} are still deploying")
    expected = f"v{active[0]['version']}" if active else "v0"
    split = served(rig.world.service(MODEL))
    if split != {expected: 100}:
        broken.append(f"{split} is served while {expected} is active")
    return broken


def _versions(deployments: Sequence[dict[str, Any]]) -> list[str]:
    """Invariants 3 and 7: one deployment a request, versions that never repeat."""
    broken = []
    versions = [one["version"] for one in deployments]
    if versions != list(range(1, len(versions) + 1)):
        broken.append(f"versions {versions}")
    asked = [(one["training_run"], one["request_id"]) for one in deployments]
    if len(set(asked)) != len(asked):
        broken.append("one request was deployed twice")
    return broken


def _reason(deployment: dict[str, Any]) -> list[str]:
    """Invariant 5: whatever ended says why."""
    if deployment["status"] in ENDED and not deployment["reason"]:
        return [f"{deployment['id']} is {deployment['status']} without a reason"]
    return []


def _history(deployment: dict[str, Any], events: Sequence[dict[str, Any]]) -> list[str]:
    """Invariant 7: every transition once, in order, with who, when and why."""
    moves = [event for event in events if event["after"]]
    chain = ["", *[event["after"] for event in moves]]
    broken = [
        f"{deployment['id']}: {event['before']!r} → {event['after']!r} follows {before!r}"
        for before, event in zip(chain, moves, strict=False)
        if event["before"] != before
    ]
    if chain[-1] != deployment["status"]:
        broken.append(f"{deployment['id']} is {deployment['status']}, its history ends {chain[-1]}")
    broken += [
        f"{deployment['id']}: an event lacks {field}: {event}"
        for event in events
        for field in ("actor", "at", "reason")
        if not event[field]
    ]
    return broken


def _dead_letter_of(rig: Rig) -> dict[str, Any] | None:
    """Invariant 8: what is refused is recorded and in the dead letters."""
    recorded = rig.alive().document(f"refused_messages/{rig.refused}")
    if not recorded or not recorded["reason"]:
        return None
    rig.world.dead_letter(rig.refused)
    return recorded
