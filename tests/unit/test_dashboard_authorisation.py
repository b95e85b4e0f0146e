"""Every route, every role, every way to have no identity. A route without a row fails."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import product

import pytest

from tests.dashboards import EMAILS, Dashboard, Signer, firestore_here

ANYBODY, VIEWER, DEPLOYER, ADMIN = "", "viewer", "deployer", "admin"
STRANGER = Signer()
ROLES = (VIEWER, DEPLOYER, ADMIN)

MATRIX: Mapping[str, str] = {
    "GET /assets/<path:filename>": ANYBODY,
    "OPTIONS /assets/<path:filename>": ANYBODY,
    "GET /api/models/": VIEWER,
    "GET /api/models/<model_id>/": VIEWER,
    "GET /api/models/<model_id>/training-runs/": VIEWER,
    "GET /api/models/<model_id>/compare/": VIEWER,
    "GET /api/models/<model_id>/audit/": VIEWER,
    "POST /api/models/<model_id>/health-check/": VIEWER,
    "GET /api/models/<model_id>/deployments/": VIEWER,
    "POST /api/models/<model_id>/deployments/": DEPLOYER,
    "POST /api/plan/": VIEWER,
    "GET /api/deployments/<deploy_id>/": VIEWER,
    "GET /api/deployments/<deploy_id>/events/": VIEWER,
    "GET /api/deployments/<deploy_id>/metrics/": VIEWER,
    "POST /api/deployments/<deploy_id>/rollback/": DEPLOYER,
    "POST /api/deployments/<deploy_id>/cancel/": DEPLOYER,
    "POST /api/deployments/<deploy_id>/pause/": DEPLOYER,
    "POST /api/deployments/<deploy_id>/resume/": DEPLOYER,
    "POST /api/deployments/<deploy_id>/approve/": DEPLOYER,
    "POST /api/deployments/<deploy_id>/skip/": DEPLOYER,
    "GET /api/models/<model_id>/api-keys/": VIEWER,
    "POST /api/models/<model_id>/api-keys/": ADMIN,
    "DELETE /api/api-keys/<key_id>/": ADMIN,
    "GET /api/openapi.json": VIEWER,
    "GET /api/docs/": VIEWER,
    "GET /api/docs/start.js": VIEWER,
    "GET /api/docs/assets/<path:name>": VIEWER,
    "GET /": VIEWER,
    "GET /live": VIEWER,
    "GET /models/<model_id>": VIEWER,
    "GET /models/<model_id>/live": VIEWER,
    "GET /models/<model_id>/logs": VIEWER,
    "GET /models/<model_id>/compare": VIEWER,
    "GET /models/<model_id>/metrics": VIEWER,
    "GET /models/<model_id>/audit": VIEWER,
    "GET /models/<model_id>/health": VIEWER,
    "GET /models/<model_id>/api": VIEWER,
    "GET /models/<model_id>/deploy": DEPLOYER,
    "GET /models/<model_id>/deploy/sentence": DEPLOYER,
    "POST /models/<model_id>/deploy": DEPLOYER,
    "POST /models/<model_id>/keys": ADMIN,
    "GET /models/<model_id>/keys/<key_id>/revoke": ADMIN,
    "POST /keys/<key_id>/revoke": ADMIN,
    "GET /deployments/<deployment_id>": VIEWER,
    "GET /deployments/<deployment_id>/live": VIEWER,
    "GET /deployments/<deployment_id>/rollback": DEPLOYER,
    "POST /deployments/<deployment_id>/rollback": DEPLOYER,
    "GET /deployments/<deployment_id>/cancel": DEPLOYER,
    "POST /deployments/<deployment_id>/cancel": DEPLOYER,
    "POST /deployments/<deployment_id>/pause": DEPLOYER,
    "POST /deployments/<deployment_id>/resume": DEPLOYER,
    "POST /deployments/<deployment_id>/approve": DEPLOYER,
    "GET /deployments/<deployment_id>/skip": DEPLOYER,
    "POST /deployments/<deployment_id>/skip": DEPLOYER,
    "GET /models/<model_id>/rollback": DEPLOYER,
}
# Nothing of these exists: whoever is let in gets as far as 404 and changes nothing.
NAMES = {
    "model_id": "nothing",
    "deploy_id": "nothing-1-auto",
    "deployment_id": "nothing-1-auto",
    "key_id": "0" * 64,
    "filename": "nothing.css",
    "name": "nothing.css",
}


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        firestore_here(tmp_path_factory.mktemp("firestore"), monkeypatch) as client,
    ):
        yield Dashboard(client)


def ask(dashboard: Dashboard, route: str, role: str) -> int:
    """Send the route's request in good order; return the status."""
    method, path = in_full(route)
    if method == "POST" and not path.startswith("/api/"):
        return int(dashboard.form(path, role).status_code)
    body = {} if method == "POST" else None
    return int(dashboard.ask(method, path, role, json=body).status_code)


def in_full(route: str) -> tuple[str, str]:
    """Return method and path with every name filled in."""
    method, path = route.split(" ")
    for name, value in NAMES.items():
        path = path.replace(f"<{name}>", value).replace(f"<path:{name}>", value)
    assert "<" not in path, f"no name for the parameter of {path}"
    return method, path


def test_every_route_has_a_row(dashboard: Dashboard) -> None:
    routes = {
        f"{method} {rule}"
        for rule in dashboard.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    assert routes == set(MATRIX)


@pytest.mark.parametrize(("route", "role"), list(product(MATRIX, ROLES)))
def test_role_reaches_exactly_its_routes(dashboard: Dashboard, route: str, role: str) -> None:
    needed = MATRIX[route]
    allowed = not needed or ROLES.index(role) >= ROLES.index(needed)
    status = ask(dashboard, route, role)
    if allowed:
        assert status not in (401, 403)
        assert status < 500
    else:
        assert status == 403


def _bad_tokens(signer: Signer) -> dict[str, dict[str, str]]:
    """Headers of somebody who would be an admin if the token were good."""
    admin, past = EMAILS["admin"], int(time.time()) - 7200
    good = signer.token(admin)
    head, _, signature = good.rpartition(".")
    unsigned = signer.checked(admin)
    tokens = {
        "forged by another key": STRANGER.token(admin),
        "forged signature": f"{head}.{signature[::-1]}",
        "without its signature": unsigned,
        "signed with none": f"{head}.",
        "expired": signer.token(admin, iat=past - 3600, exp=past),
        "of another audience": signer.token(admin, aud="https://other.test"),
        "of another issuer": signer.token(admin, iss="https://issuer.test"),
        "with an unverified address": signer.token(admin, email_verified=False),
        "without an address": signer.token(admin, email=None),
        "no token at all": "garbage",
    }
    bad = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
    return {
        **bad,
        "missing": {},
        "another scheme": {"Authorization": f"Basic {good}"},
        "forged beside a good one that Google does not look at": {
            "X-Serverless-Authorization": f"Bearer {STRANGER.token(admin)}",
            "Authorization": f"Bearer {good}",
        },
    }


@pytest.mark.parametrize("route", [route for route, role in MATRIX.items() if role != ANYBODY])
def test_without_a_good_token_every_route_answers_401(dashboard: Dashboard, route: str) -> None:
    method, path = in_full(route)
    for why, headers in _bad_tokens(dashboard.signer).items():
        body = {} if method == "POST" else None
        answer = dashboard.app.test_client().open(path, method=method, headers=headers, json=body)
        assert answer.status_code == 401, why
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Cache-Control"] == "no-store"


def test_unknown_path_tells_nobody_anything_without_a_token(dashboard: Dashboard) -> None:
    assert dashboard.app.test_client().get("/api/nothing").status_code == 401
    assert dashboard.ask("GET", "/api/nothing", VIEWER).status_code == 404


def test_person_on_no_list_is_refused_by_name(dashboard: Dashboard) -> None:
    token = dashboard.signer.token("eve@example.com")
    answer = dashboard.app.test_client().get(
        "/api/models/", headers={"Authorization": f"Bearer {token}"}
    )
    assert (answer.status_code, answer.json["code"]) == (403, "not_allowed")
    assert "eve@example.com" in answer.json["detail"]
