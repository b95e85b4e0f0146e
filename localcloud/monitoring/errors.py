"""What the local Monitoring refuses, each with its gRPC code."""

from __future__ import annotations

import grpc


class MonitoringError(Exception):
    """A refusal; the message says what to do."""

    code = grpc.StatusCode.UNKNOWN


class InvalidArgument(MonitoringError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(MonitoringError):
    code = grpc.StatusCode.NOT_FOUND


class Unsupported(MonitoringError):
    """The real service offers it, this one does not."""

    code = grpc.StatusCode.UNIMPLEMENTED

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not supported by the local Monitoring")
