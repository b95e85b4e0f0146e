"""The dashboard as the local cloud hosts it: one function of the bundle, under its own path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from localcloud.functions import FunctionsHost
from localcloud.identity import Identity
from localcloud.ports import Ports
from tests.contract.firestore_backends import local_firestore
from tests.dashboards import INDEXES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the function `dashboard`, in a host with the local identity."""
    folder = tmp_path_factory.mktemp("host")
    with local_firestore(folder / "firestore", INDEXES) as address:
        environment = {
            "TURNOUT_PROJECT": "turnout-test",
            "GOOGLE_CLOUD_PROJECT": "turnout-test",
            "FIRESTORE_EMULATOR_HOST": address,
            "PUBSUB_EMULATOR_HOST": address,
            "TURNOUT_GRPC_EMULATOR_HOST": address,
            "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
            "TURNOUT_IDENTITY": "local",
            "TURNOUT_SECRET": "0123456789abcdef" * 4,
            "PYTHONPATH": str(ROOT),
        }
        host = FunctionsHost(
            folder / "functions",
            ROOT / "functions",
            {"dashboard": "http", "reconcile": "http"},
            Identity(folder),
            Ports(folder),
            environment,
            public=["dashboard"],
        )
        host.start()
        try:
            yield host.url("dashboard")
        finally:
            host.stop()


def test_api_answers_under_the_functions_path(url: str) -> None:
    answer = requests.get(f"{url}/api/models/", timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"items": []})
    document = requests.get(f"{url}/api/openapi.json", timeout=30).json()
    assert document["servers"] == [{"url": "/dashboard"}]


def test_pages_answer_with_links_under_the_functions_path(url: str) -> None:
    for path in ("", "/"):
        page = requests.get(f"{url}{path}", timeout=30)
        assert page.status_code == 200
        assert 'href="/dashboard/' in page.text
    missing = requests.get(f"{url}/models/nothing", timeout=30)
    assert (missing.status_code, missing.headers["Content-Type"]) == (
        404,
        "text/html; charset=utf-8",
    )


def test_caller_under_another_name_is_refused(url: str) -> None:
    headers = {"Host": "rebound.example.com"}
    assert requests.get(f"{url}/api/models/", headers=headers, timeout=30).status_code == 401


def test_page_of_another_site_cannot_act(url: str) -> None:
    answer = requests.post(
        f"{url}/api/models/movies/api-keys/",
        json={"name": "stolen"},
        headers={"Sec-Fetch-Site": "cross-site"},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "forged_request")


def test_other_functions_stay_private(url: str) -> None:
    other = url.replace("/dashboard", "/reconcile")
    assert requests.post(other, json={}, timeout=30).status_code == 403


def test_assets_under_the_functions_path_come_compressed_and_are_kept(url: str) -> None:
    page = requests.get(f"{url}/", timeout=30).text
    addresses = [part for part in page.split('"') if part.startswith("/dashboard/assets/")]
    assert addresses
    for address in addresses:
        answer = requests.get(url.removesuffix("/dashboard") + address.split("&")[0], timeout=30)
        assert answer.status_code == 200
        assert answer.headers["Content-Encoding"] == "gzip"
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
