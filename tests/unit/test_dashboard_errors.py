"""What a person at the dashboard is told when Google Cloud says no, or nothing."""

from __future__ import annotations

import flask
import pytest
from google.api_core import exceptions

from functions.dashboard import errors


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (
            exceptions.PermissionDenied("Permission 'run.services.update' denied on 'movies'"),
            422,
            "Google Cloud refused: Permission 'run.services.update' denied on 'movies'",
        ),
        (exceptions.Unauthenticated("invalid credentials"), 422, "refused: invalid credentials"),
        (exceptions.FailedPrecondition("needs an index: URL"), 422, "refused: needs an index: URL"),
        (exceptions.ResourceExhausted("60 a minute"), 503, "did not answer (ResourceExhausted)"),
        (exceptions.Aborted("contention"), 503, "did not answer (Aborted)"),
        (exceptions.ServiceUnavailable("reset"), 503, "did not answer (ServiceUnavailable)"),
        (exceptions.RetryError("too long", None), 503, "did not answer (RetryError)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_refusal_is_told_in_googles_words_and_silence_as_worth_another_try(
    raised: Exception, status: int, said: str
) -> None:
    app = flask.Flask(__name__)
    errors.register(app, None)
    raised.add_note("it is recorded")

    @app.get("/")
    def ask() -> str:
        raise raised

    answer = app.test_client().get("/")
    assert answer.status_code == status
    detail = answer.get_json(force=True)["detail"]
    assert said in detail
    assert detail.endswith("; it is recorded")
    assert ("try again" in detail) == (status == 503)
