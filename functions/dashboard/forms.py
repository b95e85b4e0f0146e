"""The pages that act: each asks first, in words, and then sends a form."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import flask

from functions.dashboard.context import actions, reader
from functions.dashboard.deploy_form import DeployForm, read_form
from functions.dashboard.identity import needs, who
from functions.dashboard.rendering import answer_page, blueprint, send_on
from functions.dashboard.schemas import ModelView
from shared.domain.deployment import Status
from shared.errors import InvalidRequest

REASON_LENGTH = 300


def run_number() -> int:
    """Return the training run that the address names; InvalidRequest without one."""
    text = flask.request.args.get("run", "")
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise InvalidRequest("the address must name a training run, as in ?run=47")
    return int(text)


@blueprint.get("/models/<model_id>/deploy")
@needs("deployer")
def ask_deploy(model_id: str) -> flask.Response:
    """The deploy dialog: what, how it compares, and what traffic will do."""
    model = reader().model(model_id)
    return _ask_deploy(model, _form(model, flask.request.args))


def _ask_deploy(model: ModelView, form: DeployForm) -> flask.Response:
    comparison = reader().compare(model.model_id, run_number())
    return answer_page(
        "deploy.html",
        422 if form.error else 200,
        place="deploy",
        model_id=model.model_id,
        model=model,
        comparison=comparison,
        run=comparison.new,
        next_version=_next_version(model.model_id),
        form=form,
    )


@blueprint.get("/models/<model_id>/deploy/sentence")
@needs("deployer")
def deploy_sentence(model_id: str) -> flask.Response:
    """What traffic will do with the options as they stand in the form just now."""
    model = reader().model(model_id)
    return answer_page("_sentence.html", form=_form(model, flask.request.args))


@blueprint.post("/models/<model_id>/deploy")
@needs("deployer")
def deploy(model_id: str) -> flask.Response:
    """Publish the message that deploys the run, and show how it goes.

    The form carries the request's id, so that sending it twice deploys once.
    """
    model = reader().model(model_id)
    form = _form(model, flask.request.form)
    if form.error:
        return _ask_deploy(model, form)
    asked = actions().deploy(model_id, form.request(run_number()), who(), form.request_id)
    return send_on("pages.deployment", deployment_id=asked.deployment_id, asked=int(time.time()))


def _form(model: ModelView, typed: Mapping[str, str]) -> DeployForm:
    return read_form(typed, model, _next_version(model.model_id))


def _next_version(model_id: str) -> str:
    newest = reader().deployments(model_id, None, 1).items
    return f"v{newest[0].version + 1 if newest else 1}"


@blueprint.get("/deployments/<deployment_id>/rollback")
@needs("deployer")
def ask_rollback(deployment_id: str) -> flask.Response:
    """Ask before going back, and say what it costs."""
    target = reader().deployment(deployment_id)
    return answer_page(
        "rollback.html",
        place="rollback",
        model_id=target.model_id,
        model=reader().model(target.model_id),
        target=target,
    )


@blueprint.post("/deployments/<deployment_id>/rollback")
@needs("deployer")
def rollback(deployment_id: str) -> flask.Response:
    """Go back to this version, unless it changed since the question was read."""
    etag = flask.request.form.get("etag")
    # A box that is not ticked sends nothing, so a field of the same name comes before it.
    check = flask.request.form.getlist("check") != ["no"]
    takes_over = actions().roll_back(deployment_id, _reason(), who(), etag, check)
    found = reader().deployment(takes_over)
    if found.status is Status.DEPLOYING:
        return send_on("pages.deployment", deployment_id=found.id)
    return send_on("pages.model", model_id=found.model_id)


@blueprint.get("/models/<model_id>/rollback")
@needs("deployer")
def way_back(model_id: str) -> flask.Response:
    """Ask the question that the way back of just now begins with: an address for a chat."""
    model = reader().model(model_id)
    if target := model.rollback_target:
        return send_on("pages.ask_rollback", deployment_id=target.id)
    if under_way := model.under_way:
        return send_on("pages.ask_cancel", deployment_id=under_way.id)
    return send_on("pages.model", model_id=model_id)


@blueprint.get("/deployments/<deployment_id>/cancel")
@needs("deployer")
def ask_cancel(deployment_id: str) -> flask.Response:
    """Ask before a rollout is cancelled."""
    found = reader().deployment(deployment_id)
    return answer_page(
        "cancel.html",
        place="cancel",
        model_id=found.model_id,
        model=reader().model(found.model_id),
        deployment=found,
    )


@blueprint.post("/deployments/<deployment_id>/cancel")
@needs("deployer")
def cancel(deployment_id: str) -> flask.Response:
    """Cancel a rollout. Its steps change it all the time, so no earlier look is compared."""
    actions().cancel(deployment_id, _reason(), who())
    return send_on("pages.deployment", deployment_id=deployment_id)


@blueprint.post("/deployments/<deployment_id>/pause")
@needs("deployer")
def pause(deployment_id: str) -> flask.Response:
    """Keep a rollout at its present share."""
    actions().pause(deployment_id, _reason(), who())
    return send_on("pages.deployment", deployment_id=deployment_id)


@blueprint.post("/deployments/<deployment_id>/resume")
@needs("deployer")
def resume(deployment_id: str) -> flask.Response:
    """Let a paused rollout go on."""
    actions().resume(deployment_id, _reason(), who())
    return send_on("pages.deployment", deployment_id=deployment_id)


@blueprint.post("/deployments/<deployment_id>/approve")
@needs("deployer")
def approve(deployment_id: str) -> flask.Response:
    """Let a rollout go on to its next share now, unless it did since the page was read."""
    actions().approve(deployment_id, _reason(), who(), percent=_percent())
    return send_on("pages.deployment", deployment_id=deployment_id)


@blueprint.get("/deployments/<deployment_id>/skip")
@needs("deployer")
def ask_skip(deployment_id: str) -> flask.Response:
    """Ask before the rest of a rollout's stages is left out."""
    found = reader().deployment(deployment_id)
    return answer_page(
        "skip.html",
        place="skip",
        model_id=found.model_id,
        model=reader().model(found.model_id),
        deployment=found,
    )


@blueprint.post("/deployments/<deployment_id>/skip")
@needs("deployer")
def skip(deployment_id: str) -> flask.Response:
    """Let a rollout go on to all of the traffic now."""
    actions().skip(deployment_id, _reason(), who())
    return send_on("pages.deployment", deployment_id=deployment_id)


def _percent() -> int | None:
    """Return the share of traffic that the page showed; None where it says nothing of it."""
    text = flask.request.form.get("percent")
    if text is not None and not re.fullmatch("[0-9]{1,3}", text):
        raise InvalidRequest("percent: must be a whole number")
    return None if text is None else int(text)


def _reason() -> str:
    text = " ".join(flask.request.form.get("reason", "").split())
    if len(text) > REASON_LENGTH:
        raise InvalidRequest(f"the reason is longer than {REASON_LENGTH} characters")
    return "".join(letter for letter in text if letter.isprintable())
