"""The artifact folder to the training bucket, where it never changes afterwards."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import google_crc32c
from google.cloud import storage
from google.cloud.storage import transfer_manager

CHUNK_BYTES = 1 << 20


class ArtifactConflict(Exception):
    """The prefix already holds something else; an artifact that was announced must not change."""

    def __init__(self, uri: str, names: list[str]) -> None:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        super().__init__(
            f"{uri} already holds other files than this run's ({shown}); publish this run under "
            "another --run number"
        )


def upload_artifact(client: storage.Client, folder: Path, bucket_name: str, prefix: str) -> str:
    """Upload every file of `folder` below `prefix/`; returns the artifact's gs:// URI.

    Raises ArtifactConflict where the prefix holds files that differ from the folder's.
    """
    uri = f"gs://{bucket_name}/{prefix}"
    bucket = client.bucket(bucket_name)
    local = checksums(folder)
    present = stored_checksums(client, bucket_name, prefix)
    if wrong := different(local, present):
        raise ArtifactConflict(uri, wrong)
    missing = sorted(local.keys() - present.keys())
    # Repeating this is safe: every object is only ever created (generation 0), what is there
    # already is left alone, and what is there in the end is compared with the folder.
    transfer_manager.upload_many(
        [(str(folder / name), bucket.blob(f"{prefix}/{name}")) for name in missing],
        skip_if_exists=True,
        raise_exception=True,
        # Many small files, and processes would each import the client anew.
        worker_type=transfer_manager.THREAD,
    )
    present = stored_checksums(client, bucket_name, prefix)
    if wrong := different(local, present) or sorted(local.keys() - present.keys()):
        raise ArtifactConflict(uri, wrong)
    return uri


def checksums(folder: Path) -> dict[str, str]:
    """Return each file's CRC32C, in base64 as Cloud Storage gives it, by its path in `folder`."""
    return {
        path.relative_to(folder).as_posix(): crc32c(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def crc32c(path: Path) -> str:
    """Return the file's CRC32C as Cloud Storage writes it."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()


def stored_checksums(client: storage.Client, bucket_name: str, prefix: str) -> dict[str, str]:
    """Return the CRC32C of each object below `prefix/`, by its path below it."""
    start = f"{prefix}/"
    return {
        blob.name.removeprefix(start): blob.crc32c
        for blob in client.list_blobs(bucket_name, prefix=start)
    }


def different(local: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """Return the paths of `present` that are not in `local` with the same content."""
    return sorted(name for name, checksum in present.items() if local.get(name) != checksum)
