"""Declares the project in the local cloud: what Terraform applies in production.

Only through Google's own clients, and only as "create unless it is there", so it runs at
every start.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from google.api_core.exceptions import AlreadyExists, NotFound
from google.api_core.exceptions import Conflict as BucketExists
from google.cloud import firestore, run_v2
from google.cloud.pubsub_v1 import PublisherClient, SchemaServiceClient, SubscriberClient
from google.cloud.storage import Client as StorageClient
from google.pubsub_v1.types import Encoding, Schema

from localcloud.scheduler import Job
from shared import wiring
from shared.config import (
    DEAD_LETTER_TOPIC,
    EVENTS_DEAD_LETTER_TOPIC,
    EVENTS_TOPIC,
    TRAINING_TOPIC,
    Settings,
)
from shared.messages import ModelDeclaration, check_plan

SCHEMAS = Path(__file__).parents[1] / "shared"
MODELS_FILE = Path(__file__).parents[1] / "terraform" / "models.auto.tfvars.json"
# What a declaration leaves out is as in terraform/variables.tf.
IMAGE = "turnout-serving"
# In production it is longer than the function may take; here nobody waits that long.
PUSH_DEADLINE_S = 60
DELIVERIES_AT_MOST = 50
# News that cannot be told for an hour or so is no news any more.
CHAT_DELIVERIES_AT_MOST = 15
TASK_RETRIES, TASK_TIMEOUT_S = 1, 3600
# In production metrics are collected at minute 7 of each hour; here nobody waits that long.
SCHEDULES = {"reconcile": "* * * * *", "collect_metrics": "* * * * *"}


def service_account(project: str, name: str) -> str:
    """Return the e-mail of one of the project's service accounts."""
    return f"{name}@{project}.iam.gserviceaccount.com"


def read_models(path: Path, project: str) -> list[ModelDeclaration]:
    """Return the models of a declaration file; ValueError says what is wrong in it."""
    declared = json.loads(path.read_text())["models"]
    models = []
    for model_id, fields in declared.items():
        email = service_account(project, fields.get("service_account", "serving"))
        model = ModelDeclaration.model_validate(
            {"image": IMAGE, **fields, "model_id": model_id, "service_account": email}
        )
        check_plan(model.policy)
        models.append(model)
    return models


def declare(settings: Settings, models: Iterable[ModelDeclaration]) -> None:
    """Create what is missing: topics, subscriptions, buckets, configurations, services, jobs."""
    _topics(settings)
    storage = StorageClient(project=settings.project)
    for bucket in (settings.serving_bucket, *sorted(settings.training_buckets)):
        try:
            storage.create_bucket(bucket)
        except BucketExists:
            continue
    database = firestore.Client(project=settings.project)
    services = wiring.grpc_client(run_v2.ServicesClient)
    run_jobs = wiring.grpc_client(run_v2.JobsClient)
    for model in models:
        parent = f"projects/{settings.project}/locations/{model.region or settings.region}"
        _service(parent, model, services)
        _job(parent, model, run_jobs)
        # Terraform owns this document and writes all of it; the pipeline only reads it. After
        # the service, whose region cannot be declared to be another one.
        document = database.collection("model_configs").document(model.model_id)
        document.set(model.model_dump(mode="json"))


def jobs(settings: Settings) -> list[Job]:
    """Return the scheduled calls."""
    email = service_account(settings.project, "scheduler")
    urls = {name: f"{settings.functions_url}/{name}" for name in SCHEDULES}
    return [
        Job(name.replace("_", "-"), schedule, urls[name], email, urls[name], attempt_deadline_s=300)
        for name, schedule in SCHEDULES.items()
    ]


def _topics(settings: Settings) -> None:
    _topic(
        settings,
        TRAINING_TOPIC,
        DEAD_LETTER_TOPIC,
        SCHEMAS / "training_completed.proto",
        "on_training_completed",
        "training-trigger",
        DELIVERIES_AT_MOST,
    )
    _topic(
        settings,
        EVENTS_TOPIC,
        EVENTS_DEAD_LETTER_TOPIC,
        SCHEMAS / "deployment_event.proto",
        "on_deployment_event",
        "chat-trigger",
        CHAT_DELIVERIES_AT_MOST,
    )


def _topic(
    settings: Settings,
    name: str,
    dead_letters: str,
    schema_file: Path,
    function: str,
    account: str,
    deliveries_at_most: int,
) -> None:
    """Create a topic with its schema, its dead letters, and the push to the function."""
    parent = f"projects/{settings.project}"
    publisher, subscriber = PublisherClient(), SubscriberClient()
    schema = f"{parent}/schemas/{name}"
    with contextlib.suppress(AlreadyExists):
        SchemaServiceClient().create_schema(
            parent=parent,
            schema=Schema(
                name=schema,
                type_=Schema.Type.PROTOCOL_BUFFER,
                definition=schema_file.read_text(),
            ),
            schema_id=name,
        )
    topic, dead = f"{parent}/topics/{name}", f"{parent}/topics/{dead_letters}"
    settings_of_schema = {"schema": schema, "encoding": Encoding.JSON}
    for request in ({"name": topic, "schema_settings": settings_of_schema}, {"name": dead}):
        try:
            publisher.create_topic(request=request)
        except AlreadyExists:
            continue
    # Without a subscription of its own a dead-letter topic loses what it is sent.
    _subscription(subscriber, {"name": _path(parent, dead_letters), "topic": dead})
    url = f"{settings.functions_url}/{function}"
    email = service_account(settings.project, account)
    push = {
        "push_endpoint": url,
        "oidc_token": {"service_account_email": email, "audience": url},
    }
    subscription = _path(parent, name)
    _subscription(
        subscriber,
        {
            "name": subscription,
            "topic": topic,
            "push_config": push,
            "ack_deadline_seconds": PUSH_DEADLINE_S,
            "retry_policy": {
                "minimum_backoff": {"seconds": 10},
                "maximum_backoff": {"seconds": 600},
            },
            "dead_letter_policy": {
                "dead_letter_topic": dead,
                "max_delivery_attempts": deliveries_at_most,
            },
        },
    )
    # The functions' port may be another one than at the last start.
    subscriber.modify_push_config(subscription=subscription, push_config=push)


def _subscription(subscriber: SubscriberClient, request: dict[str, object]) -> None:
    try:
        subscriber.create_subscription(request=request)
    except AlreadyExists:
        return


def _path(parent: str, subscription: str) -> str:
    return f"{parent}/subscriptions/{subscription}"


def _service(parent: str, model: ModelDeclaration, services: run_v2.ServicesClient) -> None:
    """Create the model's service once, as the empty v0; from then on the pipeline owns it."""
    service_id = model.config.service
    try:
        services.get_service(name=f"{parent}/services/{service_id}")
        return
    except NotFound:
        pass
    container = {
        "image": model.image,
        "ports": [{"container_port": 8080}],
        "env": [{"name": "MODEL_ID", "value": model.model_id}],
        "resources": {
            "limits": {"cpu": model.cpu, "memory": model.memory},
            # As in every later revision: see shared/gcp/cloud_run.py.
            "cpu_idle": False,
            "startup_cpu_boost": True,
        },
    }
    service = run_v2.Service(
        {
            # The prediction API checks API keys itself, so anyone may call it.
            "invoker_iam_disabled": True,
            "scaling": {"min_instance_count": model.min_instances},
            "template": {
                "revision": f"{service_id}-v0-1",
                "service_account": model.service_account,
                "containers": [container],
                "scaling": {"max_instance_count": model.max_instances},
                "max_instance_request_concurrency": model.concurrency,
            },
        }
    )
    services.create_service(parent=parent, service=service, service_id=service_id).result(
        timeout=120
    )


def _job(parent: str, model: ModelDeclaration, run_jobs: run_v2.JobsClient) -> None:
    """Create the model's job once; each execution is told which version it prepares."""
    job_id = model.config.job
    try:
        run_jobs.get_job(name=f"{parent}/jobs/{job_id}")
        return
    except NotFound:
        pass
    container = {
        "image": model.image,
        "args": ["prepare"],
        "env": [{"name": "MODEL_ID", "value": model.model_id}],
        "resources": {"limits": {"cpu": model.cpu, "memory": model.memory}},
    }
    task = {
        "containers": [container],
        "service_account": model.service_account,
        "max_retries": TASK_RETRIES,
        "timeout": {"seconds": TASK_TIMEOUT_S},
    }
    job = run_v2.Job({"template": {"task_count": model.prepare.tasks, "template": task}})
    run_jobs.create_job(parent=parent, job=job, job_id=job_id).result(timeout=120)
