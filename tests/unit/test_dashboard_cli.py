"""`turnout openapi` and `turnout open`, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GCLOUD = """#!{python}
import http.server, json, pathlib, sys
pathlib.Path({asked!r}).write_text(json.dumps(sys.argv[1:]))
port = int(sys.argv[sys.argv.index("--port") + 1])
server = http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler)
server.timeout = 10
server.handle_request()
"""


def turnout(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with nothing of this environment's cloud."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TURNOUT_", "GOOGLE_")) and not name.endswith("_EMULATOR_HOST")
    }
    return subprocess.run(
        [sys.executable, "-m", "turnout", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("which", "path"),
    [("dashboard", "/api/models/{model_id}/deployments/"), ("serving", "/recommend-batch")],
)
def test_openapi_prints_the_document_without_any_cloud(which: str, path: str) -> None:
    printed = turnout("openapi", which)
    assert printed.returncode == 0, printed.stderr
    document = json.loads(printed.stdout)
    assert document["openapi"].startswith("3.1.")
    assert path in document["paths"]


def test_open_says_where_the_local_dashboard_is() -> None:
    said = turnout(
        "open",
        "--no-browser",
        TURNOUT_PROJECT="turnout-local",
        TURNOUT_GRPC_EMULATOR_HOST="127.0.0.1:9",
        TURNOUT_FUNCTIONS_URL="http://127.0.0.1:4711",
    )
    assert (said.returncode, said.stdout.strip()) == (0, "http://127.0.0.1:4711/dashboard/")


def test_open_starts_gclouds_proxy_to_a_project_and_ends_with_it(tmp_path: Path) -> None:
    asked, gcloud = tmp_path / "asked.json", tmp_path / "gcloud"
    gcloud.write_text(GCLOUD.format(python=sys.executable, asked=str(asked)))
    gcloud.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    said = turnout(
        "--project", "shop", "--region", "europe-west1", "open", "--port", "18642", "--no-browser",
        PATH=path,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "http://127.0.0.1:18642/" in said.stdout
    assert json.loads(asked.read_text()) == [
        "run", "services", "proxy", "dashboard",
        "--project", "shop", "--region", "europe-west1", "--port", "18642",
    ]  # fmt: skip


def test_open_without_gcloud_says_what_to_install(tmp_path: Path) -> None:
    said = turnout("--project", "shop", "open", "--no-browser", PATH=str(tmp_path))
    assert said.returncode == 3
    assert "gcloud is not installed" in said.stderr.replace("\n", " ")
