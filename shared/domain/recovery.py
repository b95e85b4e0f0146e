"""Documents that are older than reality, or lost: told from what Cloud Run serves.

After Firestore was restored to an earlier time, Cloud Run has the newer truth: the service's
annotation holds a higher fencing token than the model's document, revisions exist of versions
that the documents do not know, and another version may have the traffic. Nothing may move
traffic by such documents: `check_current` refuses. `recover` corrects them, in one transaction
like every other move of a model, and asks for no other traffic than what is served.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from shared.domain.deployment import (
    CAN_BE_RETURNED_TO,
    Deployment,
    Event,
    ModelConfig,
    Status,
    Step,
    StepState,
)
from shared.domain.model import Book, Lock, LockKind, Model
from shared.domain.policy import RolloutPolicy
from shared.domain.remains import (
    Reality,
    RevisionFacts,
    by_version,
    number_of,
    rebuilt,
    serving_version,
    unmarked,
    versions_that_lived,
)
from shared.domain.traffic import Split, describe
from shared.errors import StateIsOlder


def check_current(model: Model, token_served: int) -> None:
    """StateIsOlder where the service was written under a token that the document never gave.

    Tokens are given by the document, then written to the service: read in the opposite order,
    the service's can only be higher where the document was restored to an earlier time.
    """
    if token_served > model.token:
        seen = f"token {model.token}, and the service was written under {token_served}"
        raise StateIsOlder(model.id, seen)


def finished_unseen(model: Model, rolling: Deployment | None, state: str, split: Split) -> bool:
    """Say whether the rollout that holds the lock has ended well, and its document is older.

    A rollout has one token from its start to its end, so the token cannot tell. An execution
    succeeds only after the version became active; `state` is that of the claimed one.
    """
    return (
        model.lock is not None
        and model.lock.kind is LockKind.ROLLOUT
        and rolling is not None
        and rolling.status is Status.DEPLOYING
        and state == "SUCCEEDED"
        and [number_of(name, rolling.config.service) for name in split] == [rolling.version]
    )


def recover(
    book: Book,
    reality: Reality,
    known: Collection[str],
    declared: ModelConfig,
    policy: RolloutPolicy,
    at: datetime,
    actor: str,
) -> list[str]:
    """Correct the model's documents to what is served, and take the lock; return what was done.

    `known` are the ids of its deployments. The active version becomes the one with the largest
    share of the traffic (the earlier of two); what lived before can be returned to, what rolled
    out or waited has ended. Missing documents are made anew from revision and artifacts. Token
    and next version end above all that Cloud Run, the bucket or a document names. The state
    machine's transitions do not bind here: nothing happens to a deployment, only its record is
    corrected. Conflict where what serves was not made by the pipeline.
    """
    facts = by_version(reality)
    active = serving_version(reality, facts)
    lived = versions_that_lived(reality, facts, active)
    records = [book.deployment(one) for one in sorted(known)]
    done = _floor(book, reality, records)
    made = {
        version: rebuilt(found, version, reality, declared, policy, at)
        for version, found in sorted(facts.items())
    }
    theirs = {one.version: one for one in records if _is_of(one, made.get(one.version))}
    anew = [one for version, one in made.items() if version not in theirs]
    serving = theirs.get(active) or made.get(active)
    for record in [*records, *anew]:
        mine = record is theirs.get(record.version) or record in anew
        found = facts.get(record.version) if mine else None
        status = _status(record, active, lived) if mine else _left(record)
        corrected = _corrected(record, found, status, reality, lived, at)
        before = book.find(record.id)
        if corrected != before:
            book.put(corrected)
            done.append(f"{corrected.name}: {_difference(before, corrected)}")
        if corrected != before or record is serving:
            traffic = reality.split if record is serving else {}
            _note(book, corrected, before, traffic, at, actor)
    _take_over(book, reality, serving or max([*records, *anew], key=_age, default=None), at)
    book.model = replace(book.model, active=serving.id if serving else None)
    done.append(f"the token is {book.model.token} now")
    if len(reality.split) > 1:
        done.append(f"{describe(reality.split)} stays: roll back to the one that should have all")
    return done


def _take_over(book: Book, reality: Reality, holder: Deployment | None, at: datetime) -> None:
    """Want the traffic that is served, under a new token, and hold the lock to write it.

    Whatever else held or awaited the lock does so no more: reality went on without it.
    """
    token = max(book.model.token, reality.token) + (holder is not None)
    book.model = replace(
        book.model,
        token=token,
        lock=Lock(LockKind.UPKEEP, holder.id, token, at) if holder else None,
        waiting=None,
        desired=dict(reality.split),
        drift="",
    )


def _age(record: Deployment) -> int:
    return record.version


def _is_of(record: Deployment, made: Deployment | None) -> bool:
    """Say whether a document is of the revision that `made` was made of; True without one.

    A revision without marks names no document: that of its version is believed.
    """
    return made is None or record.id == made.id or made.request_id == unmarked(made.version)


def _floor(book: Book, reality: Reality, records: Sequence[Deployment]) -> list[str]:
    """Raise the next version above every version that is named anywhere; say so."""
    names = (number_of(one.name, reality.service) or 0 for one in reality.revisions)
    known = (one.version for one in records)
    highest = max([0, *names, *reality.lived, *reality.folders, *known])
    if highest < book.model.next_version:
        return []
    said = f"next version {book.model.next_version} → {highest + 1}"
    book.model = replace(book.model, next_version=highest + 1)
    return [said]


def _status(record: Deployment, active: int, lived: Mapping[int, Status]) -> Status:
    """Return the status of the version's own record; what failed or was cancelled stays so."""
    if record.version == active:
        return Status.ACTIVE
    after = lived.get(record.version)
    made_anew = not record.cloud_run_revision and not record.steps
    if after and (made_anew or record.status in (Status.ACTIVE, Status.DEPLOYING)):
        return after
    if after and record.status is Status.INACTIVE:
        return after  # It may have been gone back from since.
    return _left(record)


def _left(record: Deployment) -> Status:
    """Return the status of one that does not serve: what has ended stays as it ended."""
    if record.status is Status.ACTIVE:
        return Status.INACTIVE
    if record.status is Status.DEPLOYING:
        return Status.CANCELLED if record.waiting else Status.FAILED
    return record.status


def _corrected(
    record: Deployment,
    facts: RevisionFacts | None,
    status: Status,
    reality: Reality,
    lived: Mapping[int, Status],
    at: datetime,
) -> Deployment:
    """Return the record as reality has it; what the document alone knows is kept."""
    if facts and record.cloud_run_revision != facts.name:
        record = replace(
            record,
            cloud_run_service=reality.service,
            cloud_run_revision=facts.name,
            attempt=int(facts.name.rsplit("-", 1)[1]),
            endpoint_url=reality.url,
            serving_model_path=facts.env.get("MODEL_PATH", ""),
            artifact_digest=facts.env.get("MODEL_DIGEST", ""),
            prepared_digest=facts.env.get("PREPARED_DIGEST", ""),
        )
    revision, names = record.cloud_run_revision, {one.name for one in reality.revisions}
    copied = bool(record.serving_model_path)
    record = replace(
        record,
        traffic_percent=reality.split.get(revision, 0),
        revision_gone=record.revision_gone or (bool(revision) and revision not in names),
        artifacts_gone=record.artifacts_gone or (copied and record.origin not in reality.folders),
    )
    if status is record.status:
        return record
    reason = _reason(record, status)
    record = replace(record, status=status, reason=reason, steps=_ended(record, reason, at))
    if status is not Status.ACTIVE and status not in CAN_BE_RETURNED_TO:
        return replace(record, deactivated_at=at)
    began = record.deployed_at or (facts.created_at if facts else record.created_at)
    record = replace(record, deployed_at=began, deactivated_at=None, healthy=True)
    if status is Status.ACTIVE:
        return record
    # When it ended is not known, only in which order: that much must stay true.
    order = [*lived].index(record.version) if record.version in lived else 0
    return replace(record, deactivated_at=at + timedelta(microseconds=order))


def _reason(record: Deployment, status: Status) -> str:
    why = "the documents were lost, or restored to an earlier time"
    if status is Status.ACTIVE:
        return f"{why}: it serves"
    if status in CAN_BE_RETURNED_TO:
        return f"{why}: it served before"
    again = f"publish run {record.training_run} again with a new request id"
    return f"{why}, and what became of it is not known; {again}"


def _ended(record: Deployment, reason: str, at: datetime) -> dict[str, Step]:
    return {
        name: replace(step, state=StepState.FAILED, ended_at=at, error=step.error or reason)
        if step.state is StepState.RUNNING
        else step
        for name, step in record.steps.items()
    }


def _difference(before: Deployment | None, after: Deployment) -> str:
    if before is None:
        return f"made anew from revision {after.cloud_run_revision}, {after.status}"
    parts = [
        f"{before.status} → {after.status}" if before.status is not after.status else "",
        "its revision is gone" if after.revision_gone > before.revision_gone else "",
        "its artifacts are gone" if after.artifacts_gone > before.artifacts_gone else "",
    ]
    unchanged = "its record was right" if before == after else "completed from its revision"
    return ", ".join(filter(None, parts)) or unchanged


def _note(
    book: Book,
    record: Deployment,
    before: Deployment | None,
    traffic: Split,
    at: datetime,
    actor: str,
) -> None:
    book.record(
        Event(
            record.id,
            record.model_id,
            at,
            actor,
            "recovered" if traffic else "corrected",
            _difference(before, record),
            before.status.value if before else "",
            record.status.value,
            dict(traffic),
        )
    )
