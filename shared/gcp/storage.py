"""Artifacts in Cloud Storage: listed, copied by generation, never overwritten."""

from __future__ import annotations

import contextlib

from google.api_core.exceptions import NotFound as ObjectMissing
from google.api_core.exceptions import PreconditionFailed
from google.cloud.storage import Blob, Client

from shared.errors import ArtifactsRefused
from shared.ports import StoredObject


class StorageObjects:
    """Buckets of Cloud Storage."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, bucket: str, prefix: str) -> list[StoredObject]:
        """Return the objects below `prefix`, sorted by name; ArtifactsRefused without a bucket."""
        try:
            found = list(self._client.list_blobs(bucket, prefix=prefix))
        except ObjectMissing:
            raise ArtifactsRefused(f"there is no bucket {bucket!r}; check artifact_uri") from None
        return sorted((_view(blob) for blob in found), key=lambda stored: stored.name)

    def copy(
        self, source_bucket: str, source: StoredObject, bucket: str, name: str
    ) -> StoredObject:
        """Copy exactly that generation, never over another object; return the copy.

        A repeat finds the first copy in place, and accepts it only with the same content.
        """
        origin = self._client.bucket(source_bucket).blob(source.name)
        copy = self._client.bucket(bucket).blob(name)
        try:
            token = None
            while True:
                token, _, _ = copy.rewrite(
                    origin,
                    token=token,
                    if_generation_match=0,
                    if_source_generation_match=source.generation,
                    timeout=120,
                )
                if token is None:
                    break
        except PreconditionFailed:
            copy.reload() if copy.exists() else _changed(source_bucket, source)
        except ObjectMissing:
            _changed(source_bucket, source)
        made = _view(copy)
        if (made.size, made.crc32c) != (source.size, source.crc32c):
            raise ArtifactsRefused(
                f"gs://{bucket}/{name} differs from its source "
                f"({made.crc32c} against {source.crc32c}); "
                "publish the run again with a new request id"
            )
        return made

    def read(self, bucket: str, name: str) -> bytes | None:
        """Return an object's content, or None."""
        try:
            content: bytes = self._client.bucket(bucket).blob(name).download_as_bytes()
        except ObjectMissing:
            return None
        return content

    def create(self, bucket: str, name: str, content: bytes, content_type: str) -> bool:
        """Write an object that must not exist yet; False where it does."""
        try:
            self._client.bucket(bucket).blob(name).upload_from_string(
                content, content_type=content_type, if_generation_match=0
            )
        except PreconditionFailed:
            return False
        return True

    def delete(self, bucket: str, stored: StoredObject) -> None:
        """Delete exactly that generation; another one, or none, stays as it is.

        So a repeat changes nothing, and what was written anew meanwhile is safe.
        """
        with contextlib.suppress(ObjectMissing, PreconditionFailed):
            self._client.bucket(bucket).blob(stored.name).delete(
                if_generation_match=stored.generation
            )


def _view(blob: Blob) -> StoredObject:
    return StoredObject(blob.name, int(blob.size), blob.crc32c, int(blob.generation))


def _changed(bucket: str, source: StoredObject) -> None:
    raise ArtifactsRefused(
        f"gs://{bucket}/{source.name} changed or vanished while it was copied; "
        "training must not touch artifacts that it has published"
    )
