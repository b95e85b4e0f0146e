"""The ports in memory, written by hand: `tests/contract/test_ports.py` holds them to the real ones.

Each keeps what the real service keeps (etags, generations, versions of documents), so that the
use cases meet the same refusals here as there.
"""

from __future__ import annotations

import base64
import bisect
import json
import math
import secrets
import sys
import threading
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, TypeVar

import google_crc32c

from shared.config import Settings
from shared.domain.announcement import Announcement, announce_of, event_name
from shared.domain.canary import Judgement, Side
from shared.domain.deployment import Deployment, Event, Status
from shared.domain.histogram import Histogram, merge
from shared.domain.marks import lived_of, marks_of_revision, marks_of_traffic, token_of
from shared.domain.model import Book, Model
from shared.domain.remains import RevisionFacts
from shared.errors import ArtifactsRefused, NotFound, Refused, Unavailable
from shared.gcp.cloud_run import model_environment
from shared.messages import ModelDeclaration
from shared.ports import (
    JobState,
    JobView,
    JudgePorts,
    Ports,
    RevisionView,
    ServiceView,
    Stale,
    StoredObject,
)

T = TypeVar("T")
Path = tuple[str, str]
"""(collection, id) of a document."""

SETTINGS = Settings(
    project="turnout-test",
    region="europe-central2",
    serving_bucket="serving",
    training_buckets=frozenset({"training"}),
    functions_url="https://functions.test",
    grpc_emulator="",
)
RERUNS_AT_MOST = 1000
Committed = Callable[[Mapping[Path, Any], Mapping[Path, Any], Sequence[Event]], None]


class FakeClock:
    """A time that only sleeping moves."""

    def __init__(self, start: datetime = datetime(2026, 11, 24, 14, tzinfo=UTC)) -> None:
        self.time = start
        self.slept_s: list[float] = []

    def now(self) -> datetime:
        """Return the time in UTC."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Move the time on at once."""
        self.slept_s.append(seconds)
        self.time += timedelta(seconds=seconds)


class FakeState:
    """Documents with versions, and transactions that rerun when what they read has changed.

    `before_commit` runs between a transaction's reads and its commit, where another writer may
    come in; `committed` is told of every commit: the model and what was written, before
    and after, and the events.
    """

    def __init__(self, *declarations: ModelDeclaration) -> None:
        self.before_commit: Callable[[], None] = lambda: None
        self.committed: Committed = lambda *_: None
        self.conflicts = 0
        """How many transactions found that another had come between, and ran again."""
        self.refusals: dict[str, Mapping[str, Any]] = {}
        self._declarations = {declared.model_id: declared for declared in declarations}
        self._documents: dict[Path, Any] = {}
        self._deployments_of: dict[str, set[Path]] = defaultdict(set)
        self._versions: dict[Path, int] = {}
        self._events: list[Event] = []
        self._outbox: dict[str, Announcement] = {}
        self._news = False
        self._lock = threading.Lock()

    def declaration(self, model_id: str) -> ModelDeclaration | None:
        """Return a model's declared configuration, or None for an unknown model."""
        return self._declarations.get(model_id)

    def declare(self, declared: ModelDeclaration) -> None:
        """Declare a model as Terraform does."""
        self._declarations[declared.model_id] = declared

    def model_ids(self) -> list[str]:
        """Return the ids of all declared models."""
        return sorted(self._declarations)

    def model(self, model_id: str) -> Model:
        """Return the pipeline's state of a model; a new one where nothing happened yet."""
        found: Model | None = self._documents.get(("models", model_id))
        return found or Model(model_id)

    def deployment(self, deployment_id: str) -> Deployment:
        """Return a deployment; NotFound where there is none."""
        found: Deployment | None = self._documents.get(("deployments", deployment_id))
        if found is None:
            raise NotFound(f"there is no deployment {deployment_id!r}")
        return found

    def glance(self, deployment_id: str) -> Deployment | None:
        """Return a deployment, or None."""
        return self._documents.get(("deployments", deployment_id))

    def deployments(self, model_id: str) -> list[Deployment]:
        """Return a model's deployments, newest version first."""
        found = [self._documents[path] for path in list(self._deployments_of[model_id])]
        return sorted(found, key=lambda deployment: -deployment.version)

    def every_deployment(self, model_id: str) -> list[Deployment]:
        """Return all of a model's deployments, newest version first."""
        return self.deployments(model_id)

    def deploying(self, model_id: str) -> list[Deployment]:
        """Return a model's deployments that roll out or wait."""
        found = self.deployments(model_id)
        return [one for one in found if one.status is Status.DEPLOYING]

    def events(self, deployment_id: str) -> list[Event]:
        """Return a deployment's history, oldest first."""
        return [event for event in self._events if event.deployment_id == deployment_id]

    def outbox(self, at_most: int) -> list[Announcement]:
        """Return recorded events that were not announced yet, the oldest first."""
        with self._lock:
            return [self._outbox[name] for name in sorted(self._outbox)][:at_most]

    def announced(self, announcement_id: str) -> None:
        """Take an event out of the outbox; one that is gone stays gone."""
        with self._lock:
            self._outbox.pop(announcement_id, None)

    def take_news(self) -> bool:
        """Return True once after an event was recorded."""
        news, self._news = self._news, False
        return news

    def run(self, run_id: str) -> Mapping[str, Any] | None:
        """Return a training run, or None."""
        found: Mapping[str, Any] | None = self._documents.get(("training_runs", run_id))
        return found

    def change(self, model_id: str, move: Callable[[Book], T]) -> T:
        """Run `move` on fresh documents; again from the start when they changed meanwhile."""
        for _ in range(RERUNS_AT_MOST):
            book = FakeBook(self, model_id)
            result = move(book)
            self.before_commit()
            if self._commit(book):
                return result
            self.conflicts += 1
        raise AssertionError(f"a transaction of {model_id!r} never committed")

    def record_run(self, run_id: str, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create the training run where it is new; return what is stored."""
        with self._lock:
            stored: Mapping[str, Any] = self._documents.setdefault(
                ("training_runs", run_id), dict(run)
            )
            return stored

    def decide(
        self, run_id: str, request_id: str, decision: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Keep the gate's decision on a request where there is none; return what is kept."""
        with self._lock:
            run = self._documents.get(("training_runs", run_id), {})
            kept: Mapping[str, Any] = {request_id: dict(decision), **run.get("decisions", {})}
            self._documents["training_runs", run_id] = {**run, "decisions": kept}
            kept_decision: Mapping[str, Any] = kept[request_id]
            return kept_decision

    def record_refusal(self, message_id: str, refusal: Mapping[str, Any]) -> None:
        """Keep why a message was refused, under its own id."""
        self.refusals[message_id] = dict(refusal)

    def read(self, path: Path) -> tuple[int, Any]:
        """Return version and content of a document (0 and None where there is none)."""
        with self._lock:
            return self._versions.get(path, 0), self._documents.get(path)

    def export(self) -> dict[Path, Any]:
        """Return all documents as they are now."""
        with self._lock:
            return dict(self._documents)

    def restore(self, exported: Mapping[Path, Any], into_another: bool = True) -> None:
        """Bring the documents back: of another database, which had none, or over these.

        An import writes over what has the same name, and leaves the rest.
        """
        with self._lock:
            kept = {} if into_another else self._documents
            self._documents = {**kept, **exported}
            self._deployments_of = defaultdict(set)
            for path, found in self._documents.items():
                self._versions[path] = self._versions.get(path, 0) + 1
                if isinstance(found, Deployment):
                    self._deployments_of[found.model_id].add(path)

    def _commit(self, book: FakeBook) -> bool:
        with self._lock:
            if any(self._versions.get(path, 0) != seen for path, seen in book.seen.items()):
                return False
            after = {book.model_path: book.model, **book.writes}
            before = {path: self._documents.get(path) for path in after}
            self._documents.update(book.writes)
            for path, written in book.writes.items():
                if isinstance(written, Deployment):
                    self._deployments_of[written.model_id].add(path)
                self._versions[path] = self._versions.get(path, 0) + 1
            for number, event in enumerate(book.events):
                name = event_name(event, number, f"{len(self._events):08x}")
                made = self._documents.get(("deployments", event.deployment_id))
                self._outbox[name] = announce_of(name, event, made)
                self._events.append(event)
            self._news = self._news or bool(book.events)
        self.committed(before, after, book.events)
        return True


class FakeBook:
    """The documents of one transaction: what it saw, what it will write."""

    def __init__(self, state: FakeState, model_id: str) -> None:
        self.seen: dict[Path, int] = {}
        self.events: list[Event] = []
        self._state = state
        self._changed: dict[Path, Any] = {}
        self._known: dict[Path, Any] = {}
        self.model_path = ("models", model_id)
        self.model: Model = self._read(self.model_path) or Model(model_id)
        self._model_read = self.model

    @property
    def writes(self) -> dict[Path, Any]:
        """What the commit writes: the model where it was changed, and what was put."""
        model = {} if self.model == self._model_read else {self.model_path: self.model}
        return {**model, **self._changed}

    def find(self, deployment_id: str) -> Deployment | None:
        """Return a deployment as this transaction sees it, or None."""
        found: Deployment | None = self._read(("deployments", deployment_id))
        return found

    def deployment(self, deployment_id: str) -> Deployment:
        """Return a deployment as this transaction sees it; NotFound where there is none."""
        found = self.find(deployment_id)
        if found is None:
            raise NotFound(f"there is no deployment {deployment_id!r}")
        return found

    def put(self, deployment: Deployment) -> None:
        """Write it when the transaction commits."""
        path = ("deployments", deployment.id)
        self._known[path] = self._changed[path] = deployment

    def record(self, event: Event) -> None:
        """Append to the deployment's history when the transaction commits."""
        self.events.append(event)

    def _read(self, path: Path) -> Any:
        if path not in self._known:
            self.seen[path], self._known[path] = self._state.read(path)
        return self._known[path]


class FakeBucket(dict[str, tuple[bytes, int]]):
    """Objects by name: (content, generation). `names` are sorted, for listing by prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __setitem__(self, name: str, stored: tuple[bytes, int]) -> None:
        if name not in self:
            insort(self.names, name)
        super().__setitem__(name, stored)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        del self.names[bisect_left(self.names, name)]

    def below(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, sorted."""
        begin = bisect_left(self.names, prefix)
        return self.names[begin : bisect_left(self.names, prefix + chr(sys.maxunicode), begin)]


class FakeObjects:
    """Buckets whose objects have generations; `put` writes as training would."""

    def __init__(self, *buckets: str) -> None:
        self._buckets = {name: FakeBucket() for name in buckets}
        self._generation = 0
        self._lock = threading.Lock()

    def put(self, bucket: str, name: str, content: bytes) -> None:
        """Write an object, over another one too."""
        with self._lock:
            self._generation += 1
            self._buckets[bucket][name] = (content, self._generation)

    def remove(self, bucket: str, name: str) -> None:
        """Delete an object."""
        del self._buckets[bucket][name]

    def drop(self, bucket: str) -> None:
        """Delete a bucket with all that is in it."""
        del self._buckets[bucket]

    def list(self, bucket: str, prefix: str) -> list[StoredObject]:
        """Return the objects below `prefix`, sorted by name; ArtifactsRefused without a bucket."""
        if bucket not in self._buckets:
            raise ArtifactsRefused(f"there is no bucket {bucket!r}; check artifact_uri")
        return [self._view(bucket, name) for name in self._buckets[bucket].below(prefix)]

    def copy(
        self, source_bucket: str, source: StoredObject, bucket: str, name: str
    ) -> StoredObject:
        """Copy exactly that generation, never over another object; return the copy."""
        with self._lock:
            content, generation = self._buckets[source_bucket].get(source.name, (b"", 0))
            if name not in self._buckets[bucket]:
                if generation != source.generation:
                    raise ArtifactsRefused(f"gs://{source_bucket}/{source.name} changed")
                self._generation += 1
                self._buckets[bucket][name] = (content, self._generation)
            made = self._view(bucket, name)
        if (made.size, made.crc32c) != (source.size, source.crc32c):
            raise ArtifactsRefused(f"gs://{bucket}/{name} differs from its source")
        return made

    def read(self, bucket: str, name: str) -> bytes | None:
        """Return an object's content, or None."""
        found = self._buckets[bucket].get(name)
        return found[0] if found else None

    def create(self, bucket: str, name: str, content: bytes, content_type: str) -> bool:
        """Write an object that must not exist yet; False where it does."""
        assert content_type
        with self._lock:
            if name in self._buckets[bucket]:
                return False
            self._generation += 1
            self._buckets[bucket][name] = (content, self._generation)
            return True

    def delete(self, bucket: str, stored: StoredObject) -> None:
        """Delete exactly that generation; another one, or none, stays as it is."""
        with self._lock:
            _, generation = self._buckets[bucket].get(stored.name, (b"", 0))
            if generation == stored.generation:
                del self._buckets[bucket][stored.name]

    def _view(self, bucket: str, name: str) -> StoredObject:
        content, generation = self._buckets[bucket][name]
        digest = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
        return StoredObject(name, len(content), digest, generation)


@dataclass
class FakeRevision:
    """A revision: whose it is (None: the empty v0), and what its start came to."""

    made_for: Deployment | None
    state: str = "deploying"
    message: str = ""
    reads_until_known: int = 0
    created_at: datetime = datetime(2026, 11, 24, 14, tzinfo=UTC)


@dataclass
class FakeService:
    """A service: what was written, and what is served. A revision of None means LATEST."""

    revisions: dict[str, FakeRevision]
    latest_created: str
    split: dict[str | None, int] = field(default_factory=lambda: {None: 100})
    tags: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    etag: int = 1
    served: dict[str, int] = field(default_factory=dict)
    served_tags: dict[str, str] = field(default_factory=dict)
    reads_until_served: int = 0
    min_instances: int = 0

    @property
    def latest_ready(self) -> str:
        """The newest revision that is ready."""
        return [name for name, made in self.revisions.items() if made.state == "ready"][-1]


class FakeCloudRun:
    """Services with etags; revisions start, fail, or take their time.

    `fate` says what a deployment's revision comes to: "" is ready, anything else is Cloud
    Run's message about why not. `starts_after` and `serves_after` count the reads that still
    see the old state. As in Cloud Run, the split served before stays until every revision of
    the written one is ready.
    """

    def __init__(self, fate: Callable[[Deployment], str] = lambda _: "") -> None:
        self.fate = fate
        self.starts_after = 0
        self.serves_after = 0
        self.services: dict[str, FakeService] = {}
        self.wrote: Callable[[int, Mapping[str, int]], None] = lambda *_: None
        """Told of every traffic write that was let through: token and split."""
        self._lock = threading.RLock()

    def declare(self, name: str) -> None:
        """Create a service as Terraform does: the empty v0 and all traffic to LATEST."""
        first = f"{name}-v0-1"
        service = FakeService({first: FakeRevision(None, "ready")}, first)
        self.services[name] = service
        self._serve(service)

    def by_hand(self, name: str, split: Mapping[str | None, int]) -> None:
        """Change the split as a person at the console would; None stands for LATEST."""
        with self._lock:
            service = self.services[name]
            service.split = dict(split)
            self._wrote(service)

    def deployment_at(self, url: str) -> Deployment | None:
        """Return whose revision answers at a tag URL (None: v0); Unavailable for none."""
        tag, _, name = url.removeprefix("https://").removesuffix(".test").rpartition("---")
        service = self.services.get(name)
        if service and (not tag or tag in service.served_tags):
            largest = max(service.served, key=service.served.__getitem__)
            revision = service.served_tags[tag] if tag else largest
            return service.revisions[revision].made_for
        raise Unavailable(f"{url} did not answer: ConnectionError")

    def service(self, name: str) -> ServiceView:
        """Return the service as it is now; NotFound where there is none."""
        with self._lock:
            service = self._service(name)
            if service.reads_until_served:
                service.reads_until_served -= 1
            else:
                self._serve(service)
            return ServiceView(
                name=name,
                etag=str(service.etag),
                url=_url(name),
                split=dict(service.served),
                tag_urls={tag: _url(name, tag) for tag in service.served_tags},
                tags=dict(service.tags),
                annotations=dict(service.annotations),
                names_all=None not in service.split,
                written={revision or "": share for revision, share in service.split.items()},
                token=token_of(service.annotations),
                lived=lived_of(service.annotations),
                served_tags=dict(service.served_tags),
            )

    def revision(self, service: str, revision: str) -> RevisionView | None:
        """Return a revision's own word, or None."""
        with self._lock:
            found = self._service(service).revisions.get(revision)
            if found is None:
                return None
            self._start(self._service(service), found)
            known = {"ready": True, "failed": False}.get(found.state)
            return RevisionView(known, found.message)

    def revisions(self, service: str) -> list[str]:
        """Return the names of a service's revisions, newest first."""
        with self._lock:
            return list(reversed(self._service(service).revisions))

    def facts(self, service: str) -> list[RevisionFacts]:
        """Return what is kept of each of a service's revisions, newest first."""
        with self._lock:
            found = self._service(service).revisions
            return [_facts(name, made) for name, made in reversed(found.items())]

    def delete_revision(self, service: str, revision: str) -> bool:
        """Delete a revision; False where it is tagged, serves, or is the latest."""
        with self._lock:
            found = self._service(service)
            used = {
                *(found.latest_created, found.latest_ready),
                *(*found.split, *found.served),
                *(*found.tags.values(), *found.served_tags.values()),
            }
            if revision not in used:
                found.revisions.pop(revision, None)
            return revision not in used

    def write_traffic(
        self, seen: ServiceView, split: Mapping[str, int], tags: Mapping[str, str], token: int
    ) -> None:
        """Write split, tags and token over exactly the service that was seen; Stale otherwise."""
        with self._lock:
            service = self._service(seen.name)
            self._check_etag(service, seen)
            if sum(split.values()) != 100:
                raise Refused(f"Traffic targets sum to {sum(split.values())}, want 100")
            service.split = {revision: share for revision, share in split.items() if share}
            service.tags = dict(tags)
            service.annotations = marks_of_traffic(seen.annotations, split, token)
            self._wrote(service)
        self.wrote(token, split)

    def write_template(self, seen: ServiceView, deployment: Deployment, revision: str) -> None:
        """Write the template of a new revision over the service that was seen; Stale otherwise."""
        with self._lock:
            service = self._service(seen.name)
            self._check_etag(service, seen)
            known = service.revisions.get(revision)
            if known is None:
                service.revisions[revision] = FakeRevision(
                    deployment, reads_until_known=self.starts_after
                )
                service.latest_created = revision
                service.min_instances = deployment.config.min_instances
                if not self.starts_after:
                    self._start(service, service.revisions[revision])
            elif known.made_for is None or _template(known.made_for) != _template(deployment):
                raise Refused(f"Revision named '{revision}' with different configuration exists")
            self._wrote(service)

    def _service(self, name: str) -> FakeService:
        if name not in self.services:
            raise NotFound(f"Cloud Run has no service {name!r}")
        return self.services[name]

    def _check_etag(self, service: FakeService, seen: ServiceView) -> None:
        if str(service.etag) != seen.etag:
            raise Stale(f"{seen.name} has etag {service.etag}, not {seen.etag}")

    def _wrote(self, service: FakeService) -> None:
        service.etag += 1
        service.reads_until_served = self.serves_after
        if not self.serves_after:
            self._serve(service)

    def _start(self, service: FakeService, revision: FakeRevision) -> None:
        if revision.state != "deploying":
            return
        if revision.reads_until_known:
            revision.reads_until_known -= 1
            return
        assert revision.made_for is not None
        revision.message = self.fate(revision.made_for)
        revision.state = "failed" if revision.message else "ready"
        if not service.reads_until_served:
            self._serve(service)

    def _serve(self, service: FakeService) -> None:
        wanted = {*filter(None, service.split), *service.tags.values()}
        if any(
            name not in service.revisions or service.revisions[name].state != "ready"
            for name in wanted
        ):
            return
        served: dict[str, int] = {}
        for revision, share in service.split.items():
            name = revision or service.latest_ready
            served[name] = served.get(name, 0) + share
        service.served, service.served_tags = served, dict(service.tags)


@dataclass
class Preparation:
    """How the preparation of a model goes: what its tasks find, or why they do not end.

    `refused` is every task's reason; `fails` is Cloud Run's message of an execution whose
    tasks leave no verdict. `customers` are those of customers.txt; `reads_until_done` counts
    the looks at an execution that see none of its tasks done.
    """

    refused: str = ""
    fails: str = ""
    customers: int = 671
    products: int = 50
    recall: float | None = None
    reads_until_done: int = 0


@dataclass
class FakeJobExecution:
    """An execution: for whom, and how far it is."""

    deployment: Deployment
    behaviour: Preparation
    state: JobState = JobState.RUNNING
    message: str = ""
    ended: int = 0
    succeeded: int = 0


class FakeJobs:
    """Jobs whose tasks end one a look, and write what the serving image's would.

    `behaviours` says by training run how it goes; `cancelling` is told of each cancel, and
    may raise.
    """

    def __init__(self, objects: FakeObjects) -> None:
        self.behaviours: dict[int, Preparation] = {}
        self.cancelling: Callable[[str], object] = lambda _: None
        self.executions: dict[str, FakeJobExecution] = {}
        self.declared: set[str] = set()
        self._objects = objects
        self._lock = threading.Lock()

    def declare(self, name: str) -> None:
        """Create a job as Terraform does."""
        self.declared.add(name)

    def start(self, deployment: Deployment) -> str:
        """Start one for the deployment; return its resource name."""
        job = deployment.config.job
        if job not in self.declared:
            raise NotFound(f"Cloud Run has no job {job!r}")
        behaviour = self.behaviours.setdefault(deployment.training_run, Preparation())
        with self._lock:
            name = f"jobs/{job}/executions/{job}-{len(self.executions) + 1}"
            self.executions[name] = FakeJobExecution(deployment, replace(behaviour))
        return name

    def execution(self, name: str) -> JobView | None:
        """Return an execution as it is now, or None."""
        with self._lock:
            found = self.executions.get(name)
            if found is None:
                return None
            self._go_on(found)
            tasks = found.deployment.config.prepare.tasks
            logs = f"https://logs.test/{name}"
            return JobView(found.state, found.message, found.succeeded, tasks, logs)

    def cancel(self, name: str) -> None:
        """Ask it to stop; one that ended already, or is unknown, stays as it is."""
        self.cancelling(name)
        with self._lock:
            found = self.executions.get(name)
            if found and found.state is JobState.RUNNING:
                found.state, found.message = JobState.CANCELLED, "the execution was cancelled"

    def _go_on(self, execution: FakeJobExecution) -> None:
        if execution.state is not JobState.RUNNING:
            return
        behaviour, tasks = execution.behaviour, execution.deployment.config.prepare.tasks
        if behaviour.reads_until_done:
            behaviour.reads_until_done -= 1
            return
        if not behaviour.fails:
            self._write(execution.deployment, execution.ended, behaviour)
        execution.ended += 1
        execution.succeeded += not (behaviour.fails or behaviour.refused)
        if execution.ended == tasks:
            failed = behaviour.fails or ("a task exited with code 1" if behaviour.refused else "")
            execution.state = JobState.FAILED if failed else JobState.SUCCEEDED
            execution.message = failed

    def _write(self, deployment: Deployment, task: int, behaviour: Preparation) -> None:
        prepare = deployment.config.prepare
        of = f"{task:05d}-of-{prepare.tasks:05d}"
        prefix = deployment.serving_model_path.removeprefix("gs://serving/")
        wanted = min(behaviour.customers, prepare.customers or behaviour.customers)
        share = len(range(task, wanted, prepare.tasks)) if prepare.top_k else 0
        files = []
        if share and not behaviour.refused:
            path = f"prepared/answers-{of}.table"
            self._objects.create("serving", prefix + path, f"answers {of}".encode(), "table")
            [stored] = self._objects.list("serving", prefix + path)
            files.append(
                {
                    "path": path,
                    "size": stored.size,
                    "crc32c": stored.crc32c,
                    "generation": stored.generation,
                }
            )
        verdict = {
            "schema_version": 1,
            "digest": deployment.artifact_digest,
            "task": task,
            "tasks": prepare.tasks,
            "refused": behaviour.refused,
            "code": "model_contract" if behaviour.refused else "",
            "files": files,
            "products": behaviour.products,
            "customers": share,
            "top_k": prepare.top_k,
            "recall": behaviour.recall if task == 0 else None,
        }
        name = f"{prefix}prepared/task-{of}.json"
        self._objects.create("serving", name, json.dumps(verdict).encode(), "application/json")


class FakeExecutions:
    """Executions that stay ACTIVE until a test ends them; `started` is told of each."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.deployments: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.started: Callable[[str, Deployment], None] = lambda *_: None

    def start(self, deployment: Deployment) -> str:
        """Start one for the deployment; return its resource name."""
        name = f"executions/{len(self.states) + 1}"
        self.states[name] = "ACTIVE"
        self.deployments[name] = deployment.id
        self.started(name, deployment)
        return name

    def end(self, execution: str, state: str, error: str = "") -> None:
        """Let an execution end."""
        self.states[execution] = state
        self.errors[execution] = error

    def state(self, execution: str) -> str:
        """Return its state, or GONE where there is none."""
        return self.states.get(execution, "GONE")

    def error(self, execution: str) -> str:
        """Return why it failed, in a line."""
        if execution not in self.states:
            return "its record is gone"
        return self.errors.get(execution) or self.states[execution].lower()

    def cancel(self, execution: str) -> None:
        """Ask it to stop; one that ended already, or is unknown, stays as it is."""
        if self.states.get(execution) == "ACTIVE":
            self.cancelled.append(execution)
            self.end(execution, "CANCELLED")


class FakeTopic:
    """A topic that remembers what was published; `before` may raise, as an outage does."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, dict[str, str]]] = []
        self.before: Callable[[], None] = lambda: None

    def publish(self, data: bytes, attributes: Mapping[str, str]) -> str:
        """Keep the message; return its id."""
        self.before()
        self.messages.append((data, dict(attributes)))
        return str(len(self.messages))


class FakeChat:
    """A room that remembers what was posted; `before` may raise, as a webhook's answer does."""

    def __init__(self) -> None:
        self.posts: list[str] = []
        self.before: Callable[[], None] = lambda: None

    def post(self, text: str) -> None:
        """Keep the message."""
        self.before()
        self.posts.append(text)


class FakePosts:
    """Which events were posted, in memory; a claim blocks others for 60 s."""

    def __init__(self) -> None:
        self._claims: dict[str, tuple[bool, datetime]] = {}
        self._lock = threading.Lock()

    def claim(self, announcement_id: str, at: datetime) -> bool:
        """Return True where the caller is to post it, False where that was done."""
        with self._lock:
            done, claimed_at = self._claims.get(announcement_id, (False, at - timedelta(hours=1)))
            if done:
                return False
            if claimed_at + timedelta(seconds=60) > at:
                raise Unavailable(f"event {announcement_id!r} is being posted just now")
            self._claims[announcement_id] = (False, at)
            return True

    def posted(self, announcement_id: str) -> None:
        """Remember that it was posted."""
        self._claims[announcement_id] = (True, self._claims[announcement_id][1])

    def give_back(self, announcement_id: str) -> None:
        """Let the next delivery try."""
        self._claims.pop(announcement_id, None)


class FakeKeys:
    """API keys of which only the hash is kept."""

    def __init__(self) -> None:
        self.active: dict[str, bool] = {}
        self.lifetimes_s: dict[str, float | None] = {}

    def create(
        self, model_id: str, name: str, created_by: str, lifetime_s: float | None
    ) -> tuple[str, str]:
        """Create a key; return its id and the plain key."""
        assert model_id
        assert name
        assert created_by
        plain = secrets.token_urlsafe(32)
        key_id = _hash(plain)
        self.active[key_id] = True
        self.lifetimes_s[key_id] = lifetime_s
        return key_id, plain

    def revoke(self, key_id: str) -> None:
        """Make a key invalid; NotFound where there is none."""
        if key_id not in self.active:
            raise NotFound(f"there is no API key {key_id!r}")
        self.active[key_id] = False

    def accepts(self, plain: str) -> bool:
        """Say whether the prediction API would take the key."""
        return self.active.get(_hash(plain), False)


@dataclass
class Behaviour:
    """How a model's container answers: changes to what a healthy one says.

    `ranks` gives a customer's products, best first; `answers` is told whom a request asks for,
    and returns its status.
    """

    health_status: int = 200
    health: Mapping[str, Any] = field(default_factory=dict)
    healthy_after: int = 0
    status: int = 200
    products: int = 50
    scores: Callable[[int], float] = lambda rank: 1.0 - rank / 100
    ranks: Callable[[str, int], Sequence[str]] = lambda _, top_k: [f"p{n}" for n in range(top_k)]
    answers: Callable[[Sequence[str]], int] = lambda _: 200
    results: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda results: results


class FakePredictions:
    """The prediction API of the revisions of a FakeCloudRun; `behaviours` by training run."""

    def __init__(self, cloud_run: FakeCloudRun, keys: FakeKeys) -> None:
        self.behaviours: dict[int, Behaviour] = {}
        self._cloud_run = cloud_run
        self._keys = keys

    def health(self, url: str, timeout_s: float = 60) -> tuple[int, Mapping[str, Any]]:
        """Return status code and body of GET /health; Unavailable without an answer."""
        assert timeout_s > 0
        deployment = self._cloud_run.deployment_at(url)
        if deployment is None:
            return 503, {"status": "unhealthy", "reason": "no model is deployed yet"}
        behaviour = self._behaviour(deployment)
        if behaviour.healthy_after:
            behaviour.healthy_after -= 1
            return 503, {"status": "starting", "reason": "the model is being loaded"}
        body = {
            "status": "healthy",
            "model_id": deployment.model_id,
            "model_version": deployment.name,
            "training_run": deployment.training_run,
            "artifact_digest": deployment.artifact_digest,
            "products": behaviour.products,
        }
        return behaviour.health_status, {**body, **behaviour.health}

    def recommend(
        self, url: str, key: str, customers: Sequence[str], top_k: int
    ) -> tuple[int, Mapping[str, Any]]:
        """Return status code and body of POST /recommend-batch; Unavailable without an answer."""
        deployment = self._cloud_run.deployment_at(url)
        if not self._keys.accepts(key):
            return 401, {"detail": "the API key is not valid"}
        if deployment is None:
            return 503, {"detail": "no model is deployed yet"}
        behaviour = self._behaviour(deployment)
        if behaviour.status != 200:
            return behaviour.status, {"detail": "the model failed"}
        if (status := behaviour.answers(customers)) != 200:
            return status, {"detail": "the model failed"}
        results = [
            {
                "customer_id": name,
                "recommendations": [
                    {"product_id": product, "score": behaviour.scores(rank)}
                    for rank, product in enumerate(behaviour.ranks(name, top_k))
                ],
            }
            for name in customers
        ]
        return 200, {"results": behaviour.results(results), "model_version": deployment.name}

    def _behaviour(self, deployment: Deployment) -> Behaviour:
        return self.behaviours.setdefault(deployment.training_run, Behaviour())


class FakeRequestBlocks:
    """What was requested of which revision, as a test says; `before` may raise, as an outage does.

    A request counts at the time it ended, in blocks of (begin, end], as in Monitoring.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.before: Callable[[], None] = lambda: None
        self._measured: list[tuple[str, str, datetime, Side]] = []

    def count(
        self,
        service: str,
        revision: str,
        at: datetime,
        requests: int,
        errors: int = 0,
        latency_ms: float | None = 10.0,
    ) -> None:
        """Measure requests, `errors` of them 5xx; None leaves their latencies out."""
        latencies = None
        if latency_ms is not None:
            counts = [0] * (len(BOUNDS_MS) + 1)
            counts[bisect.bisect_right(BOUNDS_MS, latency_ms)] = requests
            latencies = Histogram(requests, latency_ms, BOUNDS_MS, tuple(counts))
        self._measured.append((service, revision, at, Side(requests, errors, latencies)))

    def window(
        self, service: str, begin: datetime, block_s: int, blocks: int
    ) -> Mapping[str, Sequence[Side]]:
        """Return each revision's blocks, in order."""
        self.asked += 1
        self.before()
        found: dict[str, list[Side]] = {}
        for of, revision, at, side in self._measured:
            index = math.ceil((at - begin).total_seconds() / block_s) - 1
            if of == service and 0 <= index < blocks:
                sides = found.setdefault(revision, [Side()] * blocks)
                sides[index] = _both(sides[index], side)
        return found


BOUNDS_MS = tuple(0.5 * 1.1**index for index in range(161))


def _both(one: Side, other: Side) -> Side:
    timed = [side.latencies for side in (one, other) if side.latencies]
    latencies = merge(timed) if timed else None
    return Side(one.requests + other.requests, one.errors + other.errors, latencies)


class FakeJudges:
    """Webhooks that say what a test lets them; `asked` has what each was told."""

    def __init__(self) -> None:
        self.says: dict[str, Judgement] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, url: str, facts: Mapping[str, Any]) -> Judgement:
        """Return what the webhook says."""
        self.asked.append((url, dict(facts)))
        return self.says[url]


@dataclass
class World:
    """All fakes of one model's world, and the ports made of them."""

    state: FakeState
    objects: FakeObjects
    cloud_run: FakeCloudRun
    jobs: FakeJobs
    executions: FakeExecutions
    dead_letters: FakeTopic
    events: FakeTopic
    predictions: FakePredictions
    keys: FakeKeys
    clock: FakeClock
    requests: FakeRequestBlocks = field(default_factory=FakeRequestBlocks)
    judges: FakeJudges = field(default_factory=FakeJudges)

    @staticmethod
    def of(*declarations: ModelDeclaration) -> World:
        """Return a world in which the models are declared and nothing has happened."""
        cloud_run, keys = FakeCloudRun(), FakeKeys()
        objects = FakeObjects("training", "serving")
        jobs = FakeJobs(objects)
        for declaration in declarations:
            cloud_run.declare(declaration.config.service)
            jobs.declare(declaration.config.job)
        return World(
            state=FakeState(*declarations),
            objects=objects,
            cloud_run=cloud_run,
            jobs=jobs,
            executions=FakeExecutions(),
            dead_letters=FakeTopic(),
            events=FakeTopic(),
            predictions=FakePredictions(cloud_run, keys),
            keys=keys,
            clock=FakeClock(),
        )

    def judging(self) -> JudgePorts:
        """Return what judging a stage needs beside the ports."""
        return JudgePorts(self.requests, self.judges)

    def ports(self, **others: Any) -> Ports:
        """Return the ports; `others` replaces some of them."""
        return replace(
            Ports(
                settings=SETTINGS,
                state=self.state,
                objects=self.objects,
                cloud_run=self.cloud_run,
                jobs=self.jobs,
                executions=self.executions,
                dead_letters=self.dead_letters,
                events=self.events,
                predictions=self.predictions,
                keys=self.keys,
                clock=self.clock,
            ),
            **others,
        )


def _url(service: str, tag: str = "") -> str:
    return f"https://{tag}---{service}.test" if tag else f"https://{service}.test"


def _facts(name: str, revision: FakeRevision) -> RevisionFacts:
    """What Cloud Run keeps of a revision: its template; of v0, what Terraform gave it."""
    made_for = revision.made_for
    if made_for is None:
        return RevisionFacts(name, revision.created_at, "serving", "", "", "", 0, 0, 0)
    config, env = made_for.config, model_environment(made_for)
    if made_for.prepared_digest:
        env["PREPARED_DIGEST"] = made_for.prepared_digest
    return RevisionFacts(
        name=name,
        created_at=revision.created_at,
        image=config.image,
        service_account=config.service_account,
        cpu=config.cpu,
        memory=config.memory,
        max_instances=config.max_instances,
        concurrency=config.concurrency,
        startup_timeout_s=config.startup_timeout_s,
        env=env,
        annotations=marks_of_revision(made_for),
    )


def _template(deployment: Deployment) -> tuple[object, ...]:
    """What of a deployment the template is made of."""
    return (
        deployment.config,
        deployment.model_id,
        deployment.version,
        deployment.training_run,
        deployment.serving_model_path,
        deployment.artifact_digest,
        deployment.prepared_digest,
    )


def _hash(plain: str) -> str:
    return sha256(plain.encode()).hexdigest()
