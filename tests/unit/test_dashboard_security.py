"""What a browser may be used for: origins, form tokens, cookies, headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import flask
import pytest

from functions.dashboard.settings import IdentityMode
from tests.dashboards import (
    EMAILS,
    MODEL,
    SETTINGS,
    Dashboard,
    firestore_here,
    form_token,
)

KEYS = f"/api/models/{MODEL}/api-keys/"
PAUSE = "/deployments/movies-42-auto/pause"


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        firestore_here(tmp_path_factory.mktemp("firestore"), monkeypatch) as client,
    ):
        dashboard = Dashboard(client)
        dashboard.declare()
        dashboard.live(41)
        dashboard.rolling(42)
        yield dashboard


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8080"}, 404),
        ({"Origin": "http://localhost"}, 404),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.test"}, 403),
        ({"Origin": "http://localhost.evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
    ],
    ids=[
        "a program",
        "our page",
        "our page through the proxy",
        "our page in an old browser",
        "another site",
        "a sibling",
        "typed",
        "another origin",
        "our name as a prefix",
        "a sandbox",
        "empty",
    ],
)
def test_api_takes_changes_from_our_own_pages_and_programs_only(
    dashboard: Dashboard, headers: dict[str, str], status: int
) -> None:
    answer = dashboard.ask("DELETE", f"/api/api-keys/{'0' * 64}/", headers=headers)
    assert answer.status_code == status


def test_origin_that_is_configured_is_ours(dashboard: Dashboard) -> None:
    app = dashboard.another(replace(SETTINGS, origins=frozenset({"https://turnout.example.com"})))
    token = dashboard.signer.token(EMAILS["admin"])
    for origin, status in (("https://turnout.example.com", 404), ("https://evil.test", 403)):
        answer = app.test_client().delete(
            f"/api/api-keys/{'0' * 64}/",
            headers={"Authorization": f"Bearer {token}", "Origin": origin},
        )
        assert answer.status_code == status


class TestForms:
    def test_form_of_our_page_is_taken(self, dashboard: Dashboard) -> None:
        assert dashboard.form(PAUSE, "deployer").status_code == 303

    @pytest.mark.parametrize(
        ("cookie", "field"),
        [
            (None, form_token("browser", EMAILS["deployer"])),
            ("", form_token("", EMAILS["deployer"])),
            ("browser", ""),
            ("browser", "browser"),
            ("browser", form_token("another", EMAILS["deployer"])),
            ("browser", form_token("browser", EMAILS["admin"])),
            ("browser", "é"),
        ],
        ids=[
            "no cookie",
            "an empty cookie",
            "no field",
            "the cookie itself",
            "of another browser",
            "of another person",
            "not even ASCII",
        ],
    )
    def test_form_that_is_not_ours_is_refused(
        self, dashboard: Dashboard, cookie: str | None, field: str
    ) -> None:
        client = dashboard.app.test_client()
        if cookie is not None:
            client.set_cookie("turnout-form", cookie)
        token = dashboard.signer.token(EMAILS["deployer"])
        answer = client.post(
            PAUSE, data={"csrf_token": field}, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 403

    def test_good_token_does_not_excuse_another_origin(self, dashboard: Dashboard) -> None:
        client = dashboard.app.test_client()
        client.set_cookie("turnout-form", "browser")
        token = dashboard.signer.token(EMAILS["deployer"])
        answer = client.post(
            PAUSE,
            data={"csrf_token": form_token("browser", EMAILS["deployer"])},
            headers={"Authorization": f"Bearer {token}", "Sec-Fetch-Site": "cross-site"},
        )
        assert answer.status_code == 403

    def test_token_of_one_instance_is_taken_by_another_without_a_configured_secret(
        self, dashboard: Dashboard
    ) -> None:
        settings = replace(SETTINGS, secret="")
        one, other = dashboard.another(settings), dashboard.another(settings)
        bearer = {"Authorization": f"Bearer {dashboard.signer.token(EMAILS['admin'])}"}
        page = one.test_client().get("/deployments/movies-42-auto/cancel", headers=bearer)
        cookie, field = _cookie(page), _field(page)
        client = other.test_client()
        client.set_cookie("turnout-form", cookie)
        answer = client.post(PAUSE, data={"csrf_token": field}, headers=bearer)
        assert answer.status_code == 303

    @pytest.mark.parametrize("mode", [IdentityMode.IAM, IdentityMode.IAP])
    def test_cookie_is_strict_and_out_of_reach_of_scripts(
        self, dashboard: Dashboard, mode: IdentityMode
    ) -> None:
        app = dashboard.another(replace(SETTINGS, mode=mode))
        header = "Authorization" if mode is IdentityMode.IAM else "X-Goog-IAP-JWT-Assertion"
        claims = {} if mode is IdentityMode.IAM else {"iss": "https://cloud.google.com/iap"}
        token = dashboard.signer.token(EMAILS["admin"], **claims)
        value = f"Bearer {token}" if mode is IdentityMode.IAM else token
        page = app.test_client().get(
            "/deployments/movies-42-auto/cancel",
            headers={header: value},
            environ_overrides={"SCRIPT_NAME": "/dashboard"},
        )
        [cookie] = [one for one in page.headers.getlist("Set-Cookie") if "turnout-form" in one]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Path=/dashboard" in cookie
        assert ("Secure" in cookie) is (mode is IdentityMode.IAP)


class TestHeaders:
    @pytest.mark.parametrize(
        "path", ["/", f"/models/{MODEL}", "/nothing", "/api/models/", "/api/nothing", "/api/docs/"]
    )
    def test_every_answer_carries_the_policy(self, dashboard: Dashboard, path: str) -> None:
        headers = dashboard.ask("GET", path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "style-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "camera=()" in headers["Permissions-Policy"]
        assert headers["Cache-Control"].startswith(("no-store", "private", "no-cache"))

    def test_page_of_the_api_has_no_inline_script_and_only_files_of_ours(
        self, dashboard: Dashboard
    ) -> None:
        page = dashboard.ask("GET", "/api/docs/").get_data(as_text=True)
        assert re.findall(r"<script(?![^>]* src=)", page) == []
        assert re.findall(r"<style|style=|onload=|https?://", page) == []
        files = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(files) == 5
        for name in files:
            path = "/api/openapi.json" if name == "../openapi.json" else f"/api/docs/{name}"
            assert dashboard.ask("GET", path).status_code == 200

    def test_file_outside_swaggers_folder_is_not_served(self, dashboard: Dashboard) -> None:
        for name in ("../plugins.py", "%2e%2e/plugins.py", "js/../../../plugins.py"):
            assert dashboard.ask("GET", f"/api/docs/assets/{name}").status_code == 404


def test_app_under_a_prefix_describes_and_links_itself_under_it(dashboard: Dashboard) -> None:
    under: dict[str, Any] = {"environ_overrides": {"SCRIPT_NAME": "/dashboard"}}
    document = dashboard.ask("GET", "/api/openapi.json", **under).json
    assert document["servers"] == [{"url": "/dashboard"}]
    made = dashboard.ask(
        "POST", f"/api/models/{MODEL}/deployments/", json={"training_run": 41}, **under
    )
    assert made.headers["Location"].startswith("/dashboard/api/deployments/movies-41-")


def _cookie(page: flask.Response) -> str:
    found = re.search(r"turnout-form=([^;]+)", page.headers["Set-Cookie"])
    assert found
    return found[1]


def _field(page: Any) -> str:
    found = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page.get_data(as_text=True))
    assert found
    return str(found[1])
