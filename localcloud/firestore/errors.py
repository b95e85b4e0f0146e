"""What a Firestore call may be refused with.

FirestoreError
├── InvalidArgument     the request can never succeed as it is
├── NotFound            a document that had to exist does not
├── AlreadyExists       a document that had to be absent exists
├── FailedPrecondition  the stored version, or a missing index, forbids it
├── Aborted             another commit came first; running the transaction again may succeed
├── Unavailable         the service is stopping; another connection may succeed
└── Unimplemented       the real service can, this one cannot: the message names the feature
"""

from __future__ import annotations

import grpc


class FirestoreError(Exception):
    """A refusal with the gRPC code that the real service answers."""

    code: grpc.StatusCode

    @property
    def code_number(self) -> int:
        """Return the code as google.rpc.Status carries it."""
        number: int = self.code.value[0]
        return number


class InvalidArgument(FirestoreError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(FirestoreError):
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(FirestoreError):
    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(FirestoreError):
    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(FirestoreError):
    code = grpc.StatusCode.ABORTED


class Unavailable(FirestoreError):
    code = grpc.StatusCode.UNAVAILABLE


class Unimplemented(FirestoreError):
    code = grpc.StatusCode.UNIMPLEMENTED

    def __init__(self, feature: str) -> None:
        super().__init__(f"{feature} is not supported by the local Firestore")
