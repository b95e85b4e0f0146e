"""Bring the documents of a model back to what Cloud Run serves: after Firestore was restored,
after it was lost, and after a model's service was lost. The command line calls it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from functions.abort_deployment import settle
from functions.copy_artifacts import MANIFEST
from functions.planning import Scratch
from functions.reconcile import repair
from functions.roll_back import go_back
from shared.domain.deployment import Deployment
from shared.domain.marks import DEPLOYMENT
from shared.domain.model import Book, Model, mark_lost
from shared.domain.recovery import finished_unseen
from shared.domain.recovery import recover as correct
from shared.domain.remains import Reality
from shared.domain.traffic import describe
from shared.errors import Conflict, NotFound
from shared.gcp.workflows import DEAD
from shared.messages import ModelDeclaration, RollBack
from shared.ports import Ports, ServiceView


@dataclass(frozen=True)
class Recovery:
    """What was found of a model and what was done about it, or would be; for people."""

    model_id: str
    found: str
    done: Sequence[str]
    traffic: str


def recover(model_id: str, actor: str, ports: Ports, dry_run: bool = False) -> Recovery:
    """Correct documents that are older than Cloud Run, or deploy a lost service's version again.

    Traffic is never moved: the documents follow it, and the split that is served is written
    once more, under a new token, so that whoever was at it before fails. Where the service was
    lost and Terraform made it anew, the active version is deployed from its kept artifacts. A
    model that is well is left as it is, so a repeat changes nothing. With `dry_run` it only
    says what it would do. NotFound for a model that is not declared, or without a service.
    """
    declaration = ports.state.declaration(model_id)
    if declaration is None:
        raise NotFound(f"there is no declaration of {model_id!r}; apply Terraform first")
    # Read before the documents are, and written over: see `apply_traffic`.
    seen = ports.cloud_run.service(declaration.config.service)
    model = ports.state.model(model_id)
    reality = _reality(model_id, seen, ports)
    if why := _why_wrong(model, reality, ports):
        done = _correct(declaration, model, reality, seen, actor, ports, dry_run)
        return Recovery(model_id, why, done, describe(seen.split))
    if lost := _lost(model, seen, ports):
        done = _bring_back(lost, seen, actor, ports, dry_run)
        found = f"the service has no revision of {lost.name}, the active version"
        return Recovery(model_id, found, done, describe(seen.split))
    done = [] if dry_run else repair(model_id, ports)
    return Recovery(model_id, "documents and service agree", done, describe(seen.split))


def _why_wrong(model: Model, reality: Reality, ports: Ports) -> str:
    """Return how it shows that documents are older than the service, or lost; "" for neither.

    Conflict where some are lost, and a rollout goes on that its own document knows.
    """
    if reality.token > model.token:
        return f"token {model.token} is known, the service was written under {reality.token}"
    known = {found.id: found for found in ports.state.every_deployment(model.id)}
    rolling = known.get(model.lock.deployment_id) if model.lock else None
    state = ports.executions.state(rolling.execution) if rolling and rolling.execution else ""
    if finished_unseen(model, rolling, state, reality.split):
        said = "rolls out, and its execution succeeded with all of the traffic"
        return f"{rolling.id if rolling else ''} {said}"
    marks = (found.annotations.get(DEPLOYMENT, "") for found in reality.revisions)
    lost = {*filter(None, marks), *filter(None, [model.active])} - known.keys()
    if lost and state not in ("", *DEAD):
        raise Conflict(
            f"{', '.join(sorted(lost))} have no documents, and a rollout is under way: "
            "let it end, or cancel it, then recover"
        )
    return f"no documents of {', '.join(sorted(lost))}" if lost else ""


def _correct(
    declaration: ModelDeclaration,
    model: Model,
    reality: Reality,
    seen: ServiceView,
    actor: str,
    ports: Ports,
    dry_run: bool,
) -> list[str]:
    """Correct all documents in one transaction, then write the split that is served again.

    Whatever dies in between leaves a lock that reconcile completes. Conflict where somebody
    changed the model since it was looked at.
    """
    known = [found.id for found in ports.state.every_deployment(model.id)]
    now, policy = ports.clock.now(), declaration.policy.rollout

    def move(book: Book) -> list[str]:
        if book.model != model:
            raise Conflict(f"{model.id!r} was changed meanwhile; recover again")
        return correct(book, reality, known, declaration.config, policy, now, actor)

    if dry_run:
        return move(Scratch(model.id, ports.state))
    done = ports.state.change(model.id, move)
    settle(model.id, seen.name, ports, seen)
    return done


def _reality(model_id: str, seen: ServiceView, ports: Ports) -> Reality:
    bucket, prefix = ports.settings.serving_bucket, f"models/{model_id}/"
    stored = (found.name for found in ports.objects.list(bucket, prefix))
    folders = {int(found[1]) for name in stored if (found := re.match(rf"{prefix}v(\d+)/", name))}
    return Reality(
        service=seen.name,
        url=seen.url,
        split=seen.split,
        token=seen.token,
        lived=seen.lived,
        revisions=ports.cloud_run.facts(seen.name),
        folders=folders,
        sources={version: _source(bucket, f"{prefix}v{version}/", ports) for version in folders},
    )


def _source(bucket: str, folder: str, ports: Ports) -> str:
    """Return where a version's artifacts were copied from; "" where no manifest says."""
    content = ports.objects.read(bucket, folder + MANIFEST)
    return str(json.loads(content)["source"]) if content else ""


def _lost(model: Model, seen: ServiceView, ports: Ports) -> Deployment | None:
    """Return the active version where the service has no revision of it."""
    active = ports.state.deployment(model.active) if model.active else None
    if active is None or ports.cloud_run.revision(seen.name, active.cloud_run_revision):
        return None
    return active


def _bring_back(
    lost: Deployment, seen: ServiceView, actor: str, ports: Ports, dry_run: bool
) -> list[str]:
    """Deploy the active version again, as a rollback to a version without a revision does.

    First every version whose revision went with the service is marked, so that nobody counts on
    one. A repeat finds the marks, and the deployment of the first call.
    """
    said = f"{lost.name} is deployed again from its kept artifacts"
    if dry_run:
        return [said]
    gone = [
        found.id
        for found in ports.state.every_deployment(lost.model_id)
        if found.cloud_run_revision
        and ports.cloud_run.revision(seen.name, found.cloud_run_revision) is None
    ]
    now = ports.clock.now()

    ports.state.change(lost.model_id, lambda book: mark_lost(book, gone, seen.split, now, actor))
    command = RollBack(
        model_id=lost.model_id,
        version=lost.version,
        check=False,
        reason="its service was lost",
    )
    return [f"{said}: {go_back(command, actor, ports, 'recover')['said']}"]
