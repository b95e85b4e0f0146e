"""Cloud Storage: the JSON API that google-cloud-storage speaks, files on disk underneath."""

from localcloud.storage.service import Storage

__all__ = ["Storage"]
