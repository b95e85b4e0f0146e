"""A model's rollout lock, fencing token and wanted traffic, and the moves between them.

Every function here takes a `Book`: the documents that one transaction has read and will
write. It runs again from fresh documents when the transaction is retried, so it does
nothing but read and replace values in the book.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from shared.domain.deployment import CAN_BE_RETURNED_TO, Deployment, Event, Status
from shared.domain.traffic import Split, check_split, describe, with_candidate
from shared.errors import Conflict, NothingToRollBackTo, Superseded


class LockKind(StrEnum):
    """What its holder is doing with the model's traffic."""

    ROLLOUT = "rollout"
    ABORT = "abort"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Lock:
    """Who may change the model's traffic; only the holder of the newest token may."""

    kind: LockKind
    deployment_id: str
    token: int
    taken_at: datetime


@dataclass(frozen=True)
class Model:
    """The pipeline's state of one model. `token` only grows; versions never repeat.

    `desired` is the split that Cloud Run should serve (empty until the first rollout);
    whoever writes it holds the lock, and reconcile completes what died in between.
    """

    id: str
    next_version: int = 1
    token: int = 0
    lock: Lock | None = None
    waiting: str | None = None
    active: str | None = None
    desired: Mapping[str, int] = field(default_factory=dict)


class Book(Protocol):
    """The documents of one transaction: read on demand, written together at its end."""

    model: Model

    def deployment(self, deployment_id: str) -> Deployment:
        """Return a deployment as this transaction sees it; NotFound where there is none."""
        ...

    def find(self, deployment_id: str) -> Deployment | None:
        """Return a deployment, or None."""
        ...

    def put(self, deployment: Deployment) -> None:
        """Write it when the transaction commits."""
        ...

    def record(self, event: Event) -> None:
        """Append to the deployment's history when the transaction commits."""
        ...


Check = Callable[[Book], None]
"""Looks at the documents of a transaction before it moves anything; raises to refuse."""


def unchecked(_: Book) -> None:
    """Refuse nothing."""


def enter(book: Book, wanted: Deployment, why: str) -> Deployment:
    """Create `wanted` with the next version and give it the lock, or let it wait its turn.

    The id says which request this is, so a second call finds the first document and
    changes nothing. Of the runs that wait, the newest stays; the others are cancelled.
    """
    if found := book.find(wanted.id):
        return found
    model = book.model
    made = replace(wanted, version=model.next_version)
    book.model = replace(model, next_version=model.next_version + 1)
    _note(book, made, made.created_at, made.deployed_by, "requested", why, after=made.status)
    if model.lock is None:
        return _take_turn(book, made, made.created_at)
    other = book.find(model.waiting) if model.waiting else None
    if other and other.training_run > made.training_run:
        return _end(book, made, Status.CANCELLED, made.created_at, "pipeline", _passed_by(other))
    if other:
        _end(book, other, Status.CANCELLED, made.created_at, "pipeline", _passed_by(made))
    book.put(made)
    book.model = replace(book.model, waiting=made.id)
    return made


def holds(book: Book, deployment: Deployment) -> None:
    """Superseded unless `deployment` runs the model's rollout under the newest token."""
    lock = book.model.lock
    if (
        lock is None
        or lock.kind is not LockKind.ROLLOUT
        or lock.deployment_id != deployment.id
        or deployment.token != book.model.token
        or deployment.status is not Status.DEPLOYING
    ):
        raise Superseded(book.model.id, deployment.token, book.model.token)


def claim(book: Book, deployment_id: str, execution: str, actual: Split, at: datetime) -> bool:
    """Give the deployment to one workflow execution; False where another one has it.

    `actual` is the traffic before the rollout: an abort goes back to exactly that.
    """
    deployment = book.deployment(deployment_id)
    if deployment.execution == execution and deployment.status is Status.DEPLOYING:
        return True
    if deployment.execution or deployment.status is not Status.DEPLOYING:
        return False
    holds(book, deployment)
    snapshot = check_split(actual)
    if book.model.desired and dict(book.model.desired) != snapshot:
        _note(
            book,
            deployment,
            at,
            "pipeline",
            "drift found",
            f"{describe(snapshot)} is served, {describe(book.model.desired)} was expected",
        )
    book.model = replace(book.model, desired=snapshot)
    book.put(replace(deployment, execution=execution, snapshot=snapshot))
    _note(book, deployment, at, "pipeline", "started", f"execution {execution}", traffic=snapshot)
    return True


def shift(book: Book, deployment_id: str, percent: int, at: datetime) -> Deployment:
    """Want `percent` of traffic on the candidate; the rest stays where the snapshot had it.

    A rollout only goes forward: where the candidate has as much already, nothing changes.
    """
    deployment = book.deployment(deployment_id)
    holds(book, deployment)
    if not deployment.healthy:
        raise Conflict(f"{deployment_id!r} has not passed its health check; it gets no traffic")
    if percent <= deployment.traffic_percent:
        # A repeat; or the late one of a call that timed out, whose second try came further.
        return deployment
    wanted = with_candidate(deployment.snapshot, deployment.cloud_run_revision, percent)
    book.model = replace(book.model, desired=wanted)
    moved = replace(deployment, traffic_percent=percent, stage_started_at=at, approved=False)
    book.put(moved)
    _note(book, moved, at, "pipeline", "traffic wanted", describe(wanted), traffic=wanted)
    return moved


def finish(book: Book, deployment_id: str, at: datetime) -> Deployment | None:
    """Make the deployment the active one; return the waiting one that has its turn now.

    A repeat finds it active already and changes nothing.
    """
    deployment = book.deployment(deployment_id)
    if deployment.status is Status.ACTIVE:
        lock = book.model.lock
        return book.find(lock.deployment_id) if lock and lock.kind is LockKind.ROLLOUT else None
    holds(book, deployment)
    if dict(book.model.desired) != {deployment.cloud_run_revision: 100}:
        raise Conflict(f"{deployment_id!r} does not have all of the traffic yet")
    before = book.find(book.model.active) if book.model.active else None
    if before:
        _end(book, before, Status.INACTIVE, at, "pipeline", f"{deployment.name} took over")
    _end(book, deployment, Status.ACTIVE, at, "pipeline", "all steps passed")
    book.model = replace(book.model, active=deployment.id)
    return release(book, at)


def pause(
    book: Book, deployment_id: str, at: datetime, actor: str, reason: str, source: str = ""
) -> Deployment:
    """Keep the rollout at its stage until `resume` or `approve`. A repeat changes nothing."""
    deployment = book.deployment(deployment_id)
    said = replace(deployment, paused=True)
    return _say(book, deployment, said, "paused", at, actor, reason, source)


def resume(
    book: Book, deployment_id: str, at: datetime, actor: str, reason: str, source: str = ""
) -> Deployment:
    """Let a paused rollout go on once its stage has baked. A repeat changes nothing."""
    deployment = book.deployment(deployment_id)
    said = replace(deployment, paused=False)
    return _say(book, deployment, said, "resumed", at, actor, reason, source)


def approve(
    book: Book, deployment_id: str, at: datetime, actor: str, reason: str, source: str = ""
) -> Deployment:
    """Let the rollout go on to its next stage now. A repeat within a stage changes nothing."""
    deployment = book.deployment(deployment_id)
    if deployment.stage_started_at is None:
        raise Conflict(f"{deployment_id!r} has no traffic yet: there is no stage to approve")
    said = replace(deployment, paused=False, approved=True)
    return _say(book, deployment, said, "approved", at, actor, reason, source)


def abort(
    book: Book,
    deployment_id: str,
    after: Status,
    at: datetime,
    actor: str,
    reason: str,
    source: str = "",
) -> bool:
    """End the rollout and want its snapshot back; False where it ended already.

    Takes a new token, so that a slow step of the same rollout can no longer write. The
    lock stays, as an abort's, until the traffic is back: see `release`.
    """
    deployment = book.deployment(deployment_id)
    if deployment.status is not Status.DEPLOYING:
        return False
    _end(book, deployment, after, at, actor, reason, source)
    if deployment.waiting:
        if book.model.waiting == deployment.id:
            book.model = replace(book.model, waiting=None)
        return True
    holds_lock = book.model.lock is not None and book.model.lock.deployment_id == deployment.id
    if holds_lock:
        token = book.model.token + 1
        book.model = replace(
            book.model,
            token=token,
            lock=Lock(LockKind.ABORT, deployment.id, token, at),
            desired=deployment.snapshot or book.model.desired,
        )
    return True


def roll_back(
    book: Book,
    target_id: str | None,
    at: datetime,
    actor: str,
    reason: str,
    source: str = "",
) -> Deployment:
    """Want all traffic on an earlier version, over any rollout that is running; return it.

    Takes a new token before anything else is touched. What was deploying is cancelled,
    what waited too (a person is going back; nothing may follow by itself), the version
    that is left becomes rolled_back. Repeating it changes no status and writes again.
    """
    model = book.model
    if target_id is None:
        raise NothingToRollBackTo(model.id)
    target = book.deployment(target_id)
    if target.status not in CAN_BE_RETURNED_TO and target.id != model.active:
        raise Conflict(f"{target.name} is {target.status}: only a version that served can return")
    under_way = {model.waiting, model.lock.deployment_id if model.lock else None} - {None}
    for other_id in sorted(filter(None, under_way)):
        other = book.find(other_id)
        if other and other.status is Status.DEPLOYING:
            why = f"rolled back to {target.name} by {actor}: {reason}"
            _end(book, other, Status.CANCELLED, at, actor, why, source)
    if model.active and model.active != target.id:
        left = book.deployment(model.active)
        _end(book, left, Status.ROLLED_BACK, at, actor, f"to {target.name}: {reason}", source)
    if target.status is not Status.ACTIVE:
        why = f"rolled back to: {reason}"
        target = _end(book, target, Status.ACTIVE, at, actor, why, source)
    token = book.model.token + 1
    wanted = {target.cloud_run_revision: 100}
    book.model = replace(
        book.model,
        token=token,
        lock=Lock(LockKind.ROLLBACK, target.id, token, at),
        waiting=None,
        active=target.id,
        desired=wanted,
    )
    _note(book, target, at, actor, "rollback", reason, traffic=wanted, source=source)
    return target


def release(book: Book, at: datetime) -> Deployment | None:
    """Free the lock, or hand it to the run that waits; return that one, to be started."""
    next_id = book.model.waiting
    book.model = replace(book.model, lock=None, waiting=None)
    waiting = book.find(next_id) if next_id else None
    return _take_turn(book, waiting, at) if waiting and waiting.waiting else None


def _take_turn(book: Book, deployment: Deployment, at: datetime) -> Deployment:
    token = book.model.token + 1
    turned = replace(deployment, token=token)
    book.put(turned)
    book.model = replace(
        book.model, token=token, lock=Lock(LockKind.ROLLOUT, deployment.id, token, at)
    )
    return turned


def _say(
    book: Book,
    deployment: Deployment,
    said: Deployment,
    action: str,
    at: datetime,
    actor: str,
    reason: str,
    source: str,
) -> Deployment:
    holds(book, deployment)
    if said != deployment:
        book.put(said)
        _note(book, said, at, actor, action, reason, source=source)
    return said


def _end(
    book: Book,
    deployment: Deployment,
    after: Status,
    at: datetime,
    actor: str,
    reason: str,
    source: str = "",
) -> Deployment:
    moved = deployment.become(after, at, reason)
    book.put(moved)
    before = deployment.status
    _note(book, moved, at, actor, after.value, reason, before=before, after=after, source=source)
    return moved


def _note(
    book: Book,
    deployment: Deployment,
    at: datetime,
    actor: str,
    action: str,
    reason: str,
    *,
    before: str = "",
    after: str = "",
    traffic: Mapping[str, int] | None = None,
    source: str = "",
) -> None:
    book.record(
        Event(
            deployment.id,
            deployment.model_id,
            at,
            actor,
            action,
            reason,
            str(before),
            str(after),
            dict(traffic or {}),
            source,
        )
    )


def _passed_by(other: Deployment) -> str:
    return f"run {other.training_run} is newer and takes the next turn"
