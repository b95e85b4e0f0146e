"""Calls the pipeline's private functions as the person at the keyboard."""

from __future__ import annotations

import subprocess
from typing import Any

import google.auth.exceptions
import google.auth.transport.requests
import google.oauth2.id_token
import requests

from shared.errors import PipelineError, Unavailable
from shared.wiring import settings

TIMEOUT_S = 300


class FunctionFailed(PipelineError):
    """A function answered with a problem; its own words are the message."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or f"the function answered {status}"))
        self.status = status
        self.problem_body = problem

    def problem(self) -> dict[str, Any]:
        """Return the function's own problem document."""
        return {**super().problem(), "status": self.status, **self.problem_body}


def call(function: str, body: dict[str, Any], path: str = "") -> dict[str, Any]:
    """POST `body` to a function and return its answer; FunctionFailed with what it says.

    `path` lies below the function, whose own URL is the audience of the caller's token.
    """
    url = f"{settings().functions_url}/{function}"
    try:
        answer = requests.post(
            f"{url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {_identity_token(url)}"},
            timeout=TIMEOUT_S,
        )
    except requests.RequestException as error:
        raise Unavailable(f"{url}{path} did not answer: {type(error).__name__}") from error
    try:
        result = answer.json()
    except ValueError:
        result = {"detail": answer.text[:500]}
    if answer.status_code >= 400:
        raise FunctionFailed(answer.status_code, result)
    return dict(result)


def _identity_token(audience: str) -> str:
    """Return an ID token of this machine's account, or of the person that gcloud knows."""
    request = google.auth.transport.requests.Request()
    try:
        return str(google.oauth2.id_token.fetch_id_token(request, audience))
    except google.auth.exceptions.GoogleAuthError as error:
        # A person's own credentials cannot mint a token for an audience; gcloud's can.
        try:
            asked = subprocess.run(
                ["gcloud", "auth", "print-identity-token"],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
        except (OSError, subprocess.SubprocessError):
            raise Unavailable(
                f"no identity to call {audience} with ({error}); run `gcloud auth login`"
            ) from error
        return asked.stdout.strip()
