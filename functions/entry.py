"""What every HTTP entry point does around its use case: parse, call, encode, log."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, TypeVar

import flask
from flask.typing import ResponseReturnValue

from functions.announce import announce_own
from shared import logs
from shared.config import Settings
from shared.errors import InvalidRequest, PipelineError
from shared.messages import Message, parse

M = TypeVar("M", bound=Message)


def respond(
    kind: type[M], request: flask.Request, use_case: Callable[[M], dict[str, Any]]
) -> ResponseReturnValue:
    """Parse the JSON body as `kind`, run the use case, answer its result or the problem.

    Whatever is not a PipelineError becomes a 500, which the workflow tries again. What was
    recorded is announced last: a rollback's traffic has moved by then.
    """
    logs.trace.set(_trace(request))
    answer = _answer(kind, request, use_case)
    announce_own()
    return answer


def _answer(
    kind: type[M], request: flask.Request, use_case: Callable[[M], dict[str, Any]]
) -> ResponseReturnValue:
    function = kind.__name__
    try:
        command = parse(kind, _body(request))
        result = use_case(command)
    except PipelineError as error:
        severity = "ERROR" if error.http_status >= 500 else "WARNING"
        logs.log("step refused", severity=severity, function=function, **error.problem())
        return _json(error.problem(), error.http_status, "application/problem+json")
    except Exception as error:  # the boundary of the function: logged, answered as a 500
        logs.log_exception("step failed", error, function=function)
        problem = PipelineError(f"{type(error).__name__} in {function}; see its log").problem()
        return _json(problem, 500, "application/problem+json")
    logs.log("step done", function=function, **result)
    return _json(result, 200, "application/json")


def caller(request: flask.Request) -> str:
    """Return the e-mail of the ID token's owner.

    The platform checked the token before the function ran, so it is only read here.
    """
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    parts = token.split(".")
    if len(parts) != 3:
        return "unknown"
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return "unknown"
    return str(claims.get("email", "unknown")) if isinstance(claims, dict) else "unknown"


def _body(request: flask.Request) -> object:
    try:
        return json.loads(request.get_data() or b"{}")
    except ValueError:
        raise InvalidRequest("the body must be JSON") from None


def _trace(request: flask.Request) -> str:
    parts = request.headers.get("traceparent", "").split("-")
    if len(parts) != 4:
        return ""
    return f"projects/{Settings.from_environment().project}/traces/{parts[1]}"


def _json(body: dict[str, Any], status: int, content_type: str) -> ResponseReturnValue:
    return flask.Response(json.dumps(body), status, content_type=content_type)
