"""Requests read into their types: strictly, and every refusal names the field.

flask-openapi documents a view from the types of its parameters. Its own reading is not
used: it takes a body of another content type, turns texts into numbers, and reads a JSON
text as if it were an object.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import flask
from pydantic import BaseModel, ValidationError

from functions.dashboard.errors import NotJson
from shared.errors import InvalidRequest, NotFound
from shared.messages import explain

V = TypeVar("V", bound=Callable[..., Any])


def typed(view: V) -> V:
    """Call `view` with the parts of the request that its parameters name.

    `path` that cannot exist is NotFound; `query`, `header` and `body` InvalidRequest. A
    view without `query` takes no query parameters. A `body` whose fields all have defaults
    may be left out.
    """
    kinds = get_type_hints(view)

    @functools.wraps(view)
    def read(**path: str) -> Any:
        request = flask.request
        parts: dict[str, BaseModel] = {}
        if "path" in kinds:
            parts["path"] = _path(kinds["path"], path)
        if "query" in kinds:
            parts["query"] = _query(kinds["query"], request)
        elif request.args:
            raise InvalidRequest(
                f"query: no parameters here, got {', '.join(sorted(request.args))}"
            )
        if "header" in kinds:
            parts["header"] = _header(kinds["header"], request)
        if "body" in kinds:
            parts["body"] = _body(kinds["body"], request)
        return view(**parts)

    read.__delay_validate_request__ = True  # type: ignore[attr-defined]
    return read  # type: ignore[return-value]


def _path(kind: type[BaseModel], path: dict[str, str]) -> BaseModel:
    try:
        return kind.model_validate(path)
    except ValidationError:
        raise NotFound(f"nothing is called {', '.join(path.values())!r}") from None


def _query(kind: type[BaseModel], request: flask.Request) -> BaseModel:
    for name in request.args:
        if len(request.args.getlist(name)) > 1:
            raise InvalidRequest(f"{name}: given more than once")
        field = kind.model_fields.get(name)
        if field and field.annotation is int and not request.args[name].isdecimal():
            raise InvalidRequest(f"{name}: must be a whole number")
    return _valid(lambda: kind.model_validate(request.args.to_dict()))


def _header(kind: type[BaseModel], request: flask.Request) -> BaseModel:
    names = [field.alias for field in kind.model_fields.values() if field.alias]
    given = {name: request.headers[name] for name in names if name in request.headers}
    return _valid(lambda: kind.model_validate(given))


def _body(kind: type[BaseModel], request: flask.Request) -> BaseModel:
    content = request.get_data()
    # Whatever takes any field takes the whole of its meaning from the body.
    optional = kind.model_config.get("extra") != "allow" and not any(
        field.is_required() for field in kind.model_fields.values()
    )
    if not content and not request.content_type and optional:
        return kind()
    if request.mimetype != "application/json":
        raise NotJson("send the body as `Content-Type: application/json`")
    return _valid(lambda: kind.model_validate_json(content, strict=True))


def _valid(read: Callable[[], BaseModel]) -> BaseModel:
    try:
        return read()
    except ValidationError as error:
        raise InvalidRequest(explain(error)) from None
