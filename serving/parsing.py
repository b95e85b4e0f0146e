"""Reading a request's body into its message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serving import errors

_JSON = "application/json"
_Message = TypeVar("_Message", bound=BaseModel)

_BY_KIND: dict[str, type[errors.ServingError]] = {
    "json_invalid": errors.InvalidJson,
    "missing": errors.MissingField,
    "extra_forbidden": errors.UnknownField,
}
_BATCH_LENGTH: dict[str, Callable[[dict[str, Any]], errors.ServingError]] = {
    "too_long": lambda found: errors.TooManyCustomers(found["max_length"], found["actual_length"]),
    "too_short": lambda _: errors.NoCustomers(),
}


def parse(message: type[_Message], content_type: str, body: bytes) -> _Message:
    """Return the body as `message`; raises the ServingError that names what is wrong."""
    if content_type != _JSON and content_type.split(";")[0].strip().lower() != _JSON:
        raise errors.UnsupportedMediaType(content_type)
    try:
        return message.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> errors.ServingError:
    """Return the first thing that is wrong, in our terms; what was sent is not repeated."""
    found = error.errors(include_url=False, include_input=False)[0]
    if found["loc"] == ("customer_ids",) and found["type"] in _BATCH_LENGTH:
        return _BATCH_LENGTH[found["type"]](found.get("ctx", {}))
    kind = _BY_KIND.get(found["type"], errors.InvalidField)
    return kind(f"{_path(found['loc'])}: {found['msg']}")


def _path(location: tuple[int | str, ...]) -> str:
    """Return a place in the body as people write it: `customer_ids[3]`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"
