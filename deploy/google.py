"""What `deploy` asks Google Cloud, and does there before Terraform can."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from deploy.programs import ProgramFailed, show, take
from deploy.target import Target

#: What the first steps need; Terraform enables the rest.
APIS = (
    "artifactregistry.googleapis.com",
    "cloudbilling.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "containeranalysis.googleapis.com",
    "iam.googleapis.com",
    "pubsub.googleapis.com",
    "serviceusage.googleapis.com",
    "storage.googleapis.com",
)
#: Of the state's earlier versions this many are kept.
STATE_VERSIONS = 50
CLOUD_BUILD = "deploy/cloudbuild.yaml"
PUBSUB, IAP = "pubsub.googleapis.com", "iap.googleapis.com"
#: What Pub/Sub's own account signs its pushes with. Google gives it where it makes the account by
#: itself, and not where it is asked to.
AGENT_ROLE = "roles/pubsub.serviceAgent"
#: Cloud Functions' own buckets, with copies of the source.
_OF_FUNCTIONS = ("gcf-v2-sources-", "gcf-v2-uploads-")


def missing_apis(target: Target) -> list[str]:
    """Return which of the first APIs are not enabled yet."""
    listed = _gcloud(target, "services", "list", "--enabled", "--format=value(config.name)")
    wanted = {*APIS, *([IAP] if target.variables.get("dashboard_domain") else [])}
    return sorted(wanted - set(listed.split()))


def enable_apis(target: Target, apis: list[str]) -> None:
    """Enable APIs. An API that is enabled stays as it is."""
    show(["gcloud", "services", "enable", *apis, f"--project={target.project}"])


def has_pubsub_agent(target: Target) -> bool:
    """Return whether Pub/Sub's own account is there and may do its work.

    Enabling the API makes it at some later time, and whoever is given a role must exist.
    """
    policy = json.loads(
        _gcloud(target, "projects", "get-iam-policy", target.project, "--format=json")
    )
    agent = f"serviceAccount:{_pubsub_agent(target)}"
    return any(
        agent in binding["members"]
        for binding in policy.get("bindings", [])
        if binding["role"] == AGENT_ROLE
    )


def make_pubsub_agent(target: Target) -> None:
    """Have Google make Pub/Sub's own account, and give it its role. Again it changes nothing."""
    make_agent(target, PUBSUB)
    show(
        [
            "gcloud", "projects", "add-iam-policy-binding", target.project,
            f"--member=serviceAccount:{_pubsub_agent(target)}", f"--role={AGENT_ROLE}",
            "--condition=None",
        ]
    )  # fmt: skip


def make_agent(target: Target, service: str) -> None:
    """Have Google make a service's own account. One that is there stays as it is."""
    identity = ["gcloud", "beta", "services", "identity", "create", f"--service={service}"]
    show([*identity, f"--project={target.project}"])


def has_state_bucket(target: Target) -> bool:
    """Return whether the bucket of Terraform's state is there and keeps earlier versions."""
    command = ("storage", "buckets", "describe", f"gs://{target.state_bucket}", "--format=json")
    try:
        described = json.loads(_gcloud(target, *command))
    except ProgramFailed as failed:
        if _is_gone(failed):
            return False
        raise
    return bool(described.get("versioning_enabled"))


def make_state_bucket(target: Target) -> None:
    """Make the bucket of the state: versioned, never public, old versions cleared away.

    A bucket that is there stays, and gets the same settings again: a first try may have died
    between the two commands.
    """
    bucket, project = f"gs://{target.state_bucket}", f"--project={target.project}"
    try:
        _gcloud(target, "storage", "buckets", "describe", bucket, "--format=value(name)")
    except ProgramFailed:
        closed = ["--uniform-bucket-level-access", "--public-access-prevention"]
        create = ["gcloud", "storage", "buckets", "create", bucket, project]
        show([*create, f"--location={target.region}", *closed])
    rule = {
        "action": {"type": "Delete"},
        "condition": {"isLive": False, "numNewerVersions": STATE_VERSIONS},
    }
    with tempfile.TemporaryDirectory() as folder:
        lifecycle = Path(folder) / "lifecycle.json"
        lifecycle.write_text(json.dumps({"rule": [rule]}))
        update = ["gcloud", "storage", "buckets", "update", bucket, project, "--versioning"]
        show([*update, f"--lifecycle-file={lifecycle}"])


def find_image(target: Target, source: str | None = None) -> str | None:
    """Return the newest serving image by digest, of this source if one is named, or None.

    Its tag is the source's hash, with a time behind it where it was built again.
    """
    try:
        listed = _gcloud(
            target, "artifacts", "docker", "images", "list", target.image, "--include-tags",
            "--format=json",
        )  # fmt: skip
    except ProgramFailed as failed:
        if _is_gone(failed):
            return None
        raise
    found = [
        (image["createTime"], image["version"])
        for image in json.loads(listed or "[]")
        if any(source in (None, tag.partition("-")[0]) for tag in _tags(image))
    ]
    return f"{target.image}@{max(found)[1]}" if found else None


def fetch_bundle(target: Target, name: str, folder: Path) -> Path | None:
    """Return the bundle that the functions were built from, fetched again; None: it is gone."""
    source = f"gs://{target.source_bucket}/{name}"
    try:
        _gcloud(target, "storage", "cp", source, str(folder))
    except ProgramFailed as failed:
        if _is_gone(failed):
            return None
        raise
    return folder / Path(name).name


def left_over(target: Target) -> list[str]:
    """Return what deletes what Google keeps beyond the installation, one command each."""
    buckets = _gcloud(target, "storage", "buckets", "list", "--format=value(name)").split()
    commands = [
        f"gcloud storage rm --recursive gs://{bucket}"
        for bucket in sorted(buckets)
        if bucket.startswith(_OF_FUNCTIONS) or bucket == target.state_bucket
    ]
    backups = _gcloud(target, "firestore", "backups", "list", "--format=value(name)").split()
    for backup in sorted(backups):
        _, _, _, location, _, name = backup.split("/")
        commands.append(
            f"gcloud firestore backups delete --location={location} --backup={name} "
            f"--project={target.project}"
        )
    return commands


def delete_service(target: Target, name: str, region: str) -> None:
    """Delete a Cloud Run service with its revisions; one that is gone already is no error."""
    where = [f"--project={target.project}", f"--region={region}"]
    listed = take(["gcloud", "run", "services", "list", *where, "--format=value(metadata.name)"])
    if name in listed.split():
        show(["gcloud", "run", "services", "delete", name, *where, "--quiet"])


def build_image(target: Target, archive: Path, tag: str, refuse: str) -> None:
    """Have Cloud Build build and push the image. A tag that exists is never overwritten."""
    substitutions = {
        "_IMAGE": target.image,
        "_TAG": tag,
        "_SBOM": f"gs://{target.source_bucket}/sbom/",
        "_REFUSE": refuse,
    }
    show(
        [
            "gcloud", "builds", "submit", str(archive), f"--project={target.project}",
            f"--region={target.build_region or target.region}", f"--config={CLOUD_BUILD}",
            f"--service-account={target.builder}",
            f"--gcs-source-staging-dir=gs://{target.source_bucket}/images",
            # Another separator: _REFUSE may hold a comma.
            "--substitutions=^;^" + ";".join(f"{k}={v}" for k, v in substitutions.items()),
        ]
    )  # fmt: skip


def _pubsub_agent(target: Target) -> str:
    number = _gcloud(
        target, "projects", "describe", target.project, "--format=value(projectNumber)"
    )
    return f"service-{number}@gcp-sa-pubsub.iam.gserviceaccount.com"


def _is_gone(failed: ProgramFailed) -> bool:
    said = failed.said.lower()
    return any(word in said for word in ("not_found", "not found", "404", "matched no objects"))


def _gcloud(target: Target, *command: str) -> str:
    return take(["gcloud", *command, f"--project={target.project}"])


def _tags(image: dict[str, Any]) -> list[str]:
    """Return an image's tags: a list, or in some versions of gcloud a text with commas."""
    tags = image.get("tags") or []
    return tags if isinstance(tags, list) else [tag.strip() for tag in tags.split(",")]
