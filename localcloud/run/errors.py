"""What the local Cloud Run refuses, each with the gRPC code that the real one answers.

RunError
├── InvalidArgument      INVALID_ARGUMENT: the request can never be right
├── Unsupported          UNIMPLEMENTED: the real service offers it, this one does not
├── NotFound             NOT_FOUND
├── AlreadyExists        ALREADY_EXISTS: also a revision name used before
├── EtagConflict         ABORTED: somebody wrote first; read again and decide again
└── FailedPrecondition   FAILED_PRECONDITION: right in another state of the resource
"""

from __future__ import annotations

import grpc


class RunError(Exception):
    """A refusal; the message says what to do."""

    code = grpc.StatusCode.UNKNOWN


class InvalidArgument(RunError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class Unsupported(RunError):
    code = grpc.StatusCode.UNIMPLEMENTED

    def __init__(self, what: str, instead: str = "") -> None:
        hint = f"; {instead}" if instead else ""
        super().__init__(f"{what} is not supported by the local Cloud Run{hint}")


class NotFound(RunError):
    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"Resource '{name}' was not found")


class AlreadyExists(RunError):
    code = grpc.StatusCode.ALREADY_EXISTS


class EtagConflict(RunError):
    code = grpc.StatusCode.ABORTED

    def __init__(self, name: str, given: str, current: str) -> None:
        super().__init__(
            f"Conflict for resource '{name}': version '{given}' was specified but current version "
            f"is '{current}'; read the resource again"
        )


class FailedPrecondition(RunError):
    code = grpc.StatusCode.FAILED_PRECONDITION


def check_etag(name: str, given: str, current: str) -> None:
    """Raise EtagConflict unless `given` is empty or the resource's current etag."""
    if given and given != current:
        raise EtagConflict(name, given, current)
