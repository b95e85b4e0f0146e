"""Google's own clients are the only way from the product to the services, and none at import."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import ROOT, clean_environment

PACKAGES = ("functions", "serving", "shared")
# What could speak to a service (or to its data on this machine) without Google's clients.
OTHER_WAYS = {
    "aiohttp",
    "ftplib",
    "http.client",
    "httpx",
    "localcloud",
    "paramiko",
    "requests",
    "socket",
    "socketserver",
    "sqlite3",
    "subprocess",
    "urllib.request",
    "urllib3",
    "websockets",
    "xmlrpc",
}
# Who may all the same, what of it, and why.
ALLOWED = {
    # The prediction API is ours, not Google's.
    ("shared/gcp/predictions.py", "requests"): {"Session", "RequestException"},
    # A chat's webhook, and those that the model's owner wants to judge.
    ("shared/gcp/chat.py", "requests"): {"Session", "RequestException"},
    ("shared/gcp/webhooks.py", "requests"): {"Session", "RequestException"},
    # Public signing keys, at a URL of Google's that has no client of its own.
    ("functions/dashboard/tokens.py", "requests"): {"get", "RequestException"},
    # The storage client raises it.
    ("serving/bucket.py", "requests"): {"RequestException"},
    # The container's own port: is it free, and does it answer?
    ("serving/__main__.py", "socket"): {"create_server", "socket", "AF_UNIX", "SOCK_STREAM"},
    ("serving/worker.py", "socket"): {"create_connection"},
    # The container's own processes, and how they speak to each other.
    ("serving/__main__.py", "subprocess"): {"Popen", "PIPE"},
    ("serving/first_request.py", "subprocess"): {"run", "SubprocessError"},
    ("serving/engine.py", "socket"): {"socket", "socketpair"},
    ("serving/engine_client.py", "socket"): {"socket", "AF_UNIX", "SOCK_STREAM"},
}
# Where the endpoints are set.
EMULATORS = {"shared/config.py", "shared/wiring.py"}


def sources() -> list[str]:
    """Return every Python file of the product, relative to the project."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    )


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of every module and name that is imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            raise AssertionError(f"an import that cannot be read: {ast.unparse(node)}")


def used(tree: ast.Module, module: str) -> set[str]:
    """Return the names that a file takes from a module that it imported as a whole."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == module
    }


@pytest.mark.parametrize("source", sources())
def test_a_source_knows_no_other_way_to_the_services(source: str) -> None:
    tree = ast.parse((ROOT / source).read_text())
    names = set(imported(tree))
    for way in OTHER_WAYS:
        if not any(name == way or name.startswith(f"{way}.") for name in names):
            continue
        assert (source, way) in ALLOWED, f"{source} imports {way}"
        assert way in names, f"{source} imports names out of {way}"
        assert used(tree, way) <= ALLOWED[source, way]


@pytest.mark.parametrize("source", sources())
def test_a_source_asks_for_no_emulator(source: str) -> None:
    text = (ROOT / source).read_text()
    assert "localcloud" not in text
    assert "turnout-local" not in text
    if source not in EMULATORS:
        assert not re.search("emulator", text, re.IGNORECASE)


IMPORT_EVERYTHING = """
import importlib, json, sys, threading
import psutil

asked = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        asked.append(f"{event} {arguments[1:]}")
sys.addaudithook(hook)
for name in sys.argv[1:]:
    importlib.import_module(name)
me = psutil.Process()
print(json.dumps({
    "asked": asked,
    "connections": [str(one) for one in me.net_connections()],
    "children": [one.name() for one in me.children()],
}))
"""


def modules(package: str) -> list[str]:
    """Return every module of a package, but what would run when it is imported."""
    return [
        source.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for source in sources()
        if source.startswith(f"{package}/") and not source.endswith("/__main__.py")
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_connects_to_nothing(package: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        address = f"127.0.0.1:{trap.getsockname()[1]}"
        services = {
            "PUBSUB_EMULATOR_HOST": address,
            "FIRESTORE_EMULATOR_HOST": address,
            "STORAGE_EMULATOR_HOST": f"http://{address}",
            "TURNOUT_GRPC_EMULATOR_HOST": address,
            "GCE_METADATA_HOST": address,
            "GCE_METADATA_IP": address,
            "TURNOUT_PROJECT": "somewhere",
        }
        done = subprocess.run(
            [sys.executable, "-c", IMPORT_EVERYTHING, *modules(package)],
            cwd=ROOT,
            env={**clean_environment(), **services, "PYTHONPATH": os.fspath(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        with pytest.raises(BlockingIOError):
            trap.accept()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"asked": [], "connections": [], "children": []}


def test_the_sources_are_found() -> None:
    assert Path("functions/main.py").as_posix() in sources()
    assert len(sources()) > 40
