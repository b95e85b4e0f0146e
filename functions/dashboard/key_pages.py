"""The prediction API's page, and its keys: made, shown once, revoked."""

from __future__ import annotations

import flask
from pydantic import ValidationError

from functions.dashboard import prediction_api
from functions.dashboard.context import actions, reader
from functions.dashboard.identity import needs, who
from functions.dashboard.rendering import answer_page, blueprint, send_on
from functions.dashboard.schemas import CreateKey, NewKeyView
from shared.messages import explain

TYPED = ("name", "days", "requests_per_minute")


@blueprint.get("/models/<model_id>/api")
def api(model_id: str) -> flask.Response:
    """The prediction API: endpoints, keys, examples."""
    return _show(model_id)


def _show(
    model_id: str,
    new_key: NewKeyView | None = None,
    key_error: str = "",
    typed: dict[str, str] | None = None,
) -> flask.Response:
    """Answer the API page; `new_key` is shown this once, `key_error` says why there is none."""
    found = reader().model(model_id)
    keys = reader().keys(model_id).items
    response = answer_page(
        "api.html",
        422 if key_error else 200,
        place="api",
        model_id=model_id,
        model=found,
        active_keys=[key for key in keys if key.state == "active"],
        ended_keys=[key for key in keys if key.state != "active"],
        new_key=new_key,
        key_error=key_error,
        key_form=typed or dict.fromkeys(TYPED, ""),
        endpoints=prediction_api.endpoints(),
        examples=prediction_api.code_examples(found.endpoint_url),
    )
    if new_key:
        response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.post("/models/<model_id>/keys")
@needs("admin")
def create_key(model_id: str) -> flask.Response:
    """Make a key and show it, this once."""
    typed = {name: flask.request.form.get(name, "").strip() for name in TYPED}
    try:
        # A field that was left empty says nothing, but for the name, which there must be.
        given = {name: value or None for name, value in typed.items()}
        asked = CreateKey.model_validate({**given, "name": typed["name"]})
    except ValidationError as error:
        return _show(model_id, key_error=explain(error), typed=typed)
    return _show(model_id, actions().create_key(model_id, asked, who()))


@blueprint.get("/models/<model_id>/keys/<key_id>/revoke")
@needs("admin")
def ask_revoke(model_id: str, key_id: str) -> flask.Response:
    """Ask before a key is revoked, by its name."""
    return answer_page(
        "revoke.html",
        place="revoke",
        model_id=model_id,
        model=reader().model(model_id),
        key=reader().key(model_id, key_id),
    )


@blueprint.post("/keys/<key_id>/revoke")
@needs("admin")
def revoke_key(key_id: str) -> flask.Response:
    """Revoke a key; a repeat finds it revoked and changes nothing."""
    key = actions().revoke_key(key_id, who())
    return send_on("pages.api", model_id=key.model_id, _anchor="keys")
