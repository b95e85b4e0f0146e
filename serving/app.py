"""The HTTP application: GET /health, POST /recommend, POST /recommend-batch, GET /openapi.json."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import flask
import orjson
from werkzeug.exceptions import HTTPException

from serving import messages, recommender
from serving.errors import ServingError
from serving.keys import ApiKeys
from serving.logs import log, trace_fields
from serving.model_slot import ModelSlot, NoModel
from serving.openapi import openapi_document
from serving.parsing import parse
from serving.settings import Settings
from serving.usage import Usage

MAX_BODY_BYTES = 1 << 20


def create_app(
    settings: Settings,
    slot: ModelSlot,
    keys: ApiKeys,
    usage: Usage,
    draining: Callable[[], bool],
) -> flask.Flask:
    """Return the WSGI application; while `draining()` it asks its callers to reconnect."""
    app = flask.Flask("serving", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    document = orjson.dumps(
        openapi_document(f"Recommendations of {settings.model_id or 'a model'}")
    )

    @app.get("/health")
    def health() -> flask.Response:
        current = slot.current
        about = {"model_id": settings.model_id, "model_version": settings.model_version}
        if isinstance(current, NoModel):
            return _json({"status": current.status, "reason": current.reason, **about}, 503)
        return _json(
            {
                "status": "healthy",
                **about,
                "training_run": settings.training_run,
                "artifact_digest": settings.artifact.digest if settings.artifact else None,
                "products": current.products,
                "customers": current.customers,
            }
        )

    @app.post("/recommend")
    def recommend() -> flask.Response:
        model = slot.recommender()
        usage.note_key(keys.check(flask.request.headers.get("Authorization")))
        asked = parse(messages.RecommendRequest, flask.request)
        answer = recommender.recommend(model, asked, settings.model_version)
        usage.note_customers([asked.customer_id])
        return _json(answer)

    @app.post("/recommend-batch")
    def recommend_batch() -> flask.Response:
        model = slot.recommender()
        usage.note_key(keys.check(flask.request.headers.get("Authorization")))
        asked = parse(messages.RecommendBatchRequest, flask.request)
        answer = recommender.recommend_batch(model, asked, settings.model_version)
        usage.note_customers(asked.customer_ids)
        return _json(answer)

    @app.get("/openapi.json")
    def openapi() -> flask.Response:
        return flask.Response(document, mimetype="application/json")

    @app.errorhandler(ServingError)
    def refused(error: ServingError) -> flask.Response:
        response = _problem(error.http_status, error.code, str(error))
        if error.retry_after_s is not None:
            response.headers["Retry-After"] = str(error.retry_after_s)
        if error.www_authenticate is not None:
            response.headers["WWW-Authenticate"] = error.www_authenticate
        if error.http_status == 500:
            _log_failure(settings, code=error.code, reason=str(error))
        return response

    @app.errorhandler(HTTPException)
    def not_routed(error: HTTPException) -> flask.Response:
        status = error.code or 500
        name = HTTPStatus(status).name.lower()
        response = _problem(status, name, error.description or HTTPStatus(status).phrase)
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> flask.Response:
        _log_failure(settings, code="internal_error", reason=type(error).__name__, exc_info=True)
        return _problem(500, "internal_error", "an unexpected error; see the service's logs")

    @app.after_request
    def say_goodbye(response: flask.Response) -> flask.Response:
        # The server closes idle connections when it stops, and a request sent at that moment
        # would be lost; a caller told to close sends its next request elsewhere.
        if draining():
            response.headers["Connection"] = "close"
        return response

    return app


def _json(body: dict[str, Any], status: int = 200) -> flask.Response:
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return flask.Response(content, status, mimetype="application/json")


def _problem(status: int, code: str, detail: str) -> flask.Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return flask.Response(orjson.dumps(body), status, mimetype="application/problem+json")


def _log_failure(settings: Settings, *, exc_info: bool = False, **fields: Any) -> None:
    request = flask.request
    log(
        "ERROR",
        "request failed",
        exc_info=exc_info,
        path=request.path,
        model_version=settings.model_version,
        **fields,
        **trace_fields(
            request.headers.get("traceparent", ""),
            request.headers.get("X-Cloud-Trace-Context", ""),
            settings.project,
        ),
    )
