"""Pages and fragments out of templates: compressed, conditional, and words from `presenting`."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import flask
from markupsafe import Markup

from functions.dashboard import assets, presenting
from functions.dashboard.schemas import Problem
from shared.domain.traffic import version_of

ETAG_PLACE = "etag-of-this-fragment"
_TOKEN = re.compile(r'name="csrf_token" value="[^"]*"')
_SMALLEST_COMPRESSED = 1_000

blueprint = flask.Blueprint("pages", __name__, template_folder="templates")


@dataclass(frozen=True)
class Fragment:
    """The part of a page that follows by itself; `etag` changes when it does."""

    html: Markup
    etag: str


def render_fragment(template: str, **context: Any) -> Fragment:
    """Render a live part. Its tag leaves the CSRF tokens out: they say nothing new."""
    html = flask.render_template(template, etag=ETAG_PLACE, **context)
    etag = sha256(_TOKEN.sub("", html).encode()).hexdigest()[:24]
    return Fragment(Markup(html.replace(ETAG_PLACE, etag)), etag)


def answer_fragment(fragment: Fragment, title: str = "", way_back: str = "") -> flask.Response:
    """Answer a live part by itself; 304 without a body where the page has it already."""
    if flask.request.if_none_match.contains(fragment.etag):
        response = flask.Response(status=304)
    else:
        head = Markup("<title>{} · Turnout</title>").format(title) if title else ""
        response = flask.Response(f"{head}{fragment.html}{way_back}")
    response.set_etag(fragment.etag)
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def way_back(model: Any) -> str:
    """Return the page's way back, to be put in place beside a live part."""
    return flask.render_template("_way_back.html", model=model)


def answer_page(template: str, status: int = 200, **context: Any) -> flask.Response:
    """Answer a whole page."""
    response = flask.Response(flask.render_template(template, **context), status)
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def send_on(endpoint: str, **values: Any) -> flask.Response:
    """Send the browser on with GET, so that going back or loading again repeats nothing."""
    return flask.make_response(flask.redirect(flask.url_for(endpoint, **values), 303))


def error_page(problem: Problem) -> str:
    """Return the page of an error, with the way to what it is about."""
    arguments = flask.request.view_args or {}
    back_url = ""
    if deployment_id := arguments.get("deployment_id"):
        if problem.status != 404:
            back_url = flask.url_for("pages.deployment", deployment_id=deployment_id)
    elif (model_id := arguments.get("model_id")) and problem.status != 404:
        back_url = flask.url_for("pages.model", model_id=model_id)
    return flask.render_template("error.html", problem=problem, back_url=back_url)


@blueprint.after_request
def compress(response: flask.Response) -> flask.Response:
    """Compress HTML. A page that shows a key is left as it is: nothing secret beside input."""
    if (
        response.mimetype == "text/html"
        and not response.direct_passthrough
        and "Content-Encoding" not in response.headers
        and "no-store" not in response.headers.get("Cache-Control", "")
        and flask.request.accept_encodings["gzip"] > 0
        and len(body := response.get_data()) >= _SMALLEST_COMPRESSED
    ):
        response.set_data(gzip.compress(body, compresslevel=6, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
    if response.mimetype == "text/html":
        response.vary.add("Accept-Encoding")
    return response


@blueprint.after_app_request
def keep_assets(response: flask.Response) -> flask.Response:
    """Compress static files; one whose address carries its content's hash is kept for ever."""
    name = (flask.request.view_args or {}).get("filename", "")
    if flask.request.endpoint != "static" or response.status_code != 200 or not assets.known(name):
        return response
    if flask.request.args.get("v") == assets.digest(name):
        response.headers["Cache-Control"] = assets.FOREVER
    if flask.request.accept_encodings["gzip"] > 0:
        response.direct_passthrough = False
        response.set_data(assets.compressed(name))
        response.headers["Content-Encoding"] = "gzip"
    response.vary.add("Accept-Encoding")
    return response


def _words() -> dict[str, Callable[..., Any]]:
    """The filters of all templates."""
    return {
        "announcement": presenting.announcement,
        "advice": presenting.advice,
        "age": lambda at: presenting.age(at, datetime.now(UTC)),
        "colour": presenting.colour,
        "config_words": presenting.config_words,
        "dataset_words": presenting.dataset_words,
        "estimate": presenting.estimate,
        "exactly": presenting.exactly,
        "heading": presenting.heading,
        "hour_words": presenting.hour_words,
        "in_order": presenting.in_order,
        "judged_rows": presenting.judged_rows,
        "judged_word": presenting.judged_word,
        "metrics_in_order": presenting.metrics_in_order,
        "metric_title": presenting.metric_title,
        "milliseconds": presenting.milliseconds,
        "moment": presenting.moment,
        "moving": presenting.is_moving,
        "sentence": presenting.as_sentence,
        "skew_rows": presenting.skew_rows,
        "stage_states": presenting.stage_states,
        "stamp": presenting.stamp,
        "status_word": presenting.status_word,
        "thousands": presenting.thousands,
        "took": presenting.took,
        "traffic_words": presenting.traffic_words,
        "verdict": presenting.verdict,
        "version_of": version_of,
        "tested_words": presenting.tested_words,
        "wellbeing": presenting.wellbeing,
    }


@blueprint.app_context_processor
def tools() -> dict[str, Any]:
    """The functions of all templates."""
    return {
        "asset": lambda name: flask.url_for("static", filename=name, v=assets.digest(name)),
        "difference": presenting.difference,
        "metric_value": presenting.metric_value,
        "share": presenting.share,
        "who": flask.g.get("who"),
    }


@blueprint.record_once
def _teach(state: flask.blueprints.BlueprintSetupState) -> None:
    templates = state.app.jinja_env
    templates.filters.update(_words())
    templates.trim_blocks = templates.lstrip_blocks = True
