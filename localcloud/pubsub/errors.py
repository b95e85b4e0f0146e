"""What Pub/Sub refuses, each with the gRPC status that Google's answers with.

Refusal
├── InvalidArgument
├── OutOfRange
├── NotFound
├── AlreadyExists
├── FailedPrecondition
├── Unavailable
└── Unimplemented
"""

from __future__ import annotations

import grpc


class Refusal(Exception):
    """A request that is answered with a gRPC status and a reason a person can act on."""

    code = grpc.StatusCode.UNKNOWN


class InvalidArgument(Refusal):
    """The request can never succeed as it is written."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class OutOfRange(Refusal):
    """A number lies outside what Pub/Sub accepts."""

    code = grpc.StatusCode.OUT_OF_RANGE


class NotFound(Refusal):
    """The named resource does not exist."""

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} not found (resource={name})")


class AlreadyExists(Refusal):
    """The named resource exists; nothing was changed."""

    code = grpc.StatusCode.ALREADY_EXISTS

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} already exists (resource={name})")


class FailedPrecondition(Refusal):
    """The resource is not in a state that allows this."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Unavailable(Refusal):
    """The service is stopping; the same call works once it runs again."""

    code = grpc.StatusCode.UNAVAILABLE


class Unimplemented(Refusal):
    """Google's Pub/Sub can do this and the local one cannot."""

    code = grpc.StatusCode.UNIMPLEMENTED

    def __init__(self, what: str) -> None:
        super().__init__(f"the local Pub/Sub does not support {what}")
