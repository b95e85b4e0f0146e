"""Retry predicates, policies and back-off (modules retry and http)."""

from __future__ import annotations

from localcloud.workflows.library.registry import function
from localcloud.workflows.values import FunctionReference, Value

_DEFAULT_BACKOFF: Value = {"initial_delay": 1, "max_delay": 60, "multiplier": 1.25}

OBJECTS: dict[str, Value] = {
    "retry.default_backoff": _DEFAULT_BACKOFF,
    "http.default_retry": {
        "predicate": FunctionReference("http.default_retry_predicate"),
        "max_retries": 5,
        "backoff": _DEFAULT_BACKOFF,
    },
    "http.default_retry_non_idempotent": {
        "predicate": FunctionReference("http.default_retry_predicate_non_idempotent"),
        "max_retries": 5,
        "backoff": _DEFAULT_BACKOFF,
    },
}
PREDICATES = (
    "http.default_retry_predicate",
    "http.default_retry_predicate_non_idempotent",
    "retry.always",
    "retry.never",
)


@function("http.default_retry_predicate")
def default_retry_predicate(exception: Value) -> bool:
    """Return whether an idempotent call may succeed if tried again."""
    return _matches(
        exception,
        codes=(429, 502, 503, 504),
        tags=("ConnectionError", "ConnectionFailedError", "TimeoutError"),
    )


@function("http.default_retry_predicate_non_idempotent")
def default_retry_predicate_non_idempotent(exception: Value) -> bool:
    """Return whether the call cannot have been carried out, and may succeed if tried again."""
    return _matches(exception, codes=(429, 503), tags=("ConnectionFailedError",))


@function("retry.always")
def always(exception: Value) -> bool:  # noqa: ARG001  a predicate's signature
    """Return true."""
    return True


@function("retry.never")
def never(exception: Value) -> bool:  # noqa: ARG001  a predicate's signature
    """Return false."""
    return False


def _matches(exception: Value, codes: tuple[int, ...], tags: tuple[str, ...]) -> bool:
    if not isinstance(exception, dict) or not isinstance(exception.get("tags"), list):
        return False
    found = exception["tags"]
    return ("HttpError" in found and exception.get("code") in codes) or any(
        tag in found for tag in tags
    )
