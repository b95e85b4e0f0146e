"""What every HTTP entry point does around its use case: parse, call, encode, log."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import flask
from flask.typing import ResponseReturnValue
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    TooManyRequests,
    Unauthorized,
)
from opentelemetry.trace import Span, Status, StatusCode

from functions.announce import announce_own
from shared import logs, tracing, wiring
from shared.domain.deployment import Deployment
from shared.errors import InvalidRequest, PipelineError, QuotaExceeded, Refused, told
from shared.messages import Message, RollBack, parse
from shared.ports import State

M = TypeVar("M", bound=Message)


def respond(
    kind: type[M], request: flask.Request, use_case: Callable[[M], dict[str, Any]]
) -> ResponseReturnValue:
    """Parse the JSON body as `kind`, run the use case, answer its result or the problem.

    Whatever is not a PipelineError becomes a 500, which the workflow tries again. What was
    recorded is announced last: a rollback's traffic has moved by then.
    """
    tracing.start()
    return handle(kind, request, use_case, wiring.state(), announce_own)


def handle(
    kind: type[M],
    request: flask.Request,
    use_case: Callable[[M], dict[str, Any]],
    state: State,
    announce: Callable[[], None],
) -> flask.Response:
    """Answer as `respond` does, in a span of the deployment's trace, which the log lines name."""
    step = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    body = _object(request)
    deployment = _meant(body, state)
    with (
        logs.about(step=step, **_names(body, deployment)),
        _span(kind, step, request, deployment) as span,
    ):
        answer = _answer(kind, request, use_case)
        announce()
        span.set_attribute("http.response.status_code", answer.status_code)
        if answer.status_code >= 400:
            code = str((answer.get_json(force=True) or {}).get("code"))
            span.set_attribute("error.type", code)
            span.set_status(Status(StatusCode.ERROR, code))
    tracing.flush()
    return answer


def _object(request: flask.Request) -> Mapping[str, Any]:
    """Return the body where it is a JSON object, else an empty one: the step says what is wrong."""
    try:
        body = _body(request)
    except InvalidRequest:
        return {}
    return body if isinstance(body, dict) else {}


def _meant(body: Mapping[str, Any], state: State) -> Deployment | None:
    found = body.get("deployment_id")
    return state.glance(found) if isinstance(found, str) else None


def _names(body: Mapping[str, Any], deployment: Deployment | None) -> dict[str, str]:
    known = {name: body[name] for name in ("deployment_id", "model_id") if body.get(name)}
    return {**known, "model_id": deployment.model_id} if deployment else known


def _span(
    kind: type[Message], step: str, request: flask.Request, deployment: Deployment | None
) -> AbstractContextManager[Span]:
    """Begin what is done for a deployment, or for going back; the rest is not worth a trace."""
    linked = request.headers.get("traceparent", "")
    about: dict[str, Any] = {"turnout.step": step}
    if deployment is not None:
        return tracing.span(step, deployment.trace, linked, {**about, **tracing.about(deployment)})
    if kind is RollBack:
        return tracing.span(step, linked=linked, attributes=about)
    return tracing.carried(linked)


def _answer(
    kind: type[M], request: flask.Request, use_case: Callable[[M], dict[str, Any]]
) -> flask.Response:
    function = kind.__name__
    try:
        command = parse(kind, _body(request))
        result = _allowed(lambda: use_case(command))
    except PipelineError as error:
        if error.http_status >= 500:
            logs.log_problem("step refused", error.problem(), function=function)
        else:
            refused = error.problem()
            logs.log("step refused", severity="WARNING", function=function, **refused)
        return _json(error.problem(), error.http_status, "application/problem+json")
    except Exception as error:  # the boundary of the function: logged, answered as a 500
        logs.log_exception("step failed", error, function=function)
        said = told(error, f"{type(error).__name__} in {function}; see its log")
        return _json(PipelineError(said).problem(), 500, "application/problem+json")
    logs.log("step done", function=function, **result)
    return _json(result, 200, "application/json")


def _allowed(use_case: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run it; QuotaExceeded where Google Cloud refused a call of it with 429, Refused with 403."""
    try:
        return use_case()
    except TooManyRequests as error:
        later = "the same call succeeds later (a rollout tries for some 40 minutes)"
        raise QuotaExceeded(told(error, f"{error.message}; {later}")) from error
    except (Forbidden, Unauthorized) as error:
        # With its stack: Firestore's refusals do not say what they refuse.
        logs.log_exception("call refused", error)
        raise Refused(told(error, refusal(error))) from error


def refusal(error: GoogleAPICallError) -> str:
    """Say that Google Cloud refused a call, in its own words: they name the permission."""
    return f"Google Cloud refused: {error.message} ({type(error).__name__})"


def caller(request: flask.Request) -> str:
    """Return the e-mail of the ID token's owner.

    The platform checked the token before the function ran, so it is only read here. Where
    X-Serverless-Authorization is there, Google checked that one alone.
    """
    header = request.headers.get("X-Serverless-Authorization") or request.headers.get(
        "Authorization", ""
    )
    token = header.removeprefix("Bearer ")
    parts = token.split(".")
    if len(parts) != 3:
        return "unknown"
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return "unknown"
    return str(claims.get("email", "unknown")) if isinstance(claims, dict) else "unknown"


def _body(request: flask.Request) -> object:
    try:
        return json.loads(request.get_data() or b"{}")
    except (ValueError, RecursionError):
        raise InvalidRequest("the body must be JSON") from None


def _json(body: dict[str, Any], status: int, content_type: str) -> flask.Response:
    return flask.Response(json.dumps(body), status, content_type=content_type)
