"""The way to the dashboard, and the documents of both APIs."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
import webbrowser
from enum import StrEnum
from typing import Any

from shared.config import Settings
from shared.errors import Unavailable
from turnout.output import console

SERVICE = "dashboard"
LISTENS_WITHIN_S = 60.0


class Api(StrEnum):
    """The two APIs."""

    DASHBOARD = "dashboard"
    SERVING = "serving"


def document_of(which: Api) -> dict[str, Any]:
    """Return the OpenAPI document; nothing connects anywhere."""
    if which is Api.SERVING:
        from serving.openapi import openapi_document

        return openapi_document("Recommendations of a model")
    from functions.dashboard.api import described_app, document

    return document(described_app("functions.dashboard"))


def show_dashboard(settings: Settings, port: int, browser: bool) -> int:
    """Say where it is and open a browser there; in production, stay as its proxy.

    Returns the exit code; Unavailable without gcloud, or where its proxy does not start.
    """
    if settings.grpc_emulator:
        _point(f"{settings.functions_url}/{SERVICE}/", browser)
        return 0
    where = ["--project", settings.project, "--region", settings.region, "--port", str(port)]
    try:
        proxy = subprocess.Popen(["gcloud", "run", "services", "proxy", SERVICE, *where])
    except FileNotFoundError:
        raise Unavailable(
            "gcloud is not installed; its authenticated proxy is the way to the private "
            "dashboard (https://cloud.google.com/sdk/docs/install)"
        ) from None
    try:
        _wait_until_listening(proxy, port)
        _point(f"http://127.0.0.1:{port}/", browser)
        return proxy.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        proxy.terminate()
        proxy.wait()


def _point(url: str, browser: bool) -> None:
    console.print(url, highlight=False)
    if browser:
        webbrowser.open(url)


def _wait_until_listening(proxy: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + LISTENS_WITHIN_S
    while time.monotonic() < deadline:
        if proxy.poll() is not None:
            raise Unavailable(f"gcloud's proxy ended with {proxy.returncode}; it says why above")
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=1),
        ):
            return
        time.sleep(0.2)
    raise Unavailable(f"gcloud's proxy did not listen on port {port} in {LISTENS_WITHIN_S:g} s")
