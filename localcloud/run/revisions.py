"""New revisions of a service, and the conditions that each shows of itself."""

from __future__ import annotations

import random
import secrets
import string
import uuid
from typing import Any

from localcloud.run import template as templates
from localcloud.run.errors import AlreadyExists
from localcloud.run.messages import RECONCILING, SUCCEEDED, RevisionTemplate, condition, now
from localcloud.run.names import refuse_second_region
from localcloud.run.reconcile import Verdict
from localcloud.run.store import RevisionRecord, ServiceRecord, Store


class Revisions:
    """Makes the records of new revisions; called within the transaction that stores them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def wanted(self, record: ServiceRecord, service: Any) -> RevisionRecord | None:
        """Return the revision that the template asks for, None when it has not changed."""
        latest = self._store.revision(record.latest_created) if record.latest_created else None
        wanted = service.template
        if (
            latest is not None
            and wanted.revision in ("", latest.name)
            and templates.same_configuration(latest.template, wanted)
        ):
            return None
        if wanted.revision:
            taken = self._store.revision(wanted.revision)
            if taken is not None:
                return self._same_revision(taken, record, wanted)
        record.revisions_made += 1
        return self._deploying(record, service)

    def _same_revision(
        self, taken: RevisionRecord, record: ServiceRecord, wanted: Any
    ) -> RevisionRecord:
        same = taken.service_id == record.id and taken.state != "deleted"
        if same and templates.same_configuration(taken.template, wanted):
            return taken  # A repeat finds its own revision and makes no second one.
        refuse_second_region(taken.revision.name, f"{record.service.name}/revisions/{taken.name}")
        raise AlreadyExists(
            f"Revision named '{taken.name}' with different configuration already exists."
        )

    def _deploying(self, record: ServiceRecord, service: Any) -> RevisionRecord:
        number = record.revisions_made
        name = service.template.revision or self._generated_name(record.id, number)
        template = RevisionTemplate()
        template.CopyFrom(service.template)
        revision = templates.revision_of(
            f"{record.service.name}/revisions/{name}",
            str(uuid.uuid4()),
            record.id,
            number,
            template,
        )
        made = now()
        revision.create_time.CopyFrom(made)
        result = RevisionRecord(name, record.id, number, "deploying", "", "", template, revision)
        show_state(result)
        return result

    def _generated_name(self, service_id: str, number: int) -> str:
        while True:
            letters = "".join(random.choices(string.ascii_lowercase, k=3))
            name = f"{service_id}-{number:05d}-{letters}"
            if self._store.revision(name) is None:
                return name


def show_state(record: RevisionRecord) -> None:
    """Write a revision's conditions, which are about this revision alone."""
    verdict = record.fact.verdict
    revision = record.revision
    revision.reconciling = verdict.state == RECONCILING
    revision.observed_generation = 0 if revision.reconciling else revision.generation
    revision.update_time.CopyFrom(now())
    revision.etag = f'"{secrets.token_urlsafe(12)}"'
    missing = record.reason == "CONTAINER_MISSING"
    healthy = verdict if not missing else Verdict(RECONCILING)
    del revision.conditions[:]
    revision.conditions.extend(
        [
            condition("Ready", verdict.state, verdict.message, verdict.reason),
            condition("ContainerReady", *_container_ready(record, verdict, missing)),
            condition("ContainerHealthy", healthy.state, healthy.message, healthy.reason),
            condition("ResourcesAvailable", SUCCEEDED),
        ]
    )


def _container_ready(
    record: RevisionRecord, verdict: Verdict, missing: bool
) -> tuple[int, str, str]:
    """ContainerReady says whether the image could be had, not whether it works."""
    if missing:
        return verdict.state, verdict.message, verdict.reason
    return (RECONCILING if record.state == "deploying" else SUCCEEDED), "", ""
