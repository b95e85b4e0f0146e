"""Clear away what no policy keeps: old tags, revisions and artifacts. `reconcile` calls it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta

from functions.abort_deployment import settle
from shared import logs
from shared.domain.deployment import Deployment
from shared.domain.model import RECONCILE, Book, Model, keep_up, note
from shared.domain.retention import expired, own_folder
from shared.domain.traffic import difference
from shared.messages import ModelDeclaration
from shared.ports import Ports, ServiceView, StoredObject

COLLECTED_EVERY = timedelta(hours=6)
VERSIONS_AT_ONCE = 10
DELETIONS_AT_ONCE = 8


@dataclass(frozen=True)
class Leftover:
    """What is still there of a version that is not kept: its tag, its revision, its files."""

    deployment: Deployment
    tag: str
    revision: str
    files: Sequence[StoredObject]

    def __str__(self) -> str:
        """Say what it is, for people."""
        what = [self.tag and f"tag {self.tag}", self.revision and f"revision {self.revision}"]
        what.append(f"{len(self.files)} files of its artifacts" if self.files else "")
        return ", ".join(filter(None, what))


def collect(model_id: str, ports: Ports) -> list[str]:
    """Clear away the leftovers of at most ten versions; return what was found, in words.

    First they are marked in one transaction, so that no rollback counts on them any more and
    whatever dies after it is taken up by the next call. Then tags, revisions and files go, in
    that order, so that nothing ever points at what is gone. Does nothing while the model's
    traffic is being changed or differs from the desired, nor within six hours of the last
    time that nothing was left.
    """
    model, now = ports.state.model(model_id), ports.clock.now()
    if model.lock or (model.collected_at and now < model.collected_at + COLLECTED_EVERY):
        return []
    declaration = ports.state.declaration(model_id)
    if declaration is None:
        return []
    # The deployments are read after the model: see `_mark`.
    seen = ports.cloud_run.service(declaration.config.service)
    if difference(model.desired, seen.written, seen.split):
        return []  # Taking tags away writes the desired split, over what a person wrote.
    left = _leftovers(model, seen, declaration, ports)
    batch = left[:VERSIONS_AT_ONCE]
    if batch and not ports.state.change(model_id, lambda book: _mark(book, model, batch, ports)):
        return []
    if tags := [one.tag for one in batch if one.tag]:
        settle(model_id, seen.name, ports, seen, dropped=tags)
    for one in batch:
        _delete(one, seen.name, ports)
    if len(left) <= VERSIONS_AT_ONCE:
        ports.state.change(model_id, lambda book: _note_collected(book, ports))
    return [f"cleared away {one.deployment.name}: {one}" for one in batch]


def _leftovers(
    model: Model, seen: ServiceView, declaration: ModelDeclaration, ports: Ports
) -> list[Leftover]:
    """Return what is there and not kept, oldest version first."""
    deployments = ports.state.every_deployment(model.id)
    gone = expired(
        model,
        deployments,
        {*seen.split, *seen.written},
        declaration.policy.keep_versions,
        declaration.policy.keep_artifacts,
        ports.clock.now(),
    )
    # Cloud Run does not delete a service's latest revision; so its files stay too.
    latest, *others = ports.cloud_run.revisions(seen.name)
    revisions = set(others)
    files = _files(model.id, ports)
    left = []
    for found in sorted(deployments, key=lambda found: found.version):
        revision = found.cloud_run_revision if found.id in gone.revisions else ""
        tagged = bool(revision) and seen.tags.get(found.tag) == revision
        one = Leftover(
            found,
            found.tag if tagged and revision in revisions else "",
            revision if revision in revisions else "",
            files.get(own_folder(found), [])
            if found.id in gone.artifacts and found.cloud_run_revision != latest
            else [],
        )
        if one.tag or one.revision or one.files:
            left.append(one)
    return left


def _files(model_id: str, ports: Ports) -> Mapping[str, list[StoredObject]]:
    """Return the objects of each version's folder."""
    folders: dict[str, list[StoredObject]] = {}
    for stored in ports.objects.list(ports.settings.serving_bucket, f"models/{model_id}/"):
        if found := re.match(r"models/[^/]+/v[0-9]+/", stored.name):
            folders.setdefault(found[0], []).append(stored)
    return folders


def _mark(book: Book, seen: Model, batch: Sequence[Leftover], ports: Ports) -> bool:
    """Mark what goes, and take the lock where a tag does; False where the model moved since.

    Whatever makes a version needed again writes the model's document (its token, its next
    version, its waiting run), and the deployments were read after it. So one that is as it
    was proves that the decision still holds.
    """
    if book.model != seen:
        return False
    now = ports.clock.now()
    tagged = [one.deployment.id for one in batch if one.tag]
    if tagged and keep_up(book, tagged[0], now) is None:
        return False
    for one in batch:
        found = book.deployment(one.deployment.id)
        marked = replace(
            found,
            revision_gone=found.revision_gone or bool(one.revision),
            artifacts_gone=found.artifacts_gone or bool(one.files),
        )
        if marked != found:  # else a call that died, or was refused, left something
            book.put(marked)
            note(book, found.id, now, RECONCILE, "cleared away", f"no longer kept: {one}")
    return True


def _delete(leftover: Leftover, service: str, ports: Ports) -> None:
    """Delete the revision, then the files. A repeat finds them gone.

    Cloud Run itself refuses a revision that serves, is tagged, or is its service's latest: its
    files stay too, and the next call tries again.
    """
    if leftover.revision and not ports.cloud_run.delete_revision(service, leftover.revision):
        logs.log("revision not deleted", severity="WARNING", revision=leftover.revision)
        return
    bucket = ports.settings.serving_bucket
    with ThreadPoolExecutor(DELETIONS_AT_ONCE) as pool:
        list(pool.map(lambda stored: ports.objects.delete(bucket, stored), leftover.files))


def _note_collected(book: Book, ports: Ports) -> None:
    book.model = replace(book.model, collected_at=ports.clock.now())
