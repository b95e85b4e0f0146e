"""Puts Google's clients behind the ports. Nothing connects before the first call."""

from __future__ import annotations

import functools
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from google.cloud import firestore, run_v2
from google.cloud.pubsub_v1 import PublisherClient
from google.cloud.storage import Client as StorageClient
from google.cloud.workflows import executions_v1

from shared.config import DEAD_LETTER_TOPIC, EVENTS_TOPIC, ChatSettings, Settings
from shared.gcp.chat import Webhook
from shared.gcp.cloud_run import RunServices
from shared.gcp.firestore import FirestoreKeys, FirestorePosts, FirestoreState
from shared.gcp.jobs import RunJobs
from shared.gcp.predictions import HttpPredictions
from shared.gcp.pubsub import PUBLISH_TIMEOUT_S, Topic
from shared.gcp.regions import ModelRegions
from shared.gcp.serving_metrics import FirestoreServingHours
from shared.gcp.storage import StorageObjects
from shared.gcp.webhooks import HttpJudges
from shared.gcp.workflows import WorkflowExecutions
from shared.ports import ChatPorts, JudgePorts, MetricsPorts, Ports

if TYPE_CHECKING:
    from shared.gcp.monitoring import RunMetrics

EVENTS_TIMEOUT_S = 2.0


class SystemClock:
    """The real time."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@functools.cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings.from_environment()


@functools.cache
def firestore_client() -> firestore.Client:
    """The Firestore client of this process."""
    return firestore.Client(project=settings().project)


def grpc_client(kind: Any) -> Any:
    """Return a client of `kind` for the settings' endpoint.

    Google's clients for Run, Executions and Monitoring know no *_EMULATOR_HOST of their
    own; a plaintext server is reached through a channel in their own transport.
    """
    if not settings().grpc_emulator:
        return kind()
    transport = kind.get_transport_class("grpc")
    return kind(transport=transport(channel=grpc.insecure_channel(settings().grpc_emulator)))


def topic(name: str, timeout_s: float = PUBLISH_TIMEOUT_S) -> Topic:
    """Return a topic of the project, to publish to."""
    return _topic(settings().project, name, timeout_s)


@functools.cache
def _topic(project: str, name: str, timeout_s: float) -> Topic:
    # A client of its own: one sends the batches of all its topics in the thread of whoever
    # published first, so that a call would not be told to be of whoever published.
    return Topic(PublisherClient(), project, name, timeout_s)


@functools.cache
def state() -> FirestoreState:
    """The pipeline's documents."""
    return FirestoreState(firestore_client())


@functools.cache
def keys() -> FirestoreKeys:
    """The API keys."""
    return FirestoreKeys(firestore_client())


@functools.cache
def cloud_run() -> RunServices:
    """Cloud Run's services and revisions."""
    return RunServices(
        grpc_client(run_v2.ServicesClient),
        grpc_client(run_v2.RevisionsClient),
        settings(),
        _regions().parent,
    )


@functools.cache
def jobs() -> RunJobs:
    """Executions of the jobs that prepare models."""
    return RunJobs(
        grpc_client(run_v2.JobsClient),
        grpc_client(run_v2.ExecutionsClient),
        _regions().parent,
    )


@functools.cache
def _regions() -> ModelRegions:
    return ModelRegions(firestore_client(), settings())


@functools.cache
def executions() -> WorkflowExecutions:
    """Executions of the deployment workflow."""
    return WorkflowExecutions(grpc_client(executions_v1.ExecutionsClient), settings())


def _storage_client() -> StorageClient:
    # Otherwise it asks for every bucket beside the first call, for traces that nobody makes: that
    # takes storage.buckets.get, which no part has, and would be a refusal in the audit log.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    return StorageClient(project=settings().project)


@functools.cache
def ports() -> Ports:
    """Everything that a function needs, made once a process."""
    return Ports(
        settings=settings(),
        state=state(),
        objects=StorageObjects(_storage_client()),
        cloud_run=cloud_run(),
        jobs=jobs(),
        executions=executions(),
        dead_letters=topic(DEAD_LETTER_TOPIC),
        # Functions publish their news before they answer: the outbox keeps what takes longer.
        events=topic(EVENTS_TOPIC, EVENTS_TIMEOUT_S),
        predictions=HttpPredictions(),
        keys=keys(),
        clock=SystemClock(),
    )


@functools.cache
def metrics_ports() -> MetricsPorts:
    """What collecting serving metrics needs, made once a process."""
    return MetricsPorts(
        state=state(),
        requests=_request_metrics(),
        hours=FirestoreServingHours(firestore_client()),
        clock=SystemClock(),
    )


@functools.cache
def chat_ports() -> ChatPorts:
    """What telling people needs, made once a process."""
    chat = ChatSettings.from_environment(settings())
    return ChatPorts(
        chat=Webhook(chat.webhook),
        posts=FirestorePosts(firestore_client()),
        clock=SystemClock(),
        dashboard_url=chat.dashboard_url,
    )


@functools.cache
def judge_ports() -> JudgePorts:
    """What judging a stage needs beside the rest, made once a process."""
    return JudgePorts(requests=_request_metrics(), judges=HttpJudges())


def _request_metrics() -> RunMetrics:
    # Imported here: no other function should pay for Monitoring's client at its start.
    from google.cloud import monitoring_v3

    from shared.gcp.monitoring import RunMetrics

    return RunMetrics(grpc_client(monitoring_v3.MetricServiceClient), settings())
