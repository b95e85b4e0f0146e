"""No credential in any log line: everything that a local cloud wrote in a run is read for one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

KEY_LENGTH = 43
# What credentials look like, whoever made them. A token's e-mail and its type are none.
_LOOKS = {
    "a JSON Web Token": re.compile(r"eyJ[\w-]{6,}\.[\w-]{6,}"),
    "a bearer token": re.compile(r"bearer[\s\"':=]+[\w.~+/-]{16,}", re.IGNORECASE),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "an access token of Google's": re.compile(r"\bya29\.[\w-]{10,}"),
    "an API key of Google's": re.compile(r"\bAIza[\w-]{35}"),
    "a password in a URL": re.compile(r"://[^/\s:@\"']+:[^/\s@\"']+@"),
}
_RUNS = re.compile(rf"[\w-]{{{KEY_LENGTH},}}", re.ASCII)


def logs_below(folder: Path) -> list[Path]:
    """Return every log of a cloud: its own output, its functions', containers' and jobs'."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".log", ".out"))


def secrets_of(data: Path) -> dict[str, str]:
    """Return the secrets that a local cloud gives to its parts, by the name of their file."""
    return {path.name: path.read_text() for path in data.rglob("*.secret")}


def check(folder: Path, known: Mapping[str, str], key_hashes: Collection[str]) -> None:
    """Fail where a log line below `folder` holds a credential; the line itself is not shown.

    `known` names texts that must not appear; `key_hashes` are the SHA-256 (hex) of API keys.
    """
    __tracebackhide__ = True  # it would show what is known
    found = [
        f"{path.relative_to(folder)}:{number}: {what}"
        for path in logs_below(folder)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        for what in credentials_in(line, known, key_hashes)
    ]
    assert not found, "credentials are in the logs:\n" + "\n".join(found[:50])


def credentials_in(
    line: str, known: Mapping[str, str], key_hashes: Collection[str]
) -> Iterator[str]:
    """Give what the line holds that nobody who reads logs may have."""
    yield from (what for what, look in _LOOKS.items() if look.search(line))
    yield from (name for name, text in known.items() if text in line)
    for run in _RUNS.findall(line):
        windows = (run[at : at + KEY_LENGTH] for at in range(len(run) - KEY_LENGTH + 1))
        if any(hashlib.sha256(one.encode()).hexdigest() in key_hashes for one in windows):
            yield "an API key of the prediction API"
