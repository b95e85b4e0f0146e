"""The API's description to read and to try: Swagger UI from files of our own origin.

The package's own page has its script inline, which the Content-Security-Policy refuses.
"""

from __future__ import annotations

from pathlib import Path

import flask
import flask_openapi_swagger  # type: ignore[import-untyped]

_ASSETS = Path(flask_openapi_swagger.__file__).parent / "templates" / "swagger"
_OWN = Path(__file__).parent
_KEPT_S = 24 * 3600

blueprint = flask.Blueprint("swagger", __name__, url_prefix="/api/docs")


@blueprint.get("/")
def page() -> flask.Response:
    """Return the page."""
    return flask.send_from_directory(_OWN, "page.html", max_age=0)


@blueprint.get("/start.js")
def start() -> flask.Response:
    """Return the script that starts it."""
    return flask.send_from_directory(_OWN, "start.js", max_age=_KEPT_S)


@blueprint.get("/assets/<path:name>")
def asset(name: str) -> flask.Response:
    """Return a file of Swagger UI."""
    return flask.send_from_directory(_ASSETS, name, max_age=_KEPT_S)
