"""What the use cases need from outside, as small protocols; `wiring` fills them with Google's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from shared.config import Settings
from shared.domain.announcement import Announcement
from shared.domain.canary import Judgement, Side
from shared.domain.deployment import Deployment
from shared.domain.model import Book, Model
from shared.domain.remains import RevisionFacts
from shared.domain.serving_metrics import RevisionHour, ServingHour
from shared.messages import ModelDeclaration

T = TypeVar("T")


class State(Protocol):
    """Models, deployments and runs, in Firestore."""

    def declaration(self, model_id: str) -> ModelDeclaration | None:
        """Return a model's declared configuration, or None for an unknown model."""
        ...

    def model_ids(self) -> list[str]:
        """Return the ids of all declared models."""
        ...

    def model(self, model_id: str) -> Model:
        """Return the pipeline's state of a model."""
        ...

    def deployment(self, deployment_id: str) -> Deployment:
        """Return a deployment; NotFound where there is none."""
        ...

    def glance(self, deployment_id: str) -> Deployment | None:
        """Return a deployment; None where it is not there, or does not come at once."""
        ...

    def deployments(self, model_id: str) -> list[Deployment]:
        """Return a model's deployments, newest version first."""
        ...

    def every_deployment(self, model_id: str) -> list[Deployment]:
        """Return all of a model's deployments, however many, newest version first."""
        ...

    def deploying(self, model_id: str) -> list[Deployment]:
        """Return a model's deployments that roll out or wait."""
        ...

    def change(self, model_id: str, move: Callable[[Book], T]) -> T:
        """Run `move` in one transaction; it runs again when another writer came between."""
        ...

    def outbox(self, at_most: int) -> list[Announcement]:
        """Return recorded events that were not announced yet, the oldest first."""
        ...

    def announced(self, announcement_id: str) -> None:
        """Take an event out of the outbox; one that is gone stays gone."""
        ...

    def take_news(self) -> bool:
        """Return True once after this thread recorded an event; reads nothing."""
        ...

    def run(self, run_id: str) -> Mapping[str, Any] | None:
        """Return a training run as stored, or None."""
        ...

    def record_run(self, run_id: str, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create the training run where it is new; return what is stored."""
        ...

    def decide(
        self, run_id: str, request_id: str, decision: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Keep the gate's decision on a request where there is none; return what is kept."""
        ...

    def record_refusal(self, message_id: str, refusal: Mapping[str, Any]) -> None:
        """Keep why a message was refused, under its own id."""
        ...


@dataclass(frozen=True)
class StoredObject:
    """One object of a bucket: name, size in bytes, checksum as Cloud Storage gives it."""

    name: str
    size: int
    crc32c: str
    generation: int


class Objects(Protocol):
    """Buckets of Cloud Storage."""

    def list(self, bucket: str, prefix: str) -> list[StoredObject]:
        """Return the objects below `prefix`, sorted by name."""
        ...

    def copy(
        self, source_bucket: str, source: StoredObject, bucket: str, name: str
    ) -> StoredObject:
        """Copy exactly that generation, never over another object; return the copy."""
        ...

    def read(self, bucket: str, name: str) -> bytes | None:
        """Return an object's content, or None."""
        ...

    def create(self, bucket: str, name: str, content: bytes, content_type: str) -> bool:
        """Write an object that must not exist yet; False where it does."""
        ...

    def delete(self, bucket: str, stored: StoredObject) -> None:
        """Delete exactly that generation; another one, or none, stays as it is."""
        ...


@dataclass(frozen=True)
class ServiceView:
    """A Cloud Run service as it is now.

    `split`, `tag_urls` and `served_tags` (tag to revision) come from `traffic_statuses`, what is
    really served; `written` and `tags` from the specification. `names_all` is False while that
    leaves any traffic to LATEST. `token` is the fencing token of the last write of traffic,
    `lived` the versions that had all of it: see `domain.marks`.
    """

    name: str
    etag: str
    url: str
    split: Mapping[str, int]
    tag_urls: Mapping[str, str]
    tags: Mapping[str, str]
    annotations: Mapping[str, str]
    names_all: bool
    written: Mapping[str, int]
    token: int = 0
    lived: tuple[int, ...] = ()
    served_tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RevisionView:
    """A revision's own word: ready (None: not yet known) and Cloud Run's message."""

    ready: bool | None
    message: str


class CloudRun(Protocol):
    """Services and revisions. Every write carries an etag; Stale says that it was old.

    Or that nothing was answered: the write may have happened, and then the etag is old.
    """

    def service(self, name: str) -> ServiceView:
        """Return the service; NotFound where there is none."""
        ...

    def revision(self, service: str, revision: str) -> RevisionView | None:
        """Return a revision by its name, or None."""
        ...

    def revisions(self, service: str) -> list[str]:
        """Return the names of a service's revisions, newest first."""
        ...

    def facts(self, service: str) -> list[RevisionFacts]:
        """Return what is kept of each of a service's revisions, newest first."""
        ...

    def delete_revision(self, service: str, revision: str) -> bool:
        """Delete a revision; False where Cloud Run refuses: it is tagged, serves, or is the latest.

        One that is gone already is deleted.
        """
        ...

    def write_traffic(
        self, seen: ServiceView, split: Mapping[str, int], tags: Mapping[str, str], token: int
    ) -> None:
        """Write split and tags over exactly the service that was seen; Stale otherwise."""
        ...

    def write_template(self, seen: ServiceView, deployment: Deployment, revision: str) -> None:
        """Write the template of a new revision over the service that was seen; Stale otherwise."""
        ...


class Stale(Exception):
    """The service changed after it was read, or may have: read, check the token, write again."""


class JobState(StrEnum):
    """How an execution of a job stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class JobView:
    """An execution of a job: its state, Cloud Run's message, tasks that succeeded of all.

    `logs` is where its logs are, for people.
    """

    state: JobState
    message: str
    done: int
    tasks: int
    logs: str


class Jobs(Protocol):
    """Executions of the Cloud Run jobs that prepare models."""

    def start(self, deployment: Deployment) -> str:
        """Start one for the deployment, and do not wait; return its resource name.

        NotFound where the model has no job.
        """
        ...

    def execution(self, name: str) -> JobView | None:
        """Return an execution as it is now, or None."""
        ...

    def cancel(self, name: str) -> None:
        """Ask it to stop; one that ended already, or is unknown, stays as it is."""
        ...


class Executions(Protocol):
    """Executions of the workflow."""

    def start(self, deployment: Deployment) -> str:
        """Start one for the deployment; return its resource name."""
        ...

    def state(self, execution: str) -> str:
        """Return ACTIVE, SUCCEEDED, FAILED, CANCELLED, ..., or GONE where there is none."""
        ...

    def error(self, execution: str) -> str:
        """Return why it failed, in a line."""
        ...

    def cancel(self, execution: str) -> None:
        """Ask it to stop; one that ended already stays as it is."""
        ...


class Topic(Protocol):
    """A topic to publish to."""

    def publish(self, data: bytes, attributes: Mapping[str, str]) -> str:
        """Publish, wait for the acknowledgement, return the message's id."""
        ...


class Predictions(Protocol):
    """The prediction API of a revision."""

    def health(self, url: str, timeout_s: float = 60) -> tuple[int, Mapping[str, Any]]:
        """Return status code and body of GET /health; Unavailable without an answer in time."""
        ...

    def recommend(
        self, url: str, key: str, customers: Sequence[str], top_k: int
    ) -> tuple[int, Mapping[str, Any]]:
        """Return status code and body of POST /recommend-batch."""
        ...


class Keys(Protocol):
    """API keys of the prediction API."""

    def create(
        self, model_id: str, name: str, created_by: str, lifetime_s: float | None
    ) -> tuple[str, str]:
        """Create a key; return its id and the plain key, which is stored nowhere."""
        ...

    def revoke(self, key_id: str) -> None:
        """Make a key invalid; NotFound where there is none."""
        ...


class Clock(Protocol):
    """Time, injected."""

    def now(self) -> datetime:
        """Return the time, with its zone."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


@dataclass(frozen=True)
class Ports:
    """All of them, and the settings."""

    settings: Settings
    state: State
    objects: Objects
    cloud_run: CloudRun
    jobs: Jobs
    executions: Executions
    dead_letters: Topic
    events: Topic
    predictions: Predictions
    keys: Keys
    clock: Clock


class RequestMetrics(Protocol):
    """What Cloud Run measured of requests."""

    def hours(self, service: str, begin: datetime, until: datetime) -> list[RevisionHour]:
        """Return each revision's hours from `begin` (a full hour) until `until`."""
        ...


class RequestBlocks(Protocol):
    """What Cloud Run measured of requests, in short blocks."""

    def window(
        self, service: str, begin: datetime, block_s: int, blocks: int
    ) -> Mapping[str, Sequence[Side]]:
        """Return each revision's `blocks` blocks of `block_s` seconds from `begin`, in order.

        A revision without any request is not there. Unavailable when nothing answers.
        """
        ...


class Judges(Protocol):
    """Other judges of a canary: webhooks."""

    def ask(self, url: str, facts: Mapping[str, Any]) -> Judgement:
        """Return what the webhook says; whatever is no answer is inconclusive."""
        ...


@dataclass(frozen=True)
class JudgePorts:
    """What judging a stage needs beside the rest; no other function does."""

    requests: RequestBlocks
    judges: Judges


class ServingHours(Protocol):
    """The hourly serving metrics, in Firestore."""

    def collected_until(self, model_id: str) -> datetime | None:
        """Return the hour before which every hour was collected, or None at the first time."""
        ...

    def note_collected(self, model_id: str, until: datetime, at: datetime) -> None:
        """Write how far was collected."""
        ...

    def sketches(self, model_id: str, hour: datetime) -> Mapping[int, Sequence[bytes]]:
        """Return the sketches of customers that containers wrote of an hour, by version."""
        ...

    def write(self, hours: Sequence[ServingHour]) -> None:
        """Write each hour over what was there."""
        ...


@dataclass(frozen=True)
class MetricsPorts:
    """What collecting serving metrics needs; no other function does."""

    state: State
    requests: RequestMetrics
    hours: ServingHours
    clock: Clock


class Chat(Protocol):
    """A room where people read what happens."""

    def post(self, text: str) -> None:
        """Post a message; Refused where it can never succeed, Unavailable where it may."""
        ...


class Posts(Protocol):
    """What was posted already, for as long as a message may come again."""

    def claim(self, announcement_id: str, at: datetime) -> bool:
        """Return True where the caller is to post it, False where that was done.

        Unavailable while another delivery of the same event is at it.
        """
        ...

    def posted(self, announcement_id: str) -> None:
        """Remember that it was posted."""
        ...

    def give_back(self, announcement_id: str) -> None:
        """Let the next delivery try."""
        ...


@dataclass(frozen=True)
class ChatPorts:
    """What telling people needs; `dashboard_url` is where links go."""

    chat: Chat
    posts: Posts
    clock: Clock
    dashboard_url: str
