"""Who may call what: the platform lets in whom Terraform names, and the code believes no more."""

from __future__ import annotations

import base64
import inspect
import json
import re
from pathlib import Path
from typing import Any

import flask
import pytest
import yaml

from functions import main
from functions.dashboard.identity import CHECKED_BY_GOOGLE
from functions.entry import caller
from serving.server import new_server

ROOT = Path(__file__).parents[2]
TERRAFORM = "\n".join(path.read_text() for path in sorted((ROOT / "terraform").glob("*.tf")))


def token(email: str) -> str:
    """Return an ID token as Google hands it on, its signature checked and taken away."""
    claims = base64.urlsafe_b64encode(json.dumps({"email": email}).encode()).decode().rstrip("=")
    return f"{base64.urlsafe_b64encode(b'{}').decode()}.{claims}.{CHECKED_BY_GOOGLE}"


def called_by(**headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with flask.Flask(__name__).test_request_context(headers=named) as context:
        return caller(context.request)


def test_caller_is_who_google_checked_not_who_the_other_header_says() -> None:
    ops, forged = f"Bearer {token('ops@example.com')}", f"Bearer {token('root@example.com')}"
    assert called_by(Authorization=ops) == "ops@example.com"
    assert called_by(X_Serverless_Authorization=ops, Authorization=forged) == "ops@example.com"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer a.b",
        "Bearer a.!!!.c",
        "Bearer a.W10.c",
        "Bearer a.bnVsbA.c",
        "Basic eDp5",
        "Bearer " + "." * 5_000,
        "Bearer a." + base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".c",
    ],
)
def test_token_that_cannot_be_read_is_nobodys_and_no_crash(header: str) -> None:
    assert called_by(Authorization=header) == "unknown"


def test_every_entry_point_is_a_private_function_of_terraforms() -> None:
    """An entry point that Terraform does not know has no invokers, or worse, all of them."""
    functions = (ROOT / "terraform" / "functions.tf").read_text()
    known = set(re.findall(r"^    (\w+) = \{$", functions, re.MULTILINE))
    assert set(main.__all__) == known


def test_nobody_but_named_members_may_invoke_a_function() -> None:
    resources = re.findall(r'resource "(\w+)" "(\w+)" \{(.*?)\n\}', TERRAFORM, re.DOTALL)
    open_ones = [
        f"{kind}.{name}"
        for kind, name, body in resources
        if "invoker_iam_disabled = true" in re.sub(r" +", " ", body)
        or re.search(r'"all(Authenticated)?Users"', body)
    ]
    # The prediction API alone, which checks API keys itself.
    assert open_ones == ["google_cloud_run_v2_service.model"]


def test_functions_that_only_google_calls_are_shut_to_the_world() -> None:
    functions = (ROOT / "terraform" / "functions.tf").read_text()
    blocks = dict(
        re.findall(r"^    (\w+) = \{\n(.*?)\n    \}", functions, re.MULTILINE | re.DOTALL)
    )
    inside = {name for name, body in blocks.items() if re.search(r"inside\s+= true", body)}
    assert inside >= {"on_training_completed", "on_deployment_event", "reconcile"}


def test_every_call_of_a_function_carries_an_id_token() -> None:
    pushes = re.findall(r"push_config \{(.*?)\n  \}", TERRAFORM, re.DOTALL)
    scheduled = re.findall(r"http_target \{(.*?)\n  \}", TERRAFORM, re.DOTALL)
    assert len(pushes) >= 1
    assert len(scheduled) >= 1
    assert all("oidc_token" in call and "audience" in call for call in (*pushes, *scheduled))
    calls = _calls(yaml.safe_load((ROOT / "workflows" / "deploy_model.yaml").read_text()))
    assert calls
    assert all(call["args"].get("auth", {}).get("type") == "OIDC" for call in calls)


def _calls(part: object) -> list[dict[str, Any]]:
    """Return every HTTP call of a workflow, however deep it lies."""
    if isinstance(part, dict):
        mine = [part] if str(part.get("call", "")).startswith("http.") else []
        return mine + [call for value in part.values() for call in _calls(value)]
    return [call for value in part for call in _calls(value)] if isinstance(part, list) else []


def test_container_listens_on_this_machine_only_where_the_image_does_not_say_otherwise() -> None:
    from serving.settings import read_settings

    assert read_settings({}).host == "127.0.0.1"
    assert "websockets=False" in inspect.getsource(new_server)
