"""The standard library of workflows: its functions and objects by their documented names."""

from __future__ import annotations

from localcloud.workflows.library import (
    collections,
    encoding,
    helpers,
    http,
    retry,
    system,
    text,
)
from localcloud.workflows.library.registry import FUNCTIONS, Function, Host
from localcloud.workflows.library.retry import OBJECTS, PREDICATES

MODULES = (collections, encoding, helpers, http, retry, system, text)
UNSUPPORTED = {
    "googleapis.": "connectors are not supported by the local Workflows; call the API with http.*",
    "events.": "callbacks are not supported by the local Workflows",
    "experimental.": "experimental functions are not supported by the local Workflows",
}
UNSUPPORTED_ARGUMENTS = ("private_service_name", "ca_certificate")

__all__ = [
    "FUNCTIONS", "MODULES", "OBJECTS", "PREDICATES", "UNSUPPORTED", "UNSUPPORTED_ARGUMENTS",
    "Function", "Host",
]  # fmt: skip
