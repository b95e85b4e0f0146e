"""Which permission on what a call needs, as Google documents it.

The sources, read on 2026-11-28:

- Firestore: https://firebase.google.com/docs/firestore/security/iam
- Cloud Storage: https://docs.cloud.google.com/storage/docs/access-control/iam-json
- Cloud Run: https://docs.cloud.google.com/run/docs/reference/iam/permissions
- Who updates a service acts as its identity:
  https://docs.cloud.google.com/run/docs/configuring/services/service-identity
- Who deploys an image reads it:
  https://docs.cloud.google.com/artifact-registry/docs/integrate-cloud-run
- Workflows: https://docs.cloud.google.com/workflows/docs/access-control
- Pub/Sub: https://docs.cloud.google.com/pubsub/docs/access-control
- Monitoring: https://docs.cloud.google.com/monitoring/access-control
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from localcloud.calls import Call

DATABASE, PROJECT = "the database", "the project"
MODEL_SERVICES, MODEL_JOBS = "the models' services", "the models' jobs"
SERVING_ACCOUNTS = "the models' service accounts"
WORKFLOW, IMAGES = "the workflow", "the serving images"
TRAINING, MODELS = "the training buckets", "`models/` of the serving bucket"
_PLACES = {"turnout-local-training/": TRAINING, "turnout-local-serving/models": MODELS}
_FIRESTORE = "google.firestore.v1.Firestore/"
_RUN = "google.cloud.run.v2."
_EXECUTIONS = "google.cloud.workflows.executions.v1.Executions/"
_READ, _LIST = "datastore.entities.get", "datastore.entities.list"
_CREATE, _UPDATE = "datastore.entities.create", "datastore.entities.update"
_ACT_AS = ("iam.serviceAccounts.actAs", SERVING_ACCOUNTS)
_UPDATE_SERVICE = (("run.services.update", MODEL_SERVICES), _ACT_AS)


class Need(NamedTuple):
    """A permission, and the smallest thing that it is needed on."""

    permission: str
    on: str


class UnknownCall(LookupError):
    """Nobody has said yet what a call needs; the message names it."""


_OF_METHOD: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = {
    # Documents. Reading by name, in a transaction or not, is the same permission.
    (_FIRESTORE + "BatchGetDocuments", ""): ((_READ, DATABASE),),
    (_FIRESTORE + "RunQuery", ""): ((_READ, DATABASE), (_LIST, DATABASE)),
    (_FIRESTORE + "RunAggregationQuery", ""): ((_READ, DATABASE), (_LIST, DATABASE)),
    (_FIRESTORE + "ListDocuments", ""): ((_READ, DATABASE), (_LIST, DATABASE)),
    (_FIRESTORE + "BeginTransaction", ""): (("datastore.databases.get", DATABASE),),
    (_FIRESTORE + "Rollback", ""): (("datastore.databases.get", DATABASE),),
    (_FIRESTORE + "Commit", ""): (("datastore.databases.get", DATABASE),),
    (_FIRESTORE + "Commit", "create"): ((_CREATE, DATABASE),),
    (_FIRESTORE + "Commit", "update"): ((_UPDATE, DATABASE),),
    (_FIRESTORE + "Commit", "set"): ((_CREATE, DATABASE), (_UPDATE, DATABASE)),
    (_FIRESTORE + "Commit", "delete"): (("datastore.entities.delete", DATABASE),),
    # Services, revisions and jobs.
    (_RUN + "Services/GetService", ""): (("run.services.get", MODEL_SERVICES),),
    (_RUN + "Services/UpdateService", "annotations,traffic"): _UPDATE_SERVICE,
    (_RUN + "Services/UpdateService", "scaling,template"): (
        *_UPDATE_SERVICE,
        ("artifactregistry.repositories.downloadArtifacts", IMAGES),
    ),
    (_RUN + "Revisions/GetRevision", ""): (("run.revisions.get", MODEL_SERVICES),),
    (_RUN + "Revisions/ListRevisions", ""): (("run.revisions.list", MODEL_SERVICES),),
    (_RUN + "Revisions/DeleteRevision", ""): (("run.revisions.delete", MODEL_SERVICES),),
    (_RUN + "Jobs/RunJob", "overrides"): (
        ("run.jobs.run", MODEL_JOBS),
        ("run.jobs.runWithOverrides", MODEL_JOBS),
    ),
    (_RUN + "Executions/GetExecution", ""): (("run.executions.get", MODEL_JOBS),),
    (_RUN + "Executions/CancelExecution", ""): (("run.executions.cancel", MODEL_JOBS),),
    # The workflow's executions.
    (_EXECUTIONS + "CreateExecution", ""): (("workflows.executions.create", WORKFLOW),),
    (_EXECUTIONS + "GetExecution", ""): (("workflows.executions.get", WORKFLOW),),
    (_EXECUTIONS + "CancelExecution", ""): (("workflows.executions.cancel", WORKFLOW),),
    ("google.monitoring.v3.MetricService/ListTimeSeries", ""): (
        ("monitoring.timeSeries.list", PROJECT),
    ),
}
# Without `list`, an object that is not there is answered 403 instead of 404, which the code reads
# as a fault. Without a precondition an object may be overwritten, which is a deletion as well.
_OF_OBJECTS: Mapping[str, tuple[str, ...]] = {
    "storage.objects.get": ("storage.objects.get", "storage.objects.list"),
    "storage.objects.list": ("storage.objects.list",),
    "storage.objects.delete": ("storage.objects.delete", "storage.objects.list"),
    "storage.objects.insert": ("storage.objects.create", "storage.objects.delete"),
    "storage.objects.insert (new)": ("storage.objects.create",),
    "storage.objects.rewrite from": ("storage.objects.get", "storage.objects.list"),
    "storage.objects.rewrite to": ("storage.objects.create", "storage.objects.delete"),
    "storage.objects.rewrite to (new)": ("storage.objects.create",),
}


def needs(call: Call) -> list[Need]:
    """Return what a call needs; UnknownCall where it is new."""
    _, method, detail = call
    if method == "run.routes.invoke":
        return [Need(method, f"the function {detail}")]
    if method == "google.pubsub.v1.Publisher/Publish":
        return [Need("pubsub.topics.publish", f"the topic {detail}")]
    place, new = detail.removesuffix(" (new)"), detail.endswith(" (new)")
    of_objects = _OF_OBJECTS.get(method + (" (new)" if new else ""))
    if of_objects is not None and place in _PLACES:
        return [Need(permission, _PLACES[place]) for permission in of_objects]
    try:
        return [Need(*need) for need in _OF_METHOD[method, detail]]
    except KeyError:
        raise UnknownCall(f"{method} {detail!r}: say in tests/permissions/needs.py") from None
