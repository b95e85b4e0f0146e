"""The dashboard as one WSGI application: the REST API and the pages, behind one gate."""

from __future__ import annotations

import flask
from google.cloud import firestore

from functions.dashboard import api, errors, pages, security, swagger
from functions.dashboard.acting import Actions
from functions.dashboard.context import Parts
from functions.dashboard.identity import Identify, check_role, identifier, needed_role, who
from functions.dashboard.reading import Reader
from functions.dashboard.records import Records
from functions.dashboard.security import SAFE, Forms
from functions.dashboard.settings import DashboardSettings
from shared import logs, wiring
from shared.config import TRAINING_TOPIC
from shared.ports import Ports, Topic

BODY_AT_MOST = 64 * 1024


def create_app(
    ports: Ports,
    client: firestore.Client,
    topic: Topic,
    settings: DashboardSettings,
    identify: Identify | None = None,
) -> flask.Flask:
    """Return the app; `topic` is the training-completed topic. Nothing connects yet."""
    records = Records(client)
    parts = Parts(
        settings,
        identify or identifier(settings),
        Reader(ports, records),
        Actions(ports, records, topic, settings.secret),
        Forms(settings),
    )
    app = api.described_app("functions.dashboard")
    app.config["MAX_CONTENT_LENGTH"] = BODY_AT_MOST
    app.extensions["turnout"] = parts
    app.jinja_env.globals.update(csrf_token=parts.forms.token, who=who)
    app.before_request(_admit)
    app.after_request(_leave)
    errors.register(app, pages.error_page)
    app.register_blueprint(swagger.blueprint)
    app.register_blueprint(pages.blueprint)
    return app


def from_environment() -> flask.Flask:
    """Return the app over Google's clients, as the environment says."""
    return create_app(
        wiring.ports(),
        wiring.firestore_client(),
        wiring.topic(TRAINING_TOPIC),
        DashboardSettings.from_environment(),
    )


def _admit() -> None:
    """Identify the caller, check the role and the origin, before any view runs."""
    request = flask.request
    if request.endpoint == "static":
        return  # the same for everybody, and what an error page needs too
    parts: Parts = flask.current_app.extensions["turnout"]
    flask.g.who = parts.identify(request)
    view = flask.current_app.view_functions.get(request.endpoint or "")
    check_role(who(), needed_role(view, request.method))
    if request.method not in SAFE:
        security.check_origin(request, parts.settings)
        if not request.path.startswith("/api/"):
            parts.forms.check(request)


def _leave(response: flask.Response) -> flask.Response:
    parts: Parts = flask.current_app.extensions["turnout"]
    parts.forms.keep(response)
    if flask.request.method not in SAFE:
        parts.actions.announce()
        asker = flask.g.get("who")
        logs.log(
            "dashboard action",
            severity="NOTICE" if response.status_code < 400 else "WARNING",
            endpoint=flask.request.endpoint,
            status=response.status_code,
            by=asker.email if asker else None,
            source=asker.source if asker else None,
        )
    return security.add_headers(response)
