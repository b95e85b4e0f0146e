"""Errors of the dashboard, and how every error is answered.

PipelineError
├── NotIdentified        401  nobody, or somebody who is not who they say
├── NotAllowed           403  the role is too small
├── ForgedRequest        403  a page of another origin sent it
├── Changed              412  the deployment is not the one that was looked at
├── NotJson              415  the body is not declared as application/json
├── OtherRequest         422  an Idempotency-Key that came with another request before
└── TooMany              429  the rate limit; `retry_after_s` says when to come again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

import flask
from flask.typing import ResponseReturnValue
from google.api_core.exceptions import (
    Aborted,
    Cancelled,
    ClientError,
    GoogleAPICallError,
    RetryError,
    TooManyRequests,
)
from werkzeug.exceptions import HTTPException

from functions.dashboard.schemas import Problem
from functions.entry import refusal
from shared import logs
from shared.errors import PipelineError, Refused, Unavailable, told

ErrorPage = Callable[[Problem], str]
PASSING = (TooManyRequests, Aborted, Cancelled)
"""What Google answers with a 4xx, and may answer otherwise a moment later."""


class NotIdentified(PipelineError):
    """No identity, or a token that is forged, expired or meant for somebody else."""

    code, http_status, title = "not_identified", 401, "Who are you?"


class NotAllowed(PipelineError):
    """Identified, and the role does not reach."""

    code, http_status, title = "not_allowed", 403, "Your role does not allow this"


class ForgedRequest(PipelineError):
    """It does not come from the dashboard's own pages."""

    code, http_status, title = "forged_request", 403, "This did not come from the dashboard's pages"


class Changed(PipelineError):
    """Somebody changed it in between."""

    code, http_status, title = "changed", 412, "It changed since you looked"

    def __init__(self, deployment_id: str, status: str) -> None:
        super().__init__(f"{deployment_id!r} changed since you looked; it is {status} now")


class NotJson(PipelineError):
    """The API takes JSON only."""

    code, http_status, title = "not_json", 415, "The body must be JSON"


class OtherRequest(PipelineError):
    """One key, two requests."""

    code, http_status, title = "other_request", 422, "This Idempotency-Key was another request's"


class TooMany(PipelineError):
    """The rate limit."""

    code, http_status, title = "too_many", 429, "Too many requests"

    def __init__(self, what: str, retry_after_s: int) -> None:
        super().__init__(f"{what}; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


def register(app: flask.Flask, page: ErrorPage | None) -> None:
    """Answer errors: a problem document below /api/, `page` (HTML) elsewhere."""

    def answer(problem: Problem, headers: Mapping[str, str]) -> ResponseReturnValue:
        if page is None or flask.request.path.startswith("/api/"):
            body, kind = problem.model_dump_json(), "application/problem+json"
        else:
            body, kind = page(problem), "text/html; charset=utf-8"
        return flask.Response(body, problem.status, dict(headers), content_type=kind)

    def refused(error: Exception) -> ResponseReturnValue:
        assert isinstance(error, PipelineError)
        if error.http_status >= 500:
            logs.log("dashboard failed", severity="ERROR", **error.problem())
        headers = {}
        if isinstance(error, NotIdentified):
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, TooMany):
            headers["Retry-After"] = str(error.retry_after_s)
        return answer(Problem(**error.problem()), headers)

    def routed(error: Exception) -> ResponseReturnValue:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.code or 500)
        if status < 400:  # a redirect to the path with its slash
            return error.get_response(flask.request.environ)
        methods = getattr(error, "valid_methods", None)
        problem = Problem(
            title=status.phrase,
            status=status.value,
            code=status.name.lower(),
            detail=error.description or status.description,
        )
        return answer(problem, {"Allow": ", ".join(sorted(methods))} if methods else {})

    def unreachable(error: Exception) -> ResponseReturnValue:
        if isinstance(error, ClientError) and not isinstance(error, PASSING):
            logs.log_exception("a service refused", error)
            return refused(Refused(told(error, refusal(error))))
        logs.log_exception("a service did not answer", error)
        kind = type(error).__name__
        return refused(Unavailable(told(error, f"Google Cloud did not answer ({kind}); try again")))

    def unexpected(error: Exception) -> ResponseReturnValue:
        # The boundary: logged with its stack, answered without it.
        logs.log_exception("dashboard failed", error, path=flask.request.path)
        return refused(PipelineError("something unexpected happened; the log has it"))

    app.register_error_handler(PipelineError, refused)
    app.register_error_handler(HTTPException, routed)
    app.register_error_handler(GoogleAPICallError, unreachable)
    app.register_error_handler(RetryError, unreachable)
    app.register_error_handler(Exception, unexpected)
