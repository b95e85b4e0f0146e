"""Buckets and objects as the JSON API writes and reads them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from localcloud.storage.errors import Invalid, Unsupported

JsonObject = dict[str, Any]

STORAGE_CLASSES = ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE")
_TEXT_SETTINGS = frozenset(
    {"contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl"}
    | {"customTime"}
)
_OUTPUT_ONLY = frozenset(
    {"kind", "id", "selfLink", "mediaLink", "name", "bucket", "generation", "metageneration"}
    | {"size", "etag", "timeCreated", "updated", "timeDeleted", "timeFinalized"}
    | {"timeStorageClassUpdated", "componentCount"}
)
_CHECKSUMS = frozenset({"crc32c", "md5Hash"})
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


@dataclass(frozen=True)
class Bucket:
    """A bucket; times are RFC 3339 text."""

    name: str
    metageneration: int
    created: str
    updated: str
    location: str = "US"
    storage_class: str = "STANDARD"
    versioning: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredObject:
    """One generation of an object; `deleted` is None while it is the live one.

    `settings` are the editable fields under the names of the JSON API.
    """

    bucket: str
    name: str
    generation: int
    metageneration: int
    file: str
    size: int
    crc32c: str
    md5: str | None
    components: int | None
    storage_class: str
    settings: JsonObject
    created: str
    updated: str
    deleted: str | None

    @property
    def etag(self) -> str:
        """The entity tag: changes with content and with metadata."""
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()


def render_bucket(bucket: Bucket, origin: str) -> JsonObject:
    """Return the bucket resource."""
    return {
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "selfLink": f"{origin}/storage/v1/b/{bucket.name}",
        "metageneration": str(bucket.metageneration),
        "etag": base64.b64encode(str(bucket.metageneration).encode()).decode(),
        "location": bucket.location,
        "storageClass": bucket.storage_class,
        "timeCreated": bucket.created,
        "updated": bucket.updated,
        "versioning": {"enabled": bucket.versioning},
        "softDeletePolicy": {"retentionDurationSeconds": "0"},
        "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}},
        **({"labels": dict(bucket.labels)} if bucket.labels else {}),
    }


def render_object(found: StoredObject, origin: str) -> JsonObject:
    """Return the object resource."""
    path = f"storage/v1/b/{found.bucket}/o/{quote(found.name, safe='')}"
    resource = {
        "kind": "storage#object",
        "id": f"{found.bucket}/{found.name}/{found.generation}",
        "selfLink": f"{origin}/{path}",
        "mediaLink": f"{origin}/download/{path}?generation={found.generation}&alt=media",
        "name": found.name,
        "bucket": found.bucket,
        "generation": str(found.generation),
        "metageneration": str(found.metageneration),
        "storageClass": found.storage_class,
        "size": str(found.size),
        "crc32c": found.crc32c,
        "etag": found.etag,
        "timeCreated": found.created,
        "updated": found.updated,
        "timeFinalized": found.created,
        "timeStorageClassUpdated": found.created,
        **found.settings,
    }
    optional = {
        "md5Hash": found.md5,
        "componentCount": found.components,
        "timeDeleted": found.deleted,
    }
    return resource | {key: value for key, value in optional.items() if value is not None}


def settings_of(resource: JsonObject, *, patching: bool = False) -> JsonObject:
    """Return the editable fields of an object resource; Unsupported names any other.

    With `patching`, None deletes a field. What only the service writes is left out, as
    Google does, because clients send back what they read.
    """
    settings: JsonObject = {}
    for key, value in resource.items():
        if key in _OUTPUT_ONLY | _CHECKSUMS or key == "storageClass":
            continue
        if value is None and not patching:
            continue
        if key == "metadata":
            settings[key] = _custom_metadata(value, patching)
        elif key in _TEXT_SETTINGS:
            if not (isinstance(value, str) or value is None):
                raise Invalid(f"Invalid value for {key}: text expected")
            settings[key] = value
        else:
            raise Unsupported(f"object field {key!r}")
    return settings


def patched(settings: JsonObject, changes: JsonObject) -> JsonObject:
    """Return `settings` with a merge patch applied: None removes, `metadata` merges by key."""
    merged = {**settings, **changes}
    if isinstance(changes.get("metadata"), dict):
        merged["metadata"] = {**settings.get("metadata", {}), **changes["metadata"]}
        merged["metadata"] = _without_none(merged["metadata"]) or None
    return _without_none(merged)


def storage_class_of(resource: JsonObject) -> str | None:
    """Return the requested storage class, or None; Invalid when Google knows no such class."""
    wanted = resource.get("storageClass")
    if wanted not in (None, *STORAGE_CLASSES):
        raise Invalid(f"Invalid value for storageClass: {wanted!r}, not of {STORAGE_CLASSES}")
    return wanted


def checked_object_name(name: str) -> str:
    """Return `name` where Google allows it: 1-1024 bytes, no line break, not "." or ".."."""
    if not 1 <= len(name.encode()) <= 1024 or name in (".", "..") or re.search(r"[\r\n]", name):
        raise Invalid(f"Invalid object name: {name!r}")
    return name


def bucket_changes(resource: JsonObject) -> JsonObject:
    """Return the fields of `Bucket` that a bucket resource sets; Unsupported names any other."""
    changes: JsonObject = {}
    for key, value in resource.items():
        match key, value:
            case "versioning", {"enabled": bool(enabled), **rest} if not rest:
                changes["versioning"] = enabled
            case "labels", dict() | None:
                changes["labels"] = value or {}
            case ("location", str() as location):
                changes["location"] = location.upper()
            case ("storageClass", str()):
                changes["storage_class"] = storage_class_of(resource)
            case "iamConfiguration", {
                "uniformBucketLevelAccess": {"enabled": True},
                **rest,
            } if rest in ({}, {"publicAccessPrevention": "enforced"}):
                pass  # what this service does anyway: nobody but this machine, no ACLs
            case "softDeletePolicy", {"retentionDurationSeconds": 0 | "0"}:
                pass
            case ("name" | "kind" | "id" | "selfLink" | "etag" | "metageneration", _):
                pass
            case ("timeCreated" | "updated" | "projectNumber" | "locationType", _):
                pass
            case _:
                raise Unsupported(f"bucket field {key!r} with value {json.dumps(value)}")
    return changes


def checked_bucket_name(name: object) -> str:
    """Return `name` where Google allows it for a bucket."""
    if not isinstance(name, str) or not _BUCKET_NAME.fullmatch(name):
        raise Invalid(f"Invalid bucket name: {name!r}")
    return name


def _custom_metadata(value: object, patching: bool) -> JsonObject | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Invalid("Invalid value for metadata: an object expected")
    if any(not (isinstance(text, str) or (text is None and patching)) for text in value.values()):
        raise Invalid("Invalid value for metadata: every value must be text")
    return value


def _without_none(values: JsonObject) -> JsonObject:
    return {key: value for key, value in values.items() if value is not None}
