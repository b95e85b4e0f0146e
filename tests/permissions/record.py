"""What each part called, as a run of the local cloud counted it: kept in recorded.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from localcloud import calls
from localcloud.calls import NO_FUNCTION, PERSON, Call
from tests.permissions import beside
from tests.permissions.needs import needs

FILE = Path(__file__).parent / "recorded.json"
# Tests and their command line; `developer` is who the metadata server says that a person is.
PEOPLE = frozenset({PERSON, "developer"})
HOW = "grant what they need in terraform/iam.tf, then: python -m tests.permissions record FOLDER"


class NotAttributed(RuntimeError):
    """A call of the functions' process that no function was at work on."""


def recorded() -> set[Call]:
    """Return the calls of all parts that are known."""
    parts = json.loads(FILE.read_text())
    return {
        Call(part, method, detail)
        for part, methods in parts.items()
        for method, details in methods.items()
        for detail in details
    }


def made(data: Path) -> set[Call]:
    """Return the calls that parts made in a local cloud, from its data folder."""
    found = {_general(call) for call in calls.read(data) if call.caller not in PEOPLE}
    if lost := sorted(call for call in found if call.caller == NO_FUNCTION):
        raise NotAttributed(f"in {data}: {lost}")
    return found


def _general(call: Call) -> Call:
    """Return the call with the part as Terraform names it, and of any folder of training's."""
    bucket, slash, folder = call.detail.partition("/")
    if bucket.endswith("-training"):
        folder = ""
    return Call(call.caller.replace("-", "_"), call.method, f"{bucket}{slash}{folder}")


def made_below(folder: Path) -> set[Call]:
    """Return the calls of every local cloud whose data lie somewhere below a folder."""
    of_clouds = {
        file.parent for file in folder.rglob(calls.FILE) if file.parent.name != "functions"
    }
    return set().union(*(made(data) for data in of_clouds))


def write(found: Iterable[Call]) -> None:
    """Write recorded.json: part => method => what of."""
    parts: dict[str, dict[str, list[str]]] = {}
    for part, method, detail in sorted(found):
        parts.setdefault(part, {}).setdefault(method, []).append(detail)
    FILE.write_text(json.dumps(parts, indent=1) + "\n")


def check(data: Path) -> None:
    """AssertionError where a part's calls in this local cloud need more than is known.

    Known is what the recorded calls need, and what has a reason in `beside`: a call that is made
    under contention only (Firestore's Rollback), or a way out that is seldom taken, is no surprise.
    """
    known = {(call.caller, need) for call in recorded() for need in needs(call)}
    new = [
        call
        for call in sorted(made(data))
        for need in needs(call)
        if (call.caller, need) not in known and beside.reason(call.caller, need) is None
    ]
    assert not new, f"new calls in {data}: {new}; {HOW}"
