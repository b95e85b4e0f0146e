"""Makes specifications true, and writes the status and the ends of operations that follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from localcloud.run.messages import (
    BY_REVISION,
    LATEST,
    RECONCILING,
    SUCCEEDED,
    TrafficTargetStatus,
    condition,
)
from localcloud.run.plan import Failure
from localcloud.run.reconcile import Status, Verdict, decide
from localcloud.run.revisions import show_state
from localcloud.run.store import RevisionRecord, ServiceRecord, Store
from localcloud.run.traffic import Route

# Makes a service true outside the database; returns its URLs by tag ("" for its own).
Apply = Callable[[ServiceRecord, Sequence[RevisionRecord], tuple[Route, ...]], Mapping[str, str]]
Remove = Callable[[str], None]


class Reconciler:
    """Compares what is asked for with what is; `apply` and `remove` change what is.

    What a kill interrupts between a write and its status is taken up by `reconcile_all` after
    the next start.
    """

    def __init__(self, store: Store, apply: Apply, remove: Remove) -> None:
        self._store = store
        self._apply = apply
        self._remove = remove
        # One reconciliation at a time, so that the routes applied last are the newest.
        self._reconciling = threading.RLock()
        self._progress = threading.Condition()

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until operations that ended make the condition true, or the time is over."""
        with self._progress:
            self._progress.wait_for(condition, timeout_s)

    def exclusive(self) -> AbstractContextManager[Any]:
        """Hold off every reconciliation."""
        return self._reconciling

    def remove(self, service_id: str) -> None:
        """Take down a service that the store has forgotten."""
        self._remove(service_id)
        self.announce()

    def deployed(self, revision: str, failure: Failure | None) -> None:
        """Record how a new revision's first instance did, then reconcile its service."""
        with self._store.transaction():
            record = self._store.revision(revision)
            if record is None or record.state != "deploying":
                return  # Deleted meanwhile with its service, or told twice.
            record.state = "ready" if failure is None else "failed"
            if failure is not None:
                record.reason, record.message = failure.reason, failure.message
            show_state(record)
            self._store.put_revision(record)
        self.reconcile(record.service_id)

    def reconcile_all(self) -> None:
        """Make every service true again, after a start."""
        for record in self._store.services():
            self.reconcile(record.id)

    def reconcile(self, service_id: str) -> None:
        """Make the service's specification true and write its status and operations.

        Reads, applies, writes: repeating it changes nothing. A write that comes in between
        leaves its own generation unprocessed and reconciles after this one.
        """
        with self._reconciling:
            record = self._store.service(service_id)
            if record is None:
                return
            revisions = {r.name: r for r in self._store.revisions(service_id)}
            status = decide(
                record.service.traffic,
                {name: revision.fact for name, revision in revisions.items()},
                record.latest_created,
                record.latest_ready,
                record.routes,
            )
            urls = self._apply(record, list(revisions.values()), status.routes)
            with self._store.transaction():
                current = self._store.service(service_id)
                if current is None:
                    return
                self._show_status(current, status, record.service.generation, urls)
                self._store.put_service(current)
                self._end_operations(current, status, revisions)
        self.announce()

    def _show_status(
        self, record: ServiceRecord, status: Status, generation: int, urls: Mapping[str, str]
    ) -> None:
        record.routes = status.routes
        record.latest_ready = status.latest_ready
        record.processed_generation = generation
        service = record.service
        newest = generation == service.generation
        terminal = status.terminal if newest else Verdict(RECONCILING)
        service.reconciling = terminal.state == RECONCILING
        _set_condition(service.terminal_condition, "Ready", terminal)
        del service.conditions[:]
        for kind, verdict in (
            ("RoutesReady", status.route),
            ("ConfigurationsReady", status.configuration),
        ):
            service.conditions.append(
                condition(kind, verdict.state, verdict.message, verdict.reason)
            )
        if terminal.state == SUCCEEDED:
            # After a failure this stays the generation that serves.
            service.observed_generation = generation
        service.latest_ready_revision = (
            f"{service.name}/revisions/{status.latest_ready}" if status.latest_ready else ""
        )
        service.uri = urls[""]
        service.urls[:] = [urls[""]]
        del service.traffic_statuses[:]
        service.traffic_statuses.extend(
            TrafficTargetStatus(
                type_=LATEST if route.latest else BY_REVISION,
                # As the real service: the name is in latest_ready_revision.
                revision="" if route.latest else route.revision,
                percent=route.percent,
                tag=route.tag,
                uri=urls[route.tag] if route.tag else "",
            )
            for route in status.routes
        )

    def _end_operations(
        self, record: ServiceRecord, status: Status, revisions: Mapping[str, RevisionRecord]
    ) -> None:
        """End the operations that this reconciliation decided, each with its own outcome.

        By the `revisions` that it saw: one that failed since then ends its operation with
        the next reconciliation, together with the status that says so.
        """
        for waiting in self._store.open_operations(record.id):
            if waiting.generation > record.processed_generation:
                continue
            verdict = _outcome(revisions.get(waiting.revision), status)
            if verdict.state == RECONCILING:
                continue
            if verdict.state == SUCCEEDED:
                waiting.operation.done = True
                waiting.operation.response.Pack(record.service)
            else:
                end(waiting.operation, verdict)
            self._store.put_operation(waiting)

    def announce(self) -> None:
        """Let those look again who wait for an operation."""
        with self._progress:
            self._progress.notify_all()


def _outcome(own: RevisionRecord | None, status: Status) -> Verdict:
    """Return how an operation stands: its own revision first, then the whole service."""
    if own is not None and own.state == "deploying":
        return Verdict(RECONCILING)
    if own is not None and own.state == "failed":
        return own.fact.verdict
    return status.terminal


def end(operation: Any, verdict: Verdict) -> None:
    """End an operation with the error that a failed verdict says."""
    operation.done = True
    operation.error.code = verdict.code.value[0]
    operation.error.message = verdict.message


def _set_condition(shown: Any, kind: str, verdict: Verdict) -> None:
    since = shown.last_transition_time if shown.state == verdict.state else None
    shown.CopyFrom(condition(kind, verdict.state, verdict.message, verdict.reason, since))
