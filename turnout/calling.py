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
WHO_NEEDS_WHAT = "docs/how-to/who-needs-what.md"


class FunctionFailed(PipelineError):
    """A function answered with a problem; its own words are the message."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or f"it answered {status} and does not say why"))
        self.status = status
        self.problem_body = problem

    def problem(self) -> dict[str, Any]:
        """Return the function's own problem document."""
        return {
            **super().problem(),
            **self.problem_body,
            "detail": str(self),
            "status": self.status,
        }


def answer_of(response: requests.Response) -> dict[str, Any]:
    """Return the JSON object that a good answer holds; FunctionFailed with what another says.

    What stands before a container answers in plain text (`Rate exceeded.`) or as a page, which
    is no text for a terminal. Unavailable where a good answer is no JSON object.
    """
    status = response.status_code
    try:
        body = dict(response.json())
    except (ValueError, TypeError):
        if status < 400:
            raise Unavailable(f"it answered {status}, and not with a JSON object") from None
        is_text = response.headers.get("Content-Type", "").startswith("text/plain")
        said = {"detail": f"it answered {status}: {response.text.strip()[:500]}"} if is_text else {}
        raise FunctionFailed(status, said) from None
    if status >= 400:
        raise FunctionFailed(status, body)
    return body


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
        return answer_of(answer)
    except FunctionFailed as failed:
        if not failed.problem_body.get("code") and (why := _kept_out(answer.status_code, function)):
            raise FunctionFailed(answer.status_code, {"detail": why}) from None
        raise


def _kept_out(status: int, function: str) -> str:
    """Say what to do where Google did not let the call through to the function; "" otherwise."""
    if status in (401, 403):
        role = "dashboard_access" if function == "dashboard" else "operators"
        return f"you may not call {function}: ask for the role of {role} ({WHO_NEEDS_WHAT})"
    if status == 404:
        return (
            f"there is no {function} to call: it is not deployed in this project and region, or "
            f"takes no calls from here ({WHO_NEEDS_WHAT})"
        )
    return ""


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
