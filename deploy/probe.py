"""Starts every entry point of an unpacked bundle and asks each something it must refuse.

    python -I -S deploy/probe.py BUNDLE SITE_PACKAGES

-I and -S keep the checkout off the path: what is imported comes out of the bundle or out of
SITE_PACKAGES. Every Google API is one that knows no method, so whatever gets that far fails at
once. Prints a line for each entry point; ends with 1 where one did not answer as it should.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

EVENT = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
    "ce-source": "//pubsub.googleapis.com/projects/p/topics/t",
}
#: What the log says about a message that is not JSON.
EVENTS = {
    "on_training_completed": "message refused",
    "on_deployment_event": "event not understood",
}


def main(bundle: Path, packages: Path) -> int:
    """Return 0 when all answered as they should, 1 otherwise."""
    sys.path[:0] = [str(bundle)]
    sys.path.append(str(packages))
    _cut_off()
    source = str(bundle / "main.py")
    names: list[str] = importlib.import_module("main").__all__
    faults = {name: fault for name in names if (fault := _ask(name, source))}
    if strays := _strays(bundle):
        faults["imports"] = f"not out of the bundle: {', '.join(strays)}"
    for name in names:
        print(f"{name}: {faults.get(name, 'answers')}")
    for name in faults.keys() - set(names):
        print(f"{name}: {faults[name]}")
    return 1 if faults else 0


def _cut_off() -> None:
    """Lead every client to a server without methods."""
    import grpc

    server = grpc.server(ThreadPoolExecutor(2))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    emulators = ("FIRESTORE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST", "TURNOUT_GRPC_EMULATOR_HOST")
    os.environ.update(dict.fromkeys(emulators, address))
    os.environ.update(
        STORAGE_EMULATOR_HOST=f"http://{address}",
        TURNOUT_PROJECT="probe",
        TURNOUT_REGION="europe-central2",
        TURNOUT_SECRET="s" * 32,
    )
    # Keeps the server: without a reference it would be collected, and stop.
    globals()["_server"] = server


def _ask(name: str, source: str) -> str:
    """Return what is wrong with an entry point's answer, or nothing."""
    import functions_framework

    kind = "cloudevent" if name in EVENTS else "http"
    logged = io.StringIO()
    try:
        app: Any = functions_framework.create_app(name, source, kind)  # type: ignore[no-untyped-call]
        client = app.test_client()
        with contextlib.redirect_stdout(logged):
            if name == "dashboard":
                return _ask_dashboard(client)
            return _ask_event(client, EVENTS[name], logged) if name in EVENTS else _ask_step(client)
    except Exception as error:  # reported beside the others
        return f"{type(error).__name__}: {error}"


def _ask_step(client: Any) -> str:
    answer = client.post("/", data="not JSON")
    problem = answer.get_json(force=True, silent=True) or {}
    expected = (400, "invalid_request", "the body must be JSON")
    found = (answer.status_code, problem.get("code"), problem.get("detail"))
    return "" if found == expected else f"answered {found} to a body that is not JSON"


def _ask_event(client: Any, expected: str, logged: io.StringIO) -> str:
    """Send a message that is not JSON; it is refused before the cloud is missed."""
    with contextlib.redirect_stderr(io.StringIO()):
        client.post("/", json={"message": {"data": "bm8=", "messageId": "1"}}, headers=EVENT)
    said = [json.loads(line)["message"] for line in logged.getvalue().splitlines()]
    return "" if expected in said else f"said {said} of a message that is not JSON"


def _ask_dashboard(client: Any) -> str:
    """Ask for a page without saying who asks, and for all that the refusal's page loads."""
    page = client.get("/")
    if page.status_code != 401 or "</html>" not in page.text:
        return f"answered {page.status_code} to somebody unknown: {page.text[:200]}"
    loaded = re.findall(r'(?:href|src)="([^"]*assets/[^"]+)"', page.text)
    missing = [path for path in loaded if client.get(path).status_code != 200]
    return f"page without its files: {missing or 'none named'}" if missing or not loaded else ""


def _strays(bundle: Path) -> list[str]:
    """Return the project's modules that were imported from elsewhere."""
    own = ("functions", "shared", "serving", "localcloud", "turnout", "tests", "deploy")
    return sorted(
        name
        for name, module in sys.modules.items()
        if name.split(".")[0] in own
        and not str(getattr(module, "__file__", None)).startswith(f"{bundle}{os.sep}")
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2])))
