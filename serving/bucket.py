"""A version's files in Cloud Storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.errors import ArtifactUnavailable


class Bucket:
    """Reads the objects under one prefix (it ends in `/`) with Google's client."""

    def __init__(self, bucket: str, prefix: str) -> None:
        from google.cloud import storage

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
                f"gs://{self._bucket.name}/{name} could not be read: "
                f"{type(error).__name__}: {error}"
            ) from error
