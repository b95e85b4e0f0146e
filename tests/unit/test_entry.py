"""What a caller of a function is told about an error."""

from __future__ import annotations

import flask
import pytest
from google.api_core.exceptions import (
    Aborted,
    Forbidden,
    PermissionDenied,
    ResourceExhausted,
    TooManyRequests,
    Unauthenticated,
)

from functions.entry import respond
from shared.errors import Conflict, PipelineError, Unavailable
from shared.messages import Reconcile


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        # gRPC's and HTTP's way of saying it.
        (ResourceExhausted("60 writes a minute"), 429, "quota_exceeded"),
        (TooManyRequests("60 writes a minute"), 429, "quota_exceeded"),
        (PermissionDenied("Permission 'run.services.update' denied"), 422, "refused"),
        (Forbidden("storage.objects.get access denied"), 422, "refused"),
        (Unauthenticated("invalid credentials"), 422, "refused"),
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

    raised.add_note("it is recorded")

    def use_case(_: Reconcile) -> dict[str, object]:
        raise raised

    with flask.Flask(__name__).test_request_context(json={}) as context:
        answer = flask.make_response(respond(Reconcile, context.request, use_case))
    assert answer.status_code == status
    assert answer.get_json()["code"] == code
    detail = answer.get_json()["detail"]
    if isinstance(raised, PipelineError | TooManyRequests | Forbidden):
        assert str(raised.args[0]) in detail
    if status == 422:
        # What the runbook looks for in the log.
        assert f"Google Cloud refused: {raised.args[0]} ({type(raised).__name__})" in detail
    assert detail.endswith("; it is recorded")
