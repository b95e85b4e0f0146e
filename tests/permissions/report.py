"""docs/permissions.md: each part's permissions, what they are needed on, and by which calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from localcloud.calls import Call
from tests.permissions import beside
from tests.permissions import needs as methods
from tests.permissions.beside import Reason
from tests.permissions.granted import granted
from tests.permissions.needs import Need, needs
from tests.permissions.record import recorded
from tests.terraform.checking import ROOT

FILE = ROOT / "docs" / "permissions.md"
INVOKE = "run.routes.invoke"
_HEAD = """# Permissions

Generated: `python -m tests.permissions document`. What is needed is derived from the calls that
the end-to-end and browser tests really make: the local cloud counts each call by the part that
makes it (`turnout calls` shows them; [decision 20](decisions/0020-who-calls.md) says how it tells
them apart), and `tests/permissions/needs.py` says which permission a call needs. What is granted is
`terraform/iam.tf`. `tests/permissions` fails where one lacks what the other has; a test run with a
call that needs more than those in `tests/permissions/recorded.json` fails, too. After a change:

    mkdir -p build
    pytest tests/e2e tests/browser --basetemp=build/run
    python -m tests.permissions record build/run
    python -m tests.permissions document

Left out, because no part calls for it: Google's own service agents (Pub/Sub's dead letters, pulling
images), who builds and deploys, and people ([deploying](deploying.md#say-who)). Who may call a
function has `roles/run.invoker` on it, here `run.routes.invoke`.
"""
_TAIL = """
## To be seen on a real project

- Whether Cloud Run asks for `iam.serviceAccounts.actAs`, and for reading the image, where only
  traffic and annotations change. The first is granted to everyone who moves traffic, the second
  only to who makes revisions. To see: take each away, and roll back.
- Whether what Google documents is enough by itself. To see: deploy and roll back once, then look
  for refusals in the parts' own lines (`gcloud logging read 'severity=(WARNING OR ERROR) AND
  ("PermissionDenied" OR "Forbidden")'`). Google's audit logs (`protoPayload.status.code=7`) have
  refused changes of services and grants only: refused reads and writes of documents and objects,
  and refused publishing, are *Data Access*, which is off until it is switched on under IAM, audit
  logs. What is never used shows in IAM's role recommendations after 90 days.
"""


def needed(calls: Iterable[Call]) -> dict[str, dict[Need, list[Call]]]:
    """Return what each part needs, and for which of its calls; UnknownCall."""
    found: dict[str, dict[Need, list[Call]]] = {}
    for call in sorted(calls):
        for need in needs(call):
            found.setdefault(call.caller, {}).setdefault(need, []).append(call)
    return found


def document() -> str:
    """Return the page."""
    return "".join([_HEAD, _sources(), *_parts(), _TAIL])


def _sources() -> str:
    said = (methods.__doc__ or "").partition("\n\n")[2].rstrip()
    return f"\n{said}\n"


def _parts() -> Iterator[str]:
    all_needed, all_granted = needed(recorded()), granted()
    for part in sorted(set(all_needed) | {part for part, has in all_granted.items() if has}):
        has, wants = all_granted.get(part, set()), all_needed.get(part, {})
        rows = [(need, ", ".join(_names(calls))) for need, calls in wants.items()]
        rows += [(need, _said(beside.reason(part, need))) for need in has - set(wants)]
        yield f"\n## {part}\n\n| Permission | On | For |\n| --- | --- | --- |\n"
        for need, reason in sorted(rows, key=lambda row: (row[0].on, row[0].permission)):
            yield f"| `{need.permission}` | {need.on} | {reason} |\n"


def _said(reason: Reason | None) -> str:
    if reason is None:
        return "no reason known"
    return f"{reason.why} (`{reason.test.rpartition('::')[2]}`)" if reason.test else reason.why


def _names(calls: Iterable[Call]) -> Iterator[str]:
    """Give each method once, without its package, and what of it in brackets."""
    for method, group in groupby(calls, key=lambda call: call.method):
        short = ".".join(method.replace("/", ".").split(".")[-2:])
        details = [call.detail for call in group if call.detail]
        kinds = f" ({'; '.join(details)})" if "Firestore" in method and details else ""
        yield f"`{short}`{kinds}"


def differences(
    wants: Mapping[str, Mapping[Need, object]], has: Mapping[str, set[Need]]
) -> tuple[dict[str, set[Need]], dict[str, set[Need]]]:
    """Return what is missing and what is spare, by part; who calls functions is apart."""
    missing: dict[str, set[Need]] = {}
    spare: dict[str, set[Need]] = {}
    for part in set(wants) | set(has):
        needs_of = {need for need in wants.get(part, {}) if need.permission != INVOKE}
        has_of = has.get(part, set())
        missing[part], spare[part] = needs_of - has_of, has_of - needs_of
    return (
        {part: needs for part, needs in missing.items() if needs},
        {part: needs for part, needs in spare.items() if needs},
    )
