"""Copy the training artifacts to the serving bucket, and pin what was copied."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.steps import Recorder, edit, step
from shared.domain.deployment import Deployment, Step, StepName, StepState
from shared.errors import ArtifactsRefused
from shared.messages import CopyArtifacts
from shared.ports import Ports, StoredObject
from shared.wiring import ports

FILES_AT_MOST = 10_000
BYTES_AT_MOST = 20 * 2**30
COPIES_AT_ONCE = 8
MANIFEST = "manifest.json"
PREPARED = "prepared/"


def copy(command: CopyArtifacts, ports: Ports) -> dict[str, Any]:
    """Copy every artifact of the run, then write the manifest with their generations.

    A repeat finds each copy in place (they are created, never overwritten) and the same
    manifest. ArtifactsRefused when the tree is no SavedModel, or changed meanwhile. Those of
    a version that is brought back are there already, and only verified.
    """
    with step(command, StepName.COPY_ARTIFACTS, ports) as (deployment, recorder):
        if deployment.redeploys:
            return _verify_kept(command, deployment, recorder, ports)
        bucket = ports.settings.serving_bucket
        prefix = f"models/{deployment.model_id}/{deployment.name}/"
        copies = _copy_tree(deployment, bucket, prefix, ports)
        manifest = _manifest(deployment, prefix, copies)
        content = json.dumps(manifest, indent=1, sort_keys=True).encode()
        if not ports.objects.create(bucket, prefix + MANIFEST, content, "application/json"):
            _same_as_before(ports.objects.read(bucket, prefix + MANIFEST), manifest)
        path, digest = f"gs://{bucket}/{prefix}", manifest["digest"]
        edit(
            command,
            ports,
            lambda found: replace(found, serving_model_path=path, artifact_digest=digest),
        )
        size = sum(copied.size for copied in copies)
        recorder.detail = f"{len(copies)} files, {size / 1e6:.1f} MB, {digest[:19]}…"
    return {"deployment_id": deployment.id, "files": len(copies), "bytes": size, "digest": digest}


def digest_of(files: list[dict[str, Any]]) -> str:
    """Return the identity of a tree: SHA-256 over path, size, crc32c and generation of each file.

    A crc32c can be met on purpose; a generation is given by Cloud Storage and never again.
    """
    lines = "".join(
        f"{file['path']}\t{file['size']}\t{file['crc32c']}\t{file['generation']}\n"
        for file in sorted(files, key=lambda file: str(file["path"]))
    )
    return "sha256:" + sha256(lines.encode()).hexdigest()


def _verify_kept(
    command: CopyArtifacts, deployment: Deployment, recorder: Recorder, ports: Ports
) -> dict[str, Any]:
    """Verify that artifacts and prepared answers are there as the version left them.

    Then nothing is left to prepare, and that step is done. ArtifactsRefused otherwise.
    """
    files = _kept(deployment, MANIFEST, deployment.artifact_digest, ports)
    if deployment.prepared_digest:
        _kept(deployment, PREPARED + MANIFEST, deployment.prepared_digest, ports)
        now = ports.clock.now()
        said = f"v{deployment.redeploys} was prepared: its answers are there"
        prepared = Step(StepState.DONE, now, now, said)
        edit(command, ports, lambda found: found.with_step(StepName.PREPARE_MODEL, prepared))
    size, digest = sum(file["size"] for file in files), deployment.artifact_digest
    recorder.detail = f"{len(files)} files of v{deployment.redeploys}, verified, {digest[:19]}…"
    return {"deployment_id": deployment.id, "files": len(files), "bytes": size, "digest": digest}


def _kept(deployment: Deployment, name: str, digest: str, ports: Ports) -> list[dict[str, Any]]:
    """Return the files that a manifest lists, all of which are there in its generations."""
    bucket, _, prefix = deployment.serving_model_path.removeprefix("gs://").partition("/")
    manifest = json.loads(ports.objects.read(bucket, prefix + name) or "{}")
    files: list[dict[str, Any]] = manifest.get("files", [])
    there = {
        (stored.name, stored.size, stored.crc32c, stored.generation)
        for stored in ports.objects.list(bucket, prefix)
    }
    listed = {
        (prefix + file["path"], file["size"], file["crc32c"], file["generation"]) for file in files
    }
    if manifest.get("digest") != digest or digest_of(files) != digest or not listed <= there:
        raise ArtifactsRefused(
            f"what gs://{bucket}/{prefix}{name} lists is not there as v{deployment.redeploys} "
            f"left it; publish run {deployment.training_run} again with a new request id"
        )
    return files


def _copy_tree(
    deployment: Deployment, bucket: str, prefix: str, ports: Ports
) -> list[StoredObject]:
    source_bucket, _, folder = deployment.artifact_uri.removeprefix("gs://").partition("/")
    found = [
        stored
        for stored in ports.objects.list(source_bucket, folder + "/")
        if not stored.name.endswith("/")  # a "folder" that a console made
    ]
    names = {stored.name.removeprefix(folder + "/") for stored in found}
    if "saved_model/saved_model.pb" not in names:
        raise ArtifactsRefused(
            f"{deployment.artifact_uri} holds no saved_model/saved_model.pb "
            f"({len(names)} files found); export the model as a SavedModel and publish again"
        )
    if MANIFEST in names:
        raise ArtifactsRefused(f"{MANIFEST} is the pipeline's own; training must not write one")
    if any(name.startswith(PREPARED) for name in names):
        raise ArtifactsRefused(f"{PREPARED} is the pipeline's own; training must not write to it")
    if odd := next((name for name in sorted(names) if not _is_plain(name)), None):
        raise ArtifactsRefused(
            f"{odd!r} is no plain path; export the model without '.', '..', backslashes and "
            "control characters in file names and publish again"
        )
    if len(found) > FILES_AT_MOST or sum(stored.size for stored in found) > BYTES_AT_MOST:
        raise ArtifactsRefused(f"{deployment.artifact_uri} is too large: {len(found)} files")

    def copy_one(stored: StoredObject) -> StoredObject:
        target = prefix + stored.name.removeprefix(folder + "/")
        return ports.objects.copy(source_bucket, stored, bucket, target)

    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        return list(pool.map(copy_one, found))


def _is_plain(name: str) -> bool:
    """Tell whether a name stays below its folder wherever it is written, and on its line."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _manifest(deployment: Deployment, prefix: str, copies: list[StoredObject]) -> dict[str, Any]:
    files = [
        {
            "path": copied.name.removeprefix(prefix),
            "size": copied.size,
            "crc32c": copied.crc32c,
            "generation": copied.generation,
        }
        for copied in copies
    ]
    return {
        "schema_version": 1,
        "model_id": deployment.model_id,
        "version": deployment.version,
        "training_run": deployment.training_run,
        "source": deployment.artifact_uri,
        "files": files,
        "digest": digest_of(files),
    }


def _same_as_before(content: bytes | None, manifest: dict[str, Any]) -> None:
    if content is None or json.loads(content)["digest"] != manifest["digest"]:
        raise ArtifactsRefused(
            "the artifacts changed between two tries of the copy; "
            "training must not touch artifacts that it has published"
        )


@functions_framework.http
def copy_artifacts(request: flask.Request) -> ResponseReturnValue:
    """Copy the training artifacts to the serving bucket (one workflow step)."""
    return respond(CopyArtifacts, request, lambda command: copy(command, ports()))
