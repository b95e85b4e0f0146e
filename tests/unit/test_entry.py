"""What a caller of a function is told about an error."""

from __future__ import annotations

import flask
import pytest
from google.api_core.exceptions import Aborted, ResourceExhausted, TooManyRequests

from functions.entry import respond
from shared.errors import Conflict, PipelineError, Unavailable
from shared.messages import Reconcile


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        # gRPC's and HTTP's way of saying it.
        (ResourceExhausted("60 writes a minute"), 429, "quota_exceeded"),
        (TooManyRequests("60 writes a minute"), 429, "quota_exceeded"),
        (Aborted("conflict"), 500, "pipeline_error"),
        (ValueError("surprise"), 500, "pipeline_error"),
        (Unavailable("away"), 503, "unavailable"),
        (Conflict("no"), 409, "conflict"),
    ],
)
def test_error_is_answered_as_what_the_workflow_does_about_it(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, status: int, code: str
) -> None:
    monkeypatch.setattr("functions.entry.announce_own", lambda: None)
    monkeypatch.setattr("functions.entry.wiring.state", lambda: None)

    def use_case(_: Reconcile) -> dict[str, object]:
        raise raised

    with flask.Flask(__name__).test_request_context(json={}) as context:
        answer = flask.make_response(respond(Reconcile, context.request, use_case))
    assert answer.status_code == status
    assert answer.get_json()["code"] == code
    if isinstance(raised, PipelineError | TooManyRequests):
        assert str(raised.args[0]) in answer.get_json()["detail"]
