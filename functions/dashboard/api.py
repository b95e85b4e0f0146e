"""The REST API: exactly the specification's paths, and what the screens need besides."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any, cast

import flask
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.info import Info
from flask_openapi.models.request_body import RequestBody
from flask_openapi.openapi import OpenAPI
from pydantic import BaseModel

from functions.dashboard.acting import Actions
from functions.dashboard.context import actions, reader
from functions.dashboard.identity import needs, who
from functions.dashboard.schemas import (
    AnyMessage,
    Approval,
    Comparison,
    CreateDeployment,
    CreateKey,
    DeploymentPage,
    DeploymentRequested,
    DeploymentView,
    EventPage,
    HealthView,
    KeyList,
    KeyView,
    Known,
    LastHours,
    MetricsView,
    ModelList,
    ModelView,
    NewKeyView,
    OfDeployment,
    OfKey,
    OfModel,
    PageOf,
    PlanView,
    Problem,
    Repeating,
    RunPage,
    Unchanged,
    WayBack,
    WhichRun,
    Why,
)
from functions.dashboard.typed import typed

ABOUT = (
    "Deploy a training run, watch it, go back. Every request carries the caller's identity "
    "(`Authorization: Bearer ID_TOKEN`); viewers read, deployers deploy and roll back, admins "
    "manage API keys. Errors are problem documents (RFC 9457). Lists come in pages: pass "
    "`next_cursor` as `cursor`."
)
SECURITY_SCHEMES: dict[str, Any] = {
    "idToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A Google ID token; `gcloud auth print-identity-token` prints one.",
    }
}
_PROBLEMS = {
    400: "Something in the request is wrong; `detail` names the field.",
    401: "No identity, or a token that is forged, expired or meant for another service.",
    403: "The caller's role does not reach, or a page of another origin sent it.",
    404: "Nothing by that name.",
    409: "The present state does not allow it.",
    412: "The deployment changed since the ETag in If-Match was read.",
    413: "The body is too large.",
    415: "The body is not declared as application/json.",
    422: "Understood, and it cannot succeed as it is.",
    429: "Too many; come again after Retry-After seconds.",
    503: "A service behind this one does not answer; try again.",
}


def problems(*statuses: int) -> dict[Any, Any]:
    """Return the documented errors: those of every operation, and `statuses`."""
    return {
        str(status): {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": _reference(Problem)}},
        }
        for status in sorted({400, 401, 403, 503, *statuses})
    }


def _reference(kind: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _tagged(description: str) -> dict[str, Any]:
    """An answer with a deployment and its ETag."""
    return {
        "description": description,
        "headers": {"ETag": {"schema": {"type": "string"}, "description": "For If-Match."}},
        "content": {"application/json": {"schema": _reference(DeploymentView)}},
    }


blueprint = APIBlueprint(
    "api",
    __name__,
    url_prefix="/api",
    abp_security=[{"idToken": []}],
    operation_id_callback=lambda name, path, method: name,  # noqa: ARG005
)


@blueprint.get("/models/", responses={200: ModelList, **problems()})
@typed
def list_models() -> flask.Response:
    """List the models: what is live, what moves, what could replace it."""
    return _json(reader().models())


@blueprint.get("/models/<model_id>/", responses={200: ModelView, **problems(404)})
@typed
def get_model(path: OfModel) -> flask.Response:
    """Get one model."""
    return _json(reader().model(path.model_id))


@blueprint.get("/models/<model_id>/training-runs/", responses={200: RunPage, **problems(404, 422)})
@typed
def list_runs(path: OfModel, query: PageOf) -> flask.Response:
    """List training runs, newest first, each beside the live version."""
    return _json(reader().runs(path.model_id, query.cursor, query.limit))


@blueprint.get("/models/<model_id>/compare/", responses={200: Comparison, **problems(404)})
@typed
def compare(path: OfModel, query: WhichRun) -> flask.Response:
    """Compare a training run with the live version."""
    return _json(reader().compare(path.model_id, query.training_run))


@blueprint.get("/models/<model_id>/audit/", responses={200: EventPage, **problems(404, 422)})
@typed
def list_audit(path: OfModel, query: PageOf) -> flask.Response:
    """List everything that happened to a model, newest first: who, when, why, from where."""
    return _json(reader().audit(path.model_id, query.cursor, query.limit))


@blueprint.post("/models/<model_id>/health-check/", responses={200: HealthView, **problems(404)})
@needs("viewer")
@typed
def check_health(path: OfModel) -> flask.Response:
    """Ask the live service for its health now."""
    return _json(reader().health(path.model_id))


@blueprint.get(
    "/models/<model_id>/deployments/", responses={200: DeploymentPage, **problems(404, 422)}
)
@typed
def list_deployments(path: OfModel, query: PageOf) -> flask.Response:
    """List deployments, newest version first."""
    return _json(reader().deployments(path.model_id, query.cursor, query.limit))


@blueprint.post(
    "/models/<model_id>/deployments/",
    responses={202: DeploymentRequested, **problems(404, 413, 415, 422)},
)
@needs("deployer")
@typed
def create_deployment(path: OfModel, header: Repeating, body: CreateDeployment) -> flask.Response:
    """Create new deployment: publishes the message that training publishes.

    The deployment appears under `deployment_id` within seconds. Takes the role deployer.
    """
    made = actions().deploy(path.model_id, body, who(), header.idempotency_key or None)
    response = _json(made, 202)
    response.headers["Location"] = flask.url_for("api.get_deployment", deploy_id=made.deployment_id)
    return response


@blueprint.post("/plan/", responses={200: PlanView, **problems(413, 415)})
@needs("viewer")
@typed
def plan_message(body: AnyMessage) -> flask.Response:
    """Say what a training-completed message would do, and why, without doing it."""
    return _json(reader().plan(body.model_extra or {}))


@blueprint.get(
    "/deployments/<deploy_id>/",
    responses={200: _tagged("The deployment."), 304: None, **problems(404)},
)
@typed
def get_deployment(path: OfDeployment, header: Known) -> flask.Response:  # noqa: ARG001
    """Get deployment details; with If-None-Match, 304 where nothing changed."""
    response = _deployment(path.deploy_id)
    response.make_conditional(flask.request)
    return response


@blueprint.get("/deployments/<deploy_id>/events/", responses={200: EventPage, **problems(404, 422)})
@typed
def list_events(path: OfDeployment, query: PageOf) -> flask.Response:
    """List what happened to a deployment, newest first."""
    return _json(reader().events_of_deployment(path.deploy_id, query.cursor, query.limit))


@blueprint.get("/deployments/<deploy_id>/metrics/", responses={200: MetricsView, **problems(404)})
@typed
def get_metrics(path: OfDeployment, query: LastHours) -> flask.Response:
    """Get serving metrics, hour by hour, oldest first."""
    return _json(reader().metrics(path.deploy_id, query.hours))


def _act(verb: str, summary: str, act: Callable[..., str | None], kind: type[Why] = Why) -> None:
    """Add POST /deployments/{deploy_id}/`verb`/, which answers with the deployment after it.

    `act` may return another deployment's id, to answer with that one. What the body, of that
    `kind`, says beside the reason goes to it by its name.
    """

    def view(path: OfDeployment, header: Unchanged, body: Why) -> flask.Response:
        more = body.model_dump(exclude={"reason"})
        other = act(actions(), path.deploy_id, body.reason, who(), _etag(header.if_match), **more)
        return _deployment(other or path.deploy_id)

    view.__name__ = f"{verb}_deployment"
    view.__annotations__["body"] = kind
    blueprint.post(
        f"/deployments/<deploy_id>/{verb}/",
        summary=summary,
        description="Takes the role deployer.",
        request_body=RequestBody.model_validate(
            {"content": {"application/json": {"schema": _reference(kind)}}, "required": False}
        ),
        responses={200: _tagged("The deployment afterwards."), **problems(404, 409, 412, 413, 415)},
    )(needs("deployer")(typed(view)))


_act(
    "rollback",
    "Rollback to this version: all traffic, at once; deployed again where its revision is gone",
    Actions.roll_back,
    WayBack,
)
_act("cancel", "Stop a rollout that runs or waits", Actions.cancel)
_act("pause", "Keep a rollout at its stage", Actions.pause)
_act("resume", "Let a paused rollout go on", Actions.resume)
_act("approve", "Let a rollout go on to its next stage now", Actions.approve, Approval)
_act("skip", "Let a rollout go on to all of the traffic now", Actions.skip)


@blueprint.get("/models/<model_id>/api-keys/", responses={200: KeyList, **problems(404)})
@typed
def list_keys(path: OfModel) -> flask.Response:
    """List API keys by their first eight characters."""
    return _json(reader().keys(path.model_id))


@blueprint.post(
    "/models/<model_id>/api-keys/",
    responses={201: NewKeyView, **problems(404, 413, 415, 422, 429)},
)
@needs("admin")
@typed
def create_key(path: OfModel, header: Repeating, body: CreateKey) -> flask.Response:
    """Create API key; `key` is shown this once. Takes the role admin."""
    return _json(
        actions().create_key(path.model_id, body, who(), header.idempotency_key or None), 201
    )


@blueprint.delete("/api-keys/<key_id>/", responses={200: KeyView, **problems(404)})
@needs("admin")
@typed
def revoke_key(path: OfKey) -> flask.Response:
    """Revoke API key; serving containers refuse it within seconds. Takes the role admin."""
    return _json(actions().revoke_key(path.key_id, who()))


@blueprint.get("/openapi.json", doc_ui=False)
@typed
def openapi() -> flask.Response:
    """Return the API's own description."""
    app = cast(OpenAPI, flask.current_app)
    # Not jsonify: it would sort the paths by name.
    content = json.dumps(document(app, flask.request.script_root))
    return flask.Response(content, content_type="application/json")


def described_app(name: str) -> OpenAPI:
    """Return an app with the API and its description, and nothing behind it yet."""
    app = OpenAPI(
        name,
        # Not /static: functions-framework's own app around this one answers that path itself.
        static_url_path="/assets",
        info=Info(title="Turnout", version="1", description=ABOUT),
        security_schemes=SECURITY_SCHEMES,
        validation_error_status=400,
        validation_error_model=Problem,
        doc_ui=False,
    )
    app.openapi_version = "3.1.0"
    # Before the first route: it counts when they are added.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.register_api(blueprint)
    return app


def document(app: OpenAPI, prefix: str = "") -> dict[str, Any]:
    """Return the OpenAPI 3.1 document; `prefix` is where the app is mounted."""
    described: dict[str, Any] = app.api_doc
    for path, operations in described["paths"].items():
        for operation in operations.values():
            operation["tags"] = [_topic(path)]
    return {**described, "servers": [{"url": prefix or "/"}]}


def _topic(path: str) -> str:
    if "/api-keys/" in path:
        return "API keys"
    return "Deployments" if "/deployments/" in path else "Models"


def _json(view: BaseModel, status: int = 200) -> flask.Response:
    return flask.Response(view.model_dump_json(), status, content_type="application/json")


def _deployment(deployment_id: str) -> flask.Response:
    """The deployment with its ETag: what its state is, then what the estimate says."""
    view = reader().deployment(deployment_id)
    response = _json(view)
    response.set_etag(f"{view.etag}.{sha256(response.get_data()).hexdigest()[:16]}")
    return response


def _etag(header: str) -> str | None:
    """Return the state's part of an entity tag: an estimate that moved on is no change.

    A weak one stays as it is, and so never matches (RFC 9110).
    """
    return header.strip('"').partition(".")[0] if header else None
