"""`turnout` against services of which some do not answer, or do not do it at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import flask
import grpc
import pytest
from google.cloud import run_v2

from shared.domain.deployment import Status
from tests.dashboards import MODEL, Dashboard, firestore_here, listening
from tests.unit.test_dashboard_cli import turnout

FORBIDDEN = "<html><title>403 Forbidden</title><h1>Error: Forbidden</h1></html>"
JSON, TEXT, HTML = "application/problem+json", "text/plain", "text/html; charset=UTF-8"
Answer = tuple[int, str, str]
"""Status, content type, body."""


class Run(grpc.GenericRpcHandler):
    """Cloud Run, which knows the service of MODEL; of `away` it says that it may not be read."""

    def __init__(self) -> None:
        self.url = ""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Answer GetService; any revision is there, and none is listed."""
        answers: dict[str, Callable[[bytes, grpc.ServicerContext], bytes]] = {
            "GetService": self._get,
            "GetRevision": lambda *_: b"",
            "ListRevisions": lambda *_: b"",
        }
        answer = answers.get(handler_call_details.method.rpartition("/")[2])
        return answer and grpc.unary_unary_rpc_method_handler(answer)

    def _get(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        name = run_v2.GetServiceRequest.deserialize(request).name
        if name.endswith("-away"):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not in this region")
        if not name.endswith(f"-{MODEL}"):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return run_v2.Service.serialize(run_v2.Service(name=name, uri=self.url, etag="1"))


@dataclass
class World:
    """A cloud whose functions and containers answer what a test says."""

    dashboard: Dashboard
    environment: dict[str, str]
    answers: dict[str, Answer] = field(default_factory=dict)

    def say(self, *words: str) -> subprocess.CompletedProcess[str]:
        return turnout(*words, **self.environment)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """v1 of MODEL was live, v2 is; `away` cannot be read, `bare` is not applied."""
    folder = tmp_path_factory.mktemp("cloud")
    gcloud = folder / "gcloud"
    gcloud.write_text(f"#!{sys.executable}\nprint('token')\n")
    gcloud.chmod(0o755)
    run = Run()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers([run])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with (
            pytest.MonkeyPatch.context() as monkeypatch,
            firestore_here(folder, monkeypatch) as client,
        ):
            dashboard = Dashboard(client)
            for model_id in ("away", "bare", MODEL):
                dashboard.declare(model_id)
            dashboard.live(41)
            dashboard.live(42)
            world = World(dashboard, {})
            with listening(_app(world)) as run.url:
                world.environment = {
                    "TURNOUT_PROJECT": client.project,
                    "TURNOUT_FUNCTIONS_URL": run.url,
                    "TURNOUT_GRPC_EMULATOR_HOST": f"127.0.0.1:{port}",
                    "FIRESTORE_EMULATOR_HOST": client._emulator_host,
                    "STORAGE_EMULATOR_HOST": run.url,
                    "PUBSUB_EMULATOR_HOST": "127.0.0.1:9",
                    "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "nothing"),
                    "PATH": str(folder),
                    "COLUMNS": "400",
                }
                yield world
    finally:
        server.stop(grace=0).wait()


def _app(world: World) -> flask.Flask:
    app = flask.Flask("functions, containers and buckets")

    @app.post("/<name>")
    def answer(name: str) -> flask.Response:
        status, kind, body = world.answers[name]
        return flask.Response(body, status, content_type=kind)

    @app.get("/storage/v1/b/<bucket>/o")
    def objects(bucket: str) -> dict[str, Any]:
        return {"kind": "storage#objects", "bucket": bucket, "items": []}

    return app


# what a function answers


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        pytest.param(
            (429, JSON, '{"detail": "a quota is used up", "code": "quota_exceeded"}'),
            3,
            "turnout: a quota is used up",
            id="quota",
        ),
        pytest.param(
            (503, JSON, '{"detail": "not served yet", "code": "traffic_not_applied"}'),
            3,
            "turnout: not served yet",
            id="not-applied",
        ),
        pytest.param((503, HTML, FORBIDDEN), 3, "it answered 503", id="front-end-is-away"),
        pytest.param(
            (409, JSON, '{"detail": "v1 is failed", "code": "conflict"}'),
            1,
            "turnout: v1 is failed",
            id="refused",
        ),
        pytest.param(
            (403, HTML, FORBIDDEN),
            1,
            "you may not call roll_back: ask for the role of operators "
            "(docs/how-to/who-needs-what.md)",
            id="forbidden-by-Google",
        ),
        pytest.param((404, HTML, FORBIDDEN), 1, "there is no roll_back to call", id="not-there"),
    ],
)
def test_answer_of_a_function_is_a_sentence_and_an_exit_code(
    cloud: World, answer: Answer, code: int, said: str
) -> None:
    cloud.answers["roll_back"] = answer
    done = cloud.say("rollback", MODEL)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "<" not in done.stderr


@pytest.mark.parametrize(
    ("traffic", "under_way"),
    [({"model-serving-movies-v2-1": 100}, True), ({"model-serving-movies-v3-1": 100}, False)],
)
def test_rollback_that_only_began_a_deployment_says_so_and_how_to_follow_it(
    cloud: World, traffic: dict[str, int], under_way: bool
) -> None:
    done = {"deployment_id": "movies-41-back", "version": "v3", "traffic": traffic, "said": "so"}
    cloud.answers["roll_back"] = (200, "application/json", json.dumps(done))
    said = cloud.say("rollback", MODEL)
    assert said.returncode == 0
    assert ("under way and not done yet" in said.stdout) == under_way
    assert ("turnout watch movies-41-back" in said.stdout) == under_way
    printed = json.loads(cloud.say("rollback", MODEL, "--json").stdout)
    assert printed == {**done, "under_way": under_way}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((429, TEXT, "Rate exceeded."), 3, "it answered 429: Rate exceeded."),
        ((503, TEXT, "Service Unavailable"), 3, "it answered 503: Service Unavailable"),
        ((200, HTML, FORBIDDEN), 3, "it answered 200, and not with a JSON object"),
        ((200, "application/json", "5"), 3, "it answered 200, and not with a JSON object"),
        ((401, JSON, '{"detail": "no such key"}'), 1, "no such key"),
    ],
    ids=["too many", "no instance", "a page", "a number", "refused"],
)
def test_prediction_that_cannot_be_had_now_says_why(
    cloud: World, answer: Answer, code: int, said: str
) -> None:
    cloud.answers["recommend-batch"] = answer
    done = cloud.say("predict", "c1", "--model", MODEL, "--key", "k")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


# what cannot be read


def test_models_lists_also_those_whose_service_cannot_be_read(cloud: World) -> None:
    done = cloud.say("models", "--json")
    assert done.returncode == 0, done.stderr
    found = {one["model_id"]: one for one in json.loads(done.stdout)}
    assert {name: one["traffic"] for name, one in found.items() if name != MODEL} == {
        "away": "unknown",
        "bare": "not applied yet",
    }
    assert found[MODEL]["live"] == "v2"
    assert found[MODEL]["url"].startswith("http://127.0.0.1:")
    assert "not in this region" in done.stderr


def test_recover_goes_on_past_the_models_that_cannot_be(cloud: World) -> None:
    broken = cloud.dashboard.client.collection("model_configs").document("broken")
    broken.set({"model_id": "broken", "image": 7})
    cloud.dashboard.declare(f"z-{MODEL}")
    try:
        done = cloud.say("recover", "--dry-run", "--json")
    finally:
        broken.delete()
        cloud.dashboard.client.collection("model_configs").document(f"z-{MODEL}").delete()
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert set(said["failed"]) == {"away", "bare", "broken"}
    assert "not in this region" in said["failed"]["away"]["detail"]
    assert "image" in said["failed"]["broken"]["detail"]
    assert [one["model_id"] for one in said["models"]] == [MODEL, f"z-{MODEL}"]


def test_person_whom_google_does_not_know_reads_a_sentence(tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing.json")
    done = turnout("--project", "shop", "models", GOOGLE_APPLICATION_CREDENTIALS=nothing)
    assert (done.returncode, done.stdout) == (3, "")
    assert "nothing.json" in "".join(done.stderr.split())
    assert "Traceback" not in done.stderr


# what came of a deployment


def test_watch_of_a_version_that_was_live_and_was_replaced_since_is_a_success(
    cloud: World,
) -> None:
    done = cloud.say("watch", f"{MODEL}-41-auto")
    assert done.returncode == 0
    assert "v2 took over" in done.stdout
    assert "✗" not in done.stdout


def test_watch_of_a_version_that_never_got_there_is_none(cloud: World) -> None:
    rolling = cloud.dashboard.rolling(43, "bare")
    failed = replace(rolling, status=Status.FAILED, reason="worse than live")
    cloud.dashboard.state.change("bare", lambda book: book.put(failed))
    done = cloud.say("watch", rolling.id)
    assert done.returncode == 4
    assert "✗ failed: worse than live" in done.stdout
