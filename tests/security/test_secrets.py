"""No secret in the repository, in a default, or in what is printed of settings."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from functions.dashboard.settings import DashboardSettings
from serving.settings import read_settings
from shared.config import ChatSettings, Settings
from shared.gcp.firestore import new_key

ROOT = Path(__file__).parents[2]
LOOKS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}"
    r"|AIza[\w-]{35}\b|ya29\.[\w-]{30,}|gh[pousr]_[A-Za-z0-9]{36}|xox[abprs]-\w{10,}"
    r"|hooks\.slack\.com/services/T\w{8,}/B\w{8,}/\w{20,}"
    r"|AKIA[0-9A-Z]{16}\b|\"private_key\": \"-----BEGIN"
    r"|eyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}"
)
# Pictures and archives are no place for a secret that anybody could read.
NO_TEXT = {".png", ".gz", ".ico"}


def test_repository_holds_no_secret() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    texts = [file for file in files if file.is_file() and file.suffix not in NO_TEXT]
    assert len(texts) > 300
    held = [
        f"{file.relative_to(ROOT)}: {found[0][:12]}…"
        for file in texts
        if (found := LOOKS.search(file.read_text(errors="replace")))
    ]
    assert held == []


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN RSA PRIVATE KEY-----\n" + "M" * 64,
        "AIza" + "x" * 35,
        "ghp_" + "x" * 36,
        "https://hooks.slack.com/services/" + "T00000000/" + "B00000000/" + "x" * 24,
        "eyJ" + "x" * 30 + "." + "x" * 30 + "." + "x" * 30,
    ],
)
def test_secret_would_be_seen(text: str) -> None:
    assert LOOKS.search(f"a line\nand {text} and more")


def test_no_variable_of_terraform_has_a_secret_as_its_default() -> None:
    for file in (ROOT / "terraform").glob("*.tf"):
        for name, body in re.findall(r'variable "(\w+)" \{(.*?)\n\}', file.read_text(), re.DOTALL):
            if re.search(r"secret|password|token|webhook", name):
                default = re.search(r"default\s*=\s*(.*)", body)
                # A secret's version is a number, and no secret.
                harmless = default is None or re.fullmatch(
                    r'"\d*"|\d+|null|false|true', default[1].strip()
                )
                assert harmless, name


def test_dashboard_does_not_start_without_a_secret_of_its_own() -> None:
    with pytest.raises(ValueError, match="TURNOUT_SECRET"):
        DashboardSettings.from_environment({})


def test_settings_that_are_printed_show_no_secret() -> None:
    secret = "s" * 40
    dashboard = DashboardSettings.from_environment({"TURNOUT_SECRET": secret})
    settings = Settings.from_environment({"TURNOUT_PROJECT": "shop"})
    chat = ChatSettings.from_environment(
        settings, {"TURNOUT_CHAT_WEBHOOK": f"https://hooks.example/{secret}"}
    )
    shown = f"{dashboard!r} {dashboard} {chat!r} {chat} {settings!r} {read_settings({})!r}"
    assert secret not in shown


def test_what_is_stored_of_a_key_does_not_give_it_away() -> None:
    plain = "k" * 43
    key_id, document = new_key("movies", "a shop", "ops@example.com", None, plain)
    stored = f"{key_id} {document}"
    assert plain not in stored
    assert document["key_prefix"] == plain[:8]
    assert plain[:9] not in stored
