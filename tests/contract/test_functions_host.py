"""Function hosting: real functions in a real child process, called over HTTP."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from localcloud.functions import FunctionsHost, FunctionsNotStarted
from localcloud.identity import Identity
from localcloud.ports import Ports

CALLER = "workflow@turnout-local.iam.gserviceaccount.com"

MAIN = """
import json, os, pathlib, threading, time

import flask
import functions_framework

import helper

HERE = pathlib.Path(os.environ["TEST_FOLDER"])


@functions_framework.cloud_event
def on_message(event):
    (HERE / "event.json").write_text(json.dumps({**event.get_attributes(), "data": event.data}))
    print("event received", event["id"])


@functions_framework.http
def echo(request):
    return {
        "path": request.path, "root": request.root_path, "url": request.url,
        "query": request.args.to_dict(), "method": request.method,
        "body": request.get_json(silent=True),
        "authorization": request.headers.get("Authorization"), "helper": helper.ANSWER,
        "functions_url": os.environ["TURNOUT_FUNCTIONS_URL"], "pid": os.getpid(),
        "parent": os.getppid(),
    }


@functions_framework.http
def pages(request):
    return "public page", 200


@functions_framework.http
def slow(request):
    (HERE / f"begun-{threading.get_ident()}").touch()
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return "finished"


@functions_framework.http
def fail(request):
    raise RuntimeError("cannot do this")


@functions_framework.http
def crash(request):
    os._exit(9)
"""
TARGETS = {
    "on_message": "cloudevent",
    "echo": "http",
    "pages": "http",
    "slow": "http",
    "fail": "http",
    "crash": "http",
}


def eventually(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("functions")
    (folder / "source").mkdir()
    (folder / "source" / "main.py").write_text(MAIN)
    (folder / "source" / "helper.py").write_text("ANSWER = 42\n")
    return folder


@pytest.fixture(scope="module")
def identity(folder: Path) -> Identity:
    return Identity(folder / "identity")


def make_host(folder: Path, identity: Identity, port_folder: str = "ports") -> FunctionsHost:
    return FunctionsHost(
        folder / "host",
        folder / "source",
        TARGETS,
        identity,
        Ports(folder / port_folder),
        {"TEST_FOLDER": str(folder)},
        public={"pages"},
    )


@pytest.fixture(scope="module")
def host(folder: Path, identity: Identity) -> Iterator[FunctionsHost]:
    host = make_host(folder, identity)
    host.start()
    yield host
    host.stop()


def call(
    host: FunctionsHost, identity: Identity, function: str, path: str = "", **arguments: object
) -> requests.Response:
    token = identity.mint(host.url(function), CALLER)
    headers = {"Authorization": f"Bearer {token}", **arguments.pop("headers", {})}
    return requests.post(
        host.url(function) + path, headers=headers, timeout=60, **{"json": {}, **arguments}
    )


def test_http_function_sees_its_request_as_if_alone(
    host: FunctionsHost, identity: Identity
) -> None:
    answer = call(host, identity, "echo", "/deep/path?a=1", json={"b": 2}).json()
    assert (answer["path"], answer["root"]) == ("/deep/path", "/echo")
    assert (answer["query"], answer["body"], answer["method"]) == ({"a": "1"}, {"b": 2}, "POST")
    assert answer["url"] == f"{host.base_url}/echo/deep/path?a=1"
    assert (answer["helper"], answer["functions_url"]) == (42, host.base_url)


def test_function_reads_the_callers_claims_but_cannot_pass_the_token_on(
    host: FunctionsHost, identity: Identity
) -> None:
    token = call(host, identity, "echo").json()["authorization"].removeprefix("Bearer ")
    _, claims, signature = token.split(".")
    padded = claims + "=" * (-len(claims) % 4)
    assert json.loads(base64.urlsafe_b64decode(padded))["email"] == CALLER
    assert signature == "SIGNATURE_REMOVED_BY_GOOGLE"
    with pytest.raises(ValueError, match="signature"):
        identity.verify(token)


def test_caller_without_a_token_is_forbidden(host: FunctionsHost) -> None:
    answer = requests.post(host.url("echo"), timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert host.url("echo") in answer.json()["detail"]


@pytest.mark.parametrize("audience", ["", "/pages", "/echo/", "/echo/deep"])
def test_token_for_another_audience_is_unauthorized(
    host: FunctionsHost, identity: Identity, audience: str
) -> None:
    token = identity.mint(host.base_url + audience, CALLER)
    headers = {"Authorization": f"Bearer {token}"}
    assert requests.post(host.url("echo"), headers=headers, timeout=60).status_code == 401


@pytest.mark.parametrize("kind", ["forged", "garbled", "basic"])
def test_token_that_is_not_ours_is_unauthorized(
    host: FunctionsHost, tmp_path: Path, kind: str
) -> None:
    forged = Identity(tmp_path).mint(host.url("echo"), CALLER)
    headers = {"forged": f"Bearer {forged}", "garbled": "Bearer x.y", "basic": "Basic eDp5"}
    answer = requests.post(host.url("echo"), headers={"Authorization": headers[kind]}, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_public_function_needs_no_token(host: FunctionsHost) -> None:
    assert requests.get(host.url("pages"), timeout=60).text == "public page"


def test_unknown_function_is_not_found(host: FunctionsHost) -> None:
    answer = requests.get(host.url("nothing"), timeout=60)
    assert (answer.status_code, "'nothing'" in answer.json()["detail"]) == (404, True)


def test_binary_cloud_event_reaches_the_function(
    host: FunctionsHost, identity: Identity, folder: Path
) -> None:
    data = {"message": {"data": "eyJhIjogMX0=", "messageId": "7", "orderingKey": "m"}}
    headers = {
        "ce-id": "7",
        "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
        "ce-source": "//pubsub.googleapis.com/projects/p/topics/training-completed",
        "ce-specversion": "1.0",
    }
    answer = call(host, identity, "on_message", json=data, headers=headers)
    assert (answer.status_code, answer.text) == (200, "OK")
    event = json.loads((folder / "event.json").read_text())
    assert (event["id"], event["type"], event["data"]) == ("7", headers["ce-type"], data)


def test_pubsub_push_body_reaches_the_function_as_a_cloud_event(
    host: FunctionsHost, identity: Identity, folder: Path
) -> None:
    message = {"data": base64.b64encode(b'{"a": 1}').decode(), "messageId": "8"}
    body = {"message": message, "subscription": "projects/p/subscriptions/s"}
    assert call(host, identity, "on_message", json=body).status_code == 200
    event = json.loads((folder / "event.json").read_text())
    assert (event["id"], event["data"]["message"]["data"]) == ("8", message["data"])
    assert event["type"] == "google.cloud.pubsub.topic.v1.messagePublished"


def test_function_that_raises_answers_500_and_its_trace_is_logged(
    host: FunctionsHost, identity: Identity
) -> None:
    assert call(host, identity, "fail").status_code == 500
    eventually(lambda: "RuntimeError: cannot do this" in host.log.read_text())


def test_sixteen_slow_calls_run_at_once_and_finish_although_the_host_stops(
    folder: Path, identity: Identity
) -> None:
    host = make_host(folder, identity, "ports-of-stopped")
    host.start()
    answers: list[requests.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(call(host, identity, "slow")))
        for _ in range(15)
    ]
    for thread in threads:
        thread.start()
    # Each in a thread of its own; what has not begun yet may be refused by a host that stops.
    eventually(lambda: len(list(folder.glob("begun-*"))) == 15)
    assert call(host, identity, "echo").status_code == 200
    # Nothing finishes before the timer, and the host is told to stop at once.
    threading.Timer(1, (folder / "go").touch).start()
    host.stop()
    for thread in threads:
        thread.join(60)
    assert [answer.text for answer in answers] == ["finished"] * 15
    with pytest.raises(requests.ConnectionError):
        requests.get(host.base_url, timeout=5)


@pytest.mark.parametrize("who", ["worker", "whole host"])
def test_host_that_died_is_back_at_the_same_url(
    host: FunctionsHost, identity: Identity, who: str
) -> None:
    before = call(host, identity, "echo").json()
    if who == "worker":
        with pytest.raises(requests.ConnectionError):
            call(host, identity, "crash")
    else:
        os.kill(before["parent"], signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(before["pid"]))
    # The socket is held open meanwhile, so the call waits instead of being refused.
    after = call(host, identity, "echo").json()
    assert after["pid"] != before["pid"]
    if who == "whole host":
        assert host.log.read_text().count("functions host starting") > 1


@pytest.mark.parametrize(
    ("main", "reason"),
    [
        ("import does_not_exist\n", "does_not_exist"),
        ("import functions_framework\n", "echo"),
        (
            "import functions_framework\n@functions_framework.cloud_event\ndef echo(event): ...\n",
            "decorates it otherwise",
        ),
    ],
    ids=["import error", "no such function", "other kind"],
)
def test_source_that_does_not_load_is_reported_with_its_log(
    tmp_path: Path, identity: Identity, main: str, reason: str
) -> None:
    (tmp_path / "main.py").write_text(main)
    host = FunctionsHost(tmp_path, tmp_path, {"echo": "http"}, identity, Ports(tmp_path), {})
    with pytest.raises(FunctionsNotStarted, match=reason):
        host.start()


_PARENT = """
import sys, time
from pathlib import Path
from tests.contract.test_functions_host import make_host
from localcloud.identity import Identity
folder = Path(sys.argv[1])
host = make_host(folder, Identity(folder / "identity"), "ports-of-killed")
host.start()
print(host.base_url, flush=True)
time.sleep(600)
"""


def test_no_orphan_is_left_when_the_parent_is_killed(folder: Path, identity: Identity) -> None:
    del identity  # made by the fixture, read from disk by the parent
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    try:
        base_url = parent.stdout.readline().strip()
        assert requests.get(f"{base_url}/pages", timeout=60).status_code == 200
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) == 2
    finally:
        parent.kill()
        parent.wait(30)
        parent.stdout.close()
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert (len(gone), alive) == (2, [])
    with pytest.raises(requests.ConnectionError):
        requests.get(base_url, timeout=5)
