"""A version's files in Cloud Storage: read by the container, added to by its preparation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from serving.artifacts import ManifestFile
from serving.errors import ArtifactUnavailable


class Bucket:
    """Reads the objects under one prefix (it ends in `/`) with Google's client."""

    def __init__(self, bucket: str, prefix: str) -> None:
        from google.cloud import storage

        # Otherwise it asks for the bucket, too, for traces that nobody makes: that takes
        # storage.buckets.get, which the container has no need of.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        # Without a project of its own: reading objects needs none.
        self._bucket: Any = storage.Client(project="none").bucket(bucket)
        self._prefix = prefix

    def read(self, path: str) -> bytes:
        """Return the newest content of a small object; raises ArtifactUnavailable."""
        content: bytes = self._attempt(path, lambda blob: blob.download_as_bytes())
        return content

    def fetch(self, path: str, generation: int, target: Path) -> None:
        """Write exactly this generation to `target`; raises ArtifactUnavailable."""
        # As it is stored, and not checked by the client: the caller compares with the manifest,
        # which says more than the server's word about its own bytes.
        self._attempt(
            path,
            lambda blob: blob.download_to_filename(str(target), raw_download=True, checksum=None),
            generation,
        )

    def create(self, path: str, content: bytes | Path) -> ManifestFile | None:
        """Write a file that must not exist yet; None where it does. Raises ArtifactUnavailable."""
        from google.api_core import exceptions

        def upload(blob: Any) -> ManifestFile | None:
            # Generation 0: only if there is none. A repeat changes nothing, so it may be retried.
            only_new = {"if_generation_match": 0, "checksum": "crc32c"}
            try:
                if isinstance(content, Path):
                    blob.upload_from_filename(str(content), **only_new)
                else:
                    blob.upload_from_string(content, "application/json", **only_new)
            except exceptions.PreconditionFailed:
                return None
            return _described(path, blob)

        found: ManifestFile | None = self._attempt(path, upload)
        return found

    def find(self, path: str) -> ManifestFile | None:
        """Return what a file is, or None where there is none; raises ArtifactUnavailable."""

        def look(_: Any) -> ManifestFile | None:
            blob = self._bucket.get_blob(self._prefix + path)
            return _described(path, blob) if blob else None

        found: ManifestFile | None = self._attempt(path, look)
        return found

    def _attempt(self, path: str, read: Any, generation: int | None = None) -> Any:
        import requests
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError

        name = self._prefix + path
        try:
            return read(self._bucket.blob(name, generation=generation))
        except exceptions.NotFound as error:
            which = "" if generation is None else f" in generation {generation}"
            raise ArtifactUnavailable(
                f"gs://{self._bucket.name}/{name} does not exist{which}; it was removed after it "
                "was copied, so deploy the training run again"
            ) from error
        except (exceptions.GoogleAPIError, GoogleAuthError, requests.RequestException) as error:
            raise ArtifactUnavailable(
                f"gs://{self._bucket.name}/{name} could not be reached: "
                f"{type(error).__name__}: {error}"
            ) from error


def _described(path: str, blob: Any) -> ManifestFile:
    return ManifestFile(
        path=path, size=blob.size, crc32c=blob.crc32c, generation=int(blob.generation)
    )
