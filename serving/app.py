"""The HTTP application: GET /health, POST /recommend, POST /recommend-batch, GET /openapi.json."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import flask
import orjson
from werkzeug.exceptions import HTTPException

from serving.errors import ServingError
from serving.logs import log, report_fields, trace_fields
from serving.model_slot import ModelSlot
from serving.openapi import openapi_document
from serving.service import Service
from serving.settings import Settings

MAX_BODY_BYTES = 1 << 20
# Of a body that is refused or not wanted, so much is read before the answer: whoever is still
# sending when the connection is closed may never see why.
_READ_AT_MOST = 8 * MAX_BODY_BYTES
_READ_AT_ONCE = 1 << 16
_PROBLEM_TYPE = "application/problem+json"
# Of every answer: nobody keeps it, and a browser takes it for nothing but what it is.
ALWAYS = (("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))
# Of those that a browser can be led to, besides.
_READ_BY_BROWSERS = (
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Strict-Transport-Security", "max-age=31536000"),
)


def create_app(
    settings: Settings, slot: ModelSlot, service: Service, draining: Callable[[], bool]
) -> flask.Flask:
    """Return the Flask application; while `draining()` it asks its callers to reconnect."""
    app = flask.Flask("serving", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    document = orjson.dumps(
        openapi_document(f"Recommendations of {settings.model_id or 'a model'}")
    )

    @app.get("/health")
    def health() -> flask.Response:
        return _health(settings, slot)

    @app.post("/recommend")
    def recommend() -> flask.Response:
        return _answer(service.recommend)

    @app.post("/recommend-batch")
    def recommend_batch() -> flask.Response:
        return _answer(service.recommend_batch)

    @app.get("/openapi.json")
    def openapi() -> flask.Response:
        return flask.Response(document, mimetype="application/json")

    @app.errorhandler(ServingError)
    def refused(error: ServingError) -> flask.Response:
        if error.http_status == 500:
            reported = report_fields(error.code)
            _log_failure(settings, code=error.code, reason=str(error), **reported)
        status, headers, content = refusal(error)
        return flask.Response(content, status, headers)

    @app.errorhandler(HTTPException)
    def not_routed(error: HTTPException) -> flask.Response:
        status = error.code or 500
        name = HTTPStatus(status).name.lower()
        detail = error.description or HTTPStatus(status).phrase
        response = flask.Response(_problem(status, name, detail), status, mimetype=_PROBLEM_TYPE)
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> flask.Response:
        _log_failure(settings, code="internal_error", reason=type(error).__name__, exc_info=True)
        content = _problem(500, "internal_error", "an unexpected error; see the service's logs")
        return flask.Response(content, 500, mimetype=_PROBLEM_TYPE)

    @app.after_request
    def read_the_rest(response: flask.Response) -> flask.Response:
        body = flask.request.environ["wsgi.input"]
        for _ in range(_READ_AT_MOST // _READ_AT_ONCE):
            if not body.read(_READ_AT_ONCE):
                break
        return response

    @app.after_request
    def protect(response: flask.Response) -> flask.Response:
        for name, value in (*ALWAYS, *_READ_BY_BROWSERS):
            response.headers[name] = value
        return response

    @app.after_request
    def say_goodbye(response: flask.Response) -> flask.Response:
        # The server closes idle connections when it stops, and a request sent at that moment
        # would be lost; a caller told to close sends its next request elsewhere.
        if draining():
            response.headers["Connection"] = "close"
        return response

    return app


def refusal(error: ServingError) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return status line, headers and body of the answer to a request that is refused."""
    headers = [("Content-Type", _PROBLEM_TYPE)]
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    if error.www_authenticate is not None:
        headers.append(("WWW-Authenticate", error.www_authenticate))
    status = HTTPStatus(error.http_status)
    return f"{status.value} {status.phrase}", headers, _problem(status, error.code, str(error))


def _answer(question: Callable[[str | None, str, bytes], bytes]) -> flask.Response:
    request = flask.request
    if failure := request.environ.get("serving.failure"):
        raise failure  # What the short way met: it is told of here.
    content = question(
        request.headers.get("Authorization"), request.content_type or "", request.get_data()
    )
    return flask.Response(content, mimetype="application/json")


def _health(settings: Settings, slot: ModelSlot) -> flask.Response:
    about = {"model_id": settings.model_id, "model_version": settings.model_version}
    if nothing := slot.nothing:
        return _json({"status": nothing.status, "reason": nothing.reason, **about}, 503)
    model, tables = slot.model, slot.tables
    prepared = "ready" if tables else "none"
    return _json(
        {
            "status": "healthy" if model else "loading",
            "paths": {"prepared": prepared, "model": "ready" if model else "loading"},
            **about,
            "training_run": settings.training_run,
            "artifact_digest": settings.artifact.digest if settings.artifact else None,
            "products": slot.products,
            "customers": model.customers if model else None,
            "prepared_customers": tables.customers if tables else 0,
            "prepared_top_k": tables.top_k if tables else 0,
            "retrieval": model.retrieval if model else None,
        }
    )


def _json(body: dict[str, Any], status: int = 200) -> flask.Response:
    return flask.Response(orjson.dumps(body), status, mimetype="application/json")


def _problem(status: int, code: str, detail: str) -> bytes:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return orjson.dumps(body)


def _log_failure(settings: Settings, *, exc_info: bool = False, **fields: Any) -> None:
    request = flask.request
    log(
        "ERROR",
        "request failed",
        exc_info=exc_info,
        path=request.path,
        model_id=settings.model_id,
        model_version=settings.model_version,
        **fields,
        **trace_fields(
            request.headers.get("traceparent", ""),
            request.headers.get("X-Cloud-Trace-Context", ""),
            settings.project,
        ),
    )
