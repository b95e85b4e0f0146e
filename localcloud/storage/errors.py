"""What Cloud Storage answers when it does not do what was asked.

StorageError            500
├── Invalid             400
├── NotFound            404
├── Conflict            409
├── Expired             410
├── PreconditionFailed  412
├── NotModified         304
├── RangeUnsatisfiable  416
├── UploadCancelled     499
└── Unsupported         501   what this local service does not offer, by name
"""

from __future__ import annotations

from typing import Any


class StorageError(Exception):
    """Base of every refusal; `reason` is the word that Google's clients match on."""

    status, reason = 500, "backendError"
    #: Where the fault lies, as ("header", "If-Match"); absent on most errors.
    location: tuple[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """Return the error document of the JSON API."""
        detail = {"message": str(self), "domain": "global", "reason": self.reason}
        if self.location:
            detail["locationType"], detail["location"] = self.location
        return {"error": {"code": self.status, "message": str(self), "errors": [detail]}}


class Invalid(StorageError):
    """The request cannot be right, now or later."""

    status, reason = 400, "invalid"


class NotFound(StorageError):
    """No such bucket, object, generation or upload."""

    status, reason = 404, "notFound"


class Conflict(StorageError):
    """The bucket is there already, or is not empty."""

    status, reason = 409, "conflict"


class Expired(StorageError):
    """The rewrite token is unknown or older than a week."""

    status, reason = 410, "gone"


class PreconditionFailed(StorageError):
    """An `if…Match` did not hold; nothing was changed."""

    status, reason = 412, "conditionNotMet"
    location = ("header", "If-Match")

    def __init__(self) -> None:
        super().__init__("At least one of the pre-conditions you specified did not hold.")


class NotModified(StorageError):
    """A read with `if…NotMatch` found what the caller has already."""

    status, reason = 304, "notModified"


class RangeUnsatisfiable(StorageError):
    """The range starts behind the last byte."""

    status, reason = 416, "requestedRangeNotSatisfiable"
    location = ("header", "Range")

    def __init__(self, size: int) -> None:
        super().__init__("Request range not satisfiable")
        self.size = size


class UploadCancelled(StorageError):
    """The answer to a DELETE of a resumable upload."""

    status, reason = 499, "cancelled"


class Unsupported(StorageError):
    """Google's service offers it, this one does not."""

    status, reason = 501, "notImplemented"

    def __init__(self, thing: str) -> None:
        super().__init__(f"{thing} is not supported by the local Cloud Storage")
