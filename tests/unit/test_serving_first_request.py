"""An instance tells of the first request that it answers, once, and is as fast as ever after."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import run_wsgi_app

from serving.app import create_app
from serving.express import Express
from serving.first_request import application
from serving.keys import ApiKeys
from serving.model_slot import STARTING, ModelSlot
from serving.moments import Moments
from serving.service import Service
from serving.settings import read_settings
from serving.usage import Usage
from tests.recommenders import Alphabet, Direct, ready
from tests.unit.test_serving_app import KEY, SETTINGS, NoUsage, OneKey

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OURS = f"00-{TRACE}-{SPAN}-01"
THEIRS = f"00-{'a' * 32}-{SPAN}-01"
OTLP = {"OTEL_TRACES_EXPORTER": "otlp", "TRACEPARENT": OURS}


class Told:
    """Stands in for the process that sends: what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._file = folder / "told"
        program = folder / "python"
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$3" >> {self._file}\n')
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    def wait(self) -> list[dict[str, Any]]:
        """Return what was told, once something was."""
        end = time.monotonic() + 60
        while not self._file.exists() or not self._file.read_text().endswith("\n"):
            assert time.monotonic() < end, "nothing was told within a minute"
            time.sleep(0.01)
        return [json.loads(line) for line in self._file.read_text().splitlines()]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    return Told(monkeypatch, tmp_path)


@pytest.fixture
def worker(tmp_path: Path) -> Callable[..., Express]:
    """Makes the application of a worker of one instance."""

    def made(traceparent: str = OURS) -> Express:
        settings = replace(SETTINGS, traceparent=traceparent)
        slot = ModelSlot(STARTING)
        slot.follow(Direct(Alphabet()))
        slot.set_model(ready(Alphabet()))
        service = Service("v3", slot, ApiKeys("movies", OneKey()), Usage(NoUsage()))
        parts = (service, create_app(settings, slot, service, lambda: False), lambda: False)
        return application(parts, settings, Moments(0.0), tmp_path)

    return made


def ask(
    app: Express, path: str = "/recommend", key: str = KEY, traceparent: str = THEIRS
) -> tuple[str, bytes]:
    body = json.dumps({"customer_id": "15", "top_k": 2}).encode()
    content, status, _ = run_wsgi_app(
        app,
        {
            "REQUEST_METHOD": "POST" if path == "/recommend" else "GET",
            "PATH_INFO": path,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_AUTHORIZATION": f"Bearer {key}",
            "HTTP_TRACEPARENT": traceparent,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8080",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "wsgi.url_scheme": "http",
            "wsgi.errors": io.StringIO(),
            "wsgi.input": io.BytesIO(body),
        },
        buffered=True,
    )
    return status, b"".join(content)


def test_first_answer_is_told_with_the_start_and_later_ones_meet_a_plain_express(
    told: Told, worker: Callable[..., Express]
) -> None:
    app = worker()
    first, later = ask(app), ask(app)
    assert first == later
    assert first[0] == "200 OK"
    assert type(app) is Express
    [sent] = told.wait()
    assert sent["traceparent"] == OURS
    assert [span["name"] for span in sent["spans"]] == [
        "start movies v3",
        "first request /recommend",
    ]
    assert all(span["began"] <= span["ended"] for span in sent["spans"])


def test_of_two_workers_of_an_instance_one_tells(
    told: Told, worker: Callable[..., Express]
) -> None:
    apps = worker(), worker()
    for app in apps:
        ask(app)
        assert type(app) is Express
    assert len(told.wait()) == 1


@pytest.mark.parametrize(
    "request_of",
    [{"traceparent": OURS}, {"key": "wrong"}, {"path": "/health"}, {"path": "/nowhere"}],
    ids=["the pipeline's own check", "refused", "health", "no such path"],
)
def test_what_is_no_answer_to_a_user_does_not_count(
    told: Told, worker: Callable[..., Express], tmp_path: Path, request_of: dict[str, str]
) -> None:
    app = worker()
    ask(app, **request_of)
    assert type(app) is not Express
    assert not (tmp_path / "first-request").exists()
    ask(app)
    assert type(app) is Express
    assert len(told.wait()) == 1


def test_without_a_trace_nothing_watches(worker: Callable[..., Express]) -> None:
    assert type(worker(traceparent="")) is Express


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (OTLP, OURS),
        ({"TRACEPARENT": OURS}, ""),
        ({**OTLP, "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({**OTLP, "OTEL_SDK_DISABLED": "true"}, ""),
        ({**OTLP, "TRACEPARENT": "nonsense"}, ""),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ""),
    ],
    ids=["all", "no exporter", "none", "disabled", "nonsense", "no trace"],
)
def test_environment_says_whether_there_is_a_trace(
    environment: dict[str, str], expected: str
) -> None:
    model = {
        "MODEL_PATH": "gs://serving/models/movies/v3/",
        "MODEL_ID": "movies",
        "MODEL_VERSION": "v3",
        "TRAINING_RUN": "3",
        "MODEL_DIGEST": f"sha256:{'0' * 64}",
    }
    assert read_settings({**model, **environment}).traceparent == expected
    assert read_settings(environment).traceparent == ""
