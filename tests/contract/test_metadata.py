"""The metadata server, asked by Google's unmodified auth library in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from localcloud.identity import Identity
from localcloud.metadata import Metadata, metadata_environment
from tests.contract.listener import listening

REGION = "europe-central2"
EMAIL = "functions@turnout-local.iam.gserviceaccount.com"
ROOT = f"{REGION}/computeMetadata/v1"
ACCOUNT = f"{ROOT}/instance/service-accounts/default"
GOOGLE = {"Metadata-Flavor": "Google"}


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(tmp_path)


@pytest.fixture
def address(identity: Identity) -> Iterator[str]:
    with listening(Metadata(identity, "turnout-local", EMAIL).app()) as address:
        yield address


def run_child(code: str, address: str) -> str:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("GOOGLE", "GCE"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | metadata_environment(address, REGION),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_child_process_fetches_an_id_token_that_is_verified(
    identity: Identity, address: str
) -> None:
    token = run_child(
        "from google.auth.transport.requests import Request\n"
        "from google.oauth2 import id_token\n"
        "print(id_token.fetch_id_token(Request(), 'https://functions/copy'))",
        address,
    )
    claims = identity.verify(token, audience="https://functions/copy")
    assert (claims["email"], claims["email_verified"]) == (EMAIL, True)
    with pytest.raises(ValueError, match="audience"):
        identity.verify(token, audience="https://functions/other")


def test_child_process_finds_its_default_credentials_and_project(address: str) -> None:
    found = run_child(
        "import google.auth, json\n"
        "from google.auth.transport.requests import Request\n"
        "credentials, project = google.auth.default()\n"
        "credentials.refresh(Request())\n"
        "print(json.dumps([project, credentials.service_account_email,"
        " credentials.universe_domain, bool(credentials.token)]))",
        address,
    )
    assert json.loads(found) == ["turnout-local", EMAIL, "googleapis.com", True]


@pytest.mark.parametrize("headers", [{}, {**GOOGLE, "X-Forwarded-For": "10.0.0.1"}])
def test_request_without_the_header_or_forwarded_is_refused(
    address: str, headers: dict[str, str]
) -> None:
    answer = requests.get(f"http://{address}/{ACCOUNT}/token", headers=headers, timeout=30)
    assert (answer.status_code, "access_token" in answer.text) == (403, False)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("project/project-id", "turnout-local"),
        ("universe/universe-domain", "googleapis.com"),
        ("instance/region", "projects/123456789012/regions/europe-central2"),
        ("instance/zone", "projects/123456789012/zones/europe-central2-1"),
        ("instance/service-accounts/default/email", EMAIL),
        (f"instance/service-accounts/{EMAIL}/email", EMAIL),
    ],
)
def test_plain_values_are_answered_as_text(address: str, path: str, text: str) -> None:
    answer = requests.get(f"http://{address}/{ROOT}/{path}", headers=GOOGLE, timeout=30)
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["Metadata-Flavor"] == "Google"


def test_each_region_is_told_as_its_own(address: str) -> None:
    def region(of: str) -> requests.Response:
        url = f"http://{address}/{of}/computeMetadata/v1/instance/region"
        return requests.get(url, headers=GOOGLE, timeout=30)

    assert region("us-east1").text == "projects/123456789012/regions/us-east1"
    assert region(REGION).text == f"projects/123456789012/regions/{REGION}"
    assert region("us").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{ACCOUNT}/identity", 400),
        (f"{ACCOUNT}/identity?audience=a&format=odd", 400),
        (f"{ACCOUNT}/identity?audience=a&licenses=TRUE", 501),
        (f"{ROOT}/instance/service-accounts/other@example.com/email", 404),
        (f"{ROOT}/instance/attributes/startup-script", 404),
    ],
)
def test_what_is_not_there_or_not_supported_is_refused(
    address: str, path: str, status: int
) -> None:
    assert (
        requests.get(f"http://{address}/{path}", headers=GOOGLE, timeout=30).status_code == status
    )
