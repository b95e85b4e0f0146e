"""The entry point `dashboard`: hands each request on to the dashboard's own app."""

from __future__ import annotations

import functools

import flask
import functions_framework
from flask.typing import ResponseReturnValue


@functools.cache
def _app() -> flask.Flask:
    # Imported here: no other function of the bundle should pay for it at its start.
    from functions.dashboard.app import from_environment

    return from_environment()


@functions_framework.http
def dashboard(request: flask.Request) -> ResponseReturnValue:
    """Serve the pages and the REST API under whatever path the function is mounted at."""
    return flask.Response.from_app(_app().wsgi_app, request.environ)
