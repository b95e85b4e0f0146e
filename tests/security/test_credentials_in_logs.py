"""What reads the logs of an end-to-end run does find a credential where there is one."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from pathlib import Path

import pytest

from tests.e2e import credentials

KEY = secrets.token_urlsafe(32)
HASHES = {hashlib.sha256(KEY.encode()).hexdigest()}
SECRET = secrets.token_hex(32)
HEAD, CLAIMS = (
    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
    for part in ({"alg": "RS256", "typ": "JWT"}, {"email": "ops@example.com"})
)
LEAKS = {
    "the key alone": KEY,
    "the key in a header": json.dumps({"headers": {"Authorization": f"Bearer {KEY}"}}),
    "the key in a URL": f"GET /recommend?key={KEY}&top_k=3",
    "the key in a sentence": f"key {KEY}.",
    "the key glued to others": f"a_{KEY}-b",
    "another's bearer token": "authorization: bearer abcdefghijklmnopqrstuvwxyz",
    "an ID token": f"{HEAD}.{CLAIMS}.c2lnbmF0dXJl",
    "an ID token without its signature": f"{HEAD}.{CLAIMS}.SIGNATURE_REMOVED_BY_GOOGLE",
    "a secret": f"TURNOUT_SECRET={SECRET}",
    "a private key": "-----BEGIN RSA PRIVATE KEY-----\\nMIIE",
    "an access token": "ya29.a0AfH6SMBx_xxxxxxxxx",
    "a password in a URL": "https://ops:hunter2@hooks.example/T0",
}
HARMLESS = (
    json.dumps({"message": "key created", "key_prefix": KEY[:8], "by": "ops@example.com"}),
    json.dumps({"digest": "sha256:" + "0" * 64, "document": f"api_keys/{next(iter(HASHES))[:8]}"}),
    json.dumps({"detail": "send the header Authorization: Bearer YOUR_API_KEY"}),
    json.dumps({"logging.googleapis.com/trace": f"projects/shop/traces/{'a' * 32}"}),
    "https://model-serving-movies.test:8080/recommend answered ops@example.com",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "run" / "logs").mkdir(parents=True)
    (tmp_path / "data" / "functions.log").write_text("\n".join(HARMLESS))
    return tmp_path


def check(folder: Path) -> None:
    credentials.check(folder, {"dashboard.secret": SECRET}, HASHES)


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("log", ["cloud.out", "data/functions.log", "data/run/logs/v1.log"])
def test_credential_in_any_log_is_found_and_not_shown(folder: Path, leak: str, log: str) -> None:
    check(folder)
    with (folder / log).open("a") as lines:
        lines.write(f"\n{leak}\nand more\n")
    with pytest.raises(AssertionError, match="credentials are in the logs") as found:
        check(folder)
    assert log in str(found.value)
    assert leak not in str(found.value)


def test_secrets_are_those_that_the_cloud_keeps_for_its_parts(tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "dashboard.secret").write_text(SECRET)
    assert credentials.secrets_of(tmp_path) == {"dashboard.secret": SECRET}
