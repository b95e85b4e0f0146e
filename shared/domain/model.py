"""A model's rollout lock, fencing token and wanted traffic, and the moves between them.

Every function here takes a `Book`: the documents that one transaction has read and will
write. It runs again from fresh documents when the transaction is retried, so it does
nothing but read and replace values in the book.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from shared.domain.deployment import CAN_BE_RETURNED_TO, Deployment, Event, Status
from shared.domain.policy import Superseding
from shared.domain.traffic import Split, check_split, describe, with_candidate
from shared.errors import Conflict, NothingToRollBackTo, Superseded


class LockKind(StrEnum):
    """What its holder is doing with the model's traffic; UPKEEP leaves it as it is desired."""

    ROLLOUT = "rollout"
    ABORT = "abort"
    ROLLBACK = "rollback"
    UPKEEP = "upkeep"


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
    whoever writes it holds the lock, and reconcile completes what died in between. `drift`
    is the difference that was reported last, "" for none; `collected_at` is when old
    versions were last cleared away.
    """

    id: str
    next_version: int = 1
    token: int = 0
    lock: Lock | None = None
    waiting: str | None = None
    active: str | None = None
    desired: Mapping[str, int] = field(default_factory=dict)
    drift: str = ""
    collected_at: datetime | None = None


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


RECONCILE = "reconcile"
"""The actor of every repair."""

Check = Callable[[Book], None]
"""Looks at the documents of a transaction before it moves anything; raises to refuse."""


def unchecked(_: Book) -> None:
    """Refuse nothing."""


def enter(
    book: Book, wanted: Deployment, why: str, superseding: Superseding = Superseding.QUEUE
) -> Deployment:
    """Create `wanted` with the next version and give it the lock, or let it wait its turn.

    The id says which request this is, so a second call finds the first document and
    changes nothing. Of the runs that wait, the newest stays; the others are cancelled.
    With `replace` a newer run also ends the rollout under way, whose abort then has to be
    completed; not one that brings an earlier version back, for a person asked for that.
    """
    if found := book.find(wanted.id):
        return found
    made = _create(book, wanted, why)
    lock = book.model.lock
    if lock is None:
        return _take_turn(book, made, made.created_at)
    other = book.find(book.model.waiting) if book.model.waiting else None
    if other and (other.training_run > made.training_run or other.redeploys):
        return _end(book, made, Status.CANCELLED, made.created_at, "pipeline", _passed_by(other))
    if other:
        _end(book, other, Status.CANCELLED, made.created_at, "pipeline", _passed_by(made))
    _wait(book, made)
    rolling = book.find(lock.deployment_id)
    if (
        superseding is Superseding.REPLACE
        and rolling
        and not rolling.redeploys
        and rolling.training_run < made.training_run
    ):
        why = f"replaced by run {made.training_run}"
        abort(book, rolling.id, Status.CANCELLED, made.created_at, "pipeline", why)
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
    Once a person skipped the stages, the next share is all of the traffic. Each stage is
    judged, held and approved by itself, so what was said of the one before is forgotten.
    """
    deployment = book.deployment(deployment_id)
    holds(book, deployment)
    if not deployment.healthy:
        raise Conflict(f"{deployment_id!r} has not passed its health check; it gets no traffic")
    if deployment.skipped:
        percent = 100
    if percent <= deployment.traffic_percent:
        # A repeat; or the late one of a call that timed out, whose second try came further.
        return deployment
    wanted = with_candidate(deployment.snapshot, deployment.cloud_run_revision, percent)
    book.model = replace(book.model, desired=wanted)
    moved = replace(
        deployment,
        traffic_percent=percent,
        stage_started_at=at,
        approved=False,
        holding_since=None,
        judgement={},
    )
    book.put(moved)
    _note(book, moved, at, "pipeline", "traffic wanted", describe(wanted), traffic=wanted)
    return moved


def finish(book: Book, deployment_id: str, at: datetime) -> Deployment | None:
    """Make the deployment the active one; return the one that has its turn now.

    A repeat finds that it was active already, also where a newer version took over since,
    and changes nothing.
    """
    deployment = book.deployment(deployment_id)
    if deployment.status is Status.ACTIVE or deployment.status in CAN_BE_RETURNED_TO:
        lock = book.model.lock
        return book.find(lock.deployment_id) if lock and lock.kind is LockKind.ROLLOUT else None
    holds(book, deployment)
    if dict(book.model.desired) != {deployment.cloud_run_revision: 100}:
        raise Conflict(f"{deployment_id!r} does not have all of the traffic yet")
    before = book.find(book.model.active) if book.model.active else None
    if before:
        # What a person goes back from is bad, also where the way back was another deployment.
        # Where its own revision was lost, the version that is brought back is none the worse.
        bad = deployment.redeploys not in (None, before.origin)
        left = Status.ROLLED_BACK if bad else Status.INACTIVE
        _end(book, before, left, at, "pipeline", f"{deployment.name} took over")
    _end(book, deployment, Status.ACTIVE, at, "pipeline", "all steps passed")
    book.model = replace(book.model, active=deployment.id)
    return release(book, at)


def pause(
    book: Book, deployment_id: str, at: datetime, actor: str, reason: str, source: str = ""
) -> Deployment:
    """Keep the rollout at its stage until `resume`, `approve` or `skip`.

    A stage that waited for a person has one now: the time it may hold begins anew after
    the pause. A repeat changes nothing.
    """
    deployment = book.deployment(deployment_id)
    said = replace(deployment, paused=True, holding_since=None)
    return _say(book, deployment, said, "paused", at, actor, reason, source)


def resume(
    book: Book, deployment_id: str, at: datetime, actor: str, reason: str, source: str = ""
) -> Deployment:
    """Let a paused rollout go on once its stage has baked. A repeat changes nothing."""
    deployment = book.deployment(deployment_id)
    said = replace(deployment, paused=False)
    return _say(book, deployment, said, "resumed", at, actor, reason, source)


def approve(
    book: Book,
    deployment_id: str,
    at: datetime,
    actor: str,
    reason: str,
    source: str = "",
    percent: int | None = None,
) -> Deployment:
    """Let the rollout go on to its next stage now. A repeat within a stage changes nothing.

    `percent` is the share of traffic that the person saw: Conflict where it is another by now,
    so that a second approval, or a late one, is no word on a stage that nobody looked at.
    Without it only a stage that waits for a person can be meant.
    """
    deployment = book.deployment(deployment_id)
    if deployment.stage_started_at is None:
        raise Conflict(f"{deployment_id!r} has no traffic yet: there is no stage to approve")
    holds(book, deployment)
    is_at = f"{deployment_id!r} is at {deployment.traffic_percent} %"
    if percent is None and deployment.holding_since is None:
        raise Conflict(
            f"{is_at} and waits for nobody; to let it go on early, say what it is at "
            f"(--at {deployment.traffic_percent}; in the API, `percent`)"
        )
    if percent not in (None, deployment.traffic_percent):
        raise Conflict(f"{is_at} by now, not at {percent} %; nothing was approved: look again")
    said = replace(deployment, paused=False, approved=True)
    return _say(book, deployment, said, "approved", at, actor, reason, source)


def skip(
    book: Book, deployment_id: str, at: datetime, actor: str, reason: str, source: str = ""
) -> Deployment:
    """Let the rollout go on to all of the traffic now. A repeat changes nothing."""
    deployment = book.deployment(deployment_id)
    if deployment.stage_started_at is None:
        raise Conflict(f"{deployment_id!r} has no traffic yet: there is no stage to skip")
    said = replace(deployment, paused=False, skipped=True)
    return _say(book, deployment, said, "skipped", at, actor, reason, source)


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
    target = _returnable(book, target_id)
    if target.revision_gone:
        raise Conflict(f"the revision of {target.name} was just cleared away; ask again")
    for other in under_way(book):
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


def redeploy(
    book: Book,
    target_id: str,
    wanted: Deployment,
    at: datetime,
    actor: str,
    reason: str,
    source: str = "",
) -> Deployment:
    """Create `wanted`, which brings a version back whose revision is gone; return it.

    Rollouts that run or wait are cancelled, and their traffic goes back before it has its
    turn. The same id finds the first one; Conflict where that has ended.
    """
    target = _returnable(book, target_id)
    if found := book.find(wanted.id):
        if found.status is not Status.DEPLOYING:
            raise Conflict(f"{found.name} brought {target.name} back and is {found.status} now")
        return found
    if target.artifacts_gone:
        raise Conflict(f"the artifacts of {target.name} were just cleared away; ask again")
    for other in under_way(book):
        why = f"{target.name} is deployed again by {actor}: {reason}"
        abort(book, other.id, Status.CANCELLED, at, actor, why, source)
    made = _create(book, wanted, f"to go back to {target.name}: {reason}", source)
    return _wait(book, made) if book.model.lock else _take_turn(book, made, at)


def under_way(book: Book) -> list[Deployment]:
    """Return the rollout that holds the lock and the one that waits, where there are any."""
    model = book.model
    ids = {model.waiting, model.lock.deployment_id if model.lock else None} - {None}
    found = [book.find(one) for one in sorted(filter(None, ids))]
    return [one for one in found if one and one.status is Status.DEPLOYING]


def previous(active: Deployment | None, deployments: Sequence[Deployment]) -> Deployment | None:
    """Return what a rollback without a name goes to, or None.

    The version earlier than the active one that was live last. One that was rolled back from
    is known to be bad. One that brought a version back counts as that version.
    """
    if active is None:
        return None
    earlier = [
        found
        for found in deployments
        if found.status is Status.INACTIVE and found.origin < active.origin
    ]
    return max(earlier, key=lambda found: found.deactivated_at or found.created_at, default=None)


def keep_up(book: Book, deployment_id: str, at: datetime) -> Lock | None:
    """Take the lock to write the traffic that is desired already; None while another has it.

    A new token, so that whoever is slower fails; it is completed as an abort is.
    """
    model = book.model
    if model.lock or not model.desired:
        return None
    lock = Lock(LockKind.UPKEEP, deployment_id, model.token + 1, at)
    book.model = replace(model, token=lock.token, lock=lock)
    return lock


def put_back(book: Book, seen: Model, about: str, why: str, at: datetime) -> Lock | None:
    """Take the lock to write the desired traffic over a change made by hand, and say so.

    It is recorded on the deployment `about`. None where something else runs by now, or moved
    the model since it was `seen`: that is left alone.
    """
    if book.model.active != seen.active or dict(book.model.desired) != dict(seen.desired):
        return None
    lock = keep_up(book, about, at)
    if lock:
        note(book, about, at, RECONCILE, "traffic put back", why)
    return lock


def note_drift(book: Book, seen: Model, about: str, found: str, at: datetime) -> None:
    """Remember the drift that was found beside the model as it was `seen`, and record it.

    It is recorded on the deployment `about`; nothing where the model moved since: the next
    look sees what is true then.
    """
    if book.model != seen:
        return
    book.model = replace(seen, drift=found)
    if found:
        note(book, about, at, RECONCILE, "drift found", found)


def note(book: Book, deployment_id: str, at: datetime, actor: str, action: str, why: str) -> None:
    """Record what was done about a deployment from outside; nothing where there is none."""
    if deployment := book.find(deployment_id):
        _note(book, deployment, at, actor, action, why)


def mark_lost(book: Book, ids: Collection[str], served: Split, at: datetime, actor: str) -> None:
    """Mark deployments whose revisions went with their service. A repeat changes nothing.

    What was desired, or would be restored, can be served no more: what the new service serves
    takes its place.
    """
    lost = set()
    for one in ids:
        found = book.deployment(one)
        lost.add(found.cloud_run_revision)
        if not found.revision_gone:
            book.put(replace(found, revision_gone=True))
            note(book, one, at, actor, "revision lost", f"{found.cloud_run_revision} is gone")
    for rolling in under_way(book):
        if lost & set(rolling.snapshot):
            book.put(replace(rolling, snapshot=dict(served)))
    if lost & set(book.model.desired):
        book.model = replace(book.model, desired=dict(served), drift="")


def is_tidy(model: Model, deploying: Sequence[Deployment]) -> bool:
    """Say whether lock, waiting run and the deployments that are deploying agree."""
    held = model.lock.deployment_id if model.lock else None
    rolling = {found.id for found in deploying if not found.waiting}
    waiting = {found.id for found in deploying if found.waiting}
    owner = {held} if model.lock and model.lock.kind is LockKind.ROLLOUT else set()
    return (
        rolling == owner
        and waiting == ({model.waiting} if model.waiting else set())
        and not (model.waiting and model.lock is None)
    )


def tidy(book: Book, deploying: Collection[str], at: datetime) -> list[str]:
    """Make lock, waiting run and deployments agree; return what was done, in words.

    `deploying` are the ids of those that were seen deploying. A lock without its rollout
    becomes an abort's, to be completed; a rollout without the lock fails; of the runs that
    wait the newest stays, and has its turn where the lock is free.
    """
    done: list[str] = []
    lock = book.model.lock
    owner = book.find(lock.deployment_id) if lock else None
    alive = owner is not None and owner.status is Status.DEPLOYING
    if lock and lock.kind is LockKind.ROLLOUT and not alive:
        what = f"it is {owner.status}" if owner else "it is gone"
        done.append(f"took the lock from {lock.deployment_id}: {what}")
        _take_back(book, lock, owner, done[-1], at)
    held = lock.deployment_id if lock else None
    waiting = []
    for one in sorted({*deploying, *filter(None, [book.model.waiting])}):
        found = book.find(one)
        if found and found.waiting:
            waiting.append(found)
        elif found and found.status is Status.DEPLOYING and one != held:
            why = "it rolled out without holding the model's lock"
            _end(book, found, Status.FAILED, at, RECONCILE, why)
            done.append(f"ended {one}: {why}")
    waiting.sort(key=lambda found: (found.redeploys is not None, found.training_run, found.version))
    for passed in waiting[:-1]:
        _end(book, passed, Status.CANCELLED, at, RECONCILE, _passed_by(waiting[-1]))
        done.append(f"ended {passed.id}: {_passed_by(waiting[-1])}")
    if (newest := waiting[-1].id if waiting else None) != book.model.waiting:
        done.append(f"{newest or 'nothing'} waits, where {book.model.waiting or 'nothing'} did")
        note(book, newest or book.model.waiting or "", at, RECONCILE, "repaired", done[-1])
        book.model = replace(book.model, waiting=newest)
    if newest and book.model.lock is None:
        done.append(f"gave {newest} its turn: the lock was free")
        note(book, newest, at, RECONCILE, "repaired", done[-1])
        release(book, at)
    return done


def release(book: Book, at: datetime) -> Deployment | None:
    """Free the lock, or hand it to the run that waits; return that one, to be started."""
    next_id = book.model.waiting
    book.model = replace(book.model, lock=None, waiting=None)
    waiting = book.find(next_id) if next_id else None
    return _take_turn(book, waiting, at) if waiting and waiting.waiting else None


def _create(book: Book, wanted: Deployment, why: str, source: str = "") -> Deployment:
    model = book.model
    made = replace(wanted, version=model.next_version)
    book.model = replace(model, next_version=model.next_version + 1)
    _note(
        book,
        made,
        made.created_at,
        made.deployed_by,
        "requested",
        why,
        after=made.status,
        source=source,
    )
    return made


def _wait(book: Book, deployment: Deployment) -> Deployment:
    book.put(deployment)
    book.model = replace(book.model, waiting=deployment.id)
    return deployment


def _returnable(book: Book, target_id: str) -> Deployment:
    target = book.deployment(target_id)
    if target.status not in CAN_BE_RETURNED_TO and target.id != book.model.active:
        raise Conflict(f"{target.name} is {target.status}: only a version that served can return")
    return target


def _take_back(book: Book, lock: Lock, owner: Deployment | None, why: str, at: datetime) -> None:
    """Make an orphan's lock an abort's, which wants what is safe: the active version."""
    model = book.model
    active = book.find(model.active) if model.active else None
    before = dict(owner.snapshot) if owner else {}
    desired = {active.cloud_run_revision: 100} if active else before or model.desired
    token = model.token + 1
    book.model = replace(
        model,
        token=token,
        lock=Lock(LockKind.ABORT, lock.deployment_id, token, at),
        desired=desired,
    )
    note(book, owner.id if owner else model.active or "", at, RECONCILE, "repaired", why)


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
    if other.redeploys:
        return f"{other.name} brings v{other.redeploys} back and takes the next turn"
    return f"run {other.training_run} is newer and takes the next turn"
