"""docs/how-to/write-a-webhook-check.md: its example is asked what the pipeline really asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from werkzeug.serving import make_server

from functions.judge_canary import look
from shared.gcp.webhooks import HttpJudges
from shared.messages import JudgeCanary
from shared.ports import JudgePorts
from tests.docs.pages import ROOT, Fence, fences
from tests.unit.test_steps_judge_canary import NAME, baking, serve

PAGE = ROOT / "docs/how-to/write-a-webhook-check.md"


def fence(kind: str) -> Fence:
    [found] = [one for one in fences(PAGE) if one.kind == kind]
    return found


class Example:
    """The page's application, running; `url` is what a policy would name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []


@contextmanager
def running() -> Iterator[Example]:
    names: dict[str, Any] = {"__name__": "webhook"}
    exec(compile(fence("webhook").body, str(PAGE), "exec"), names)
    app = names["app"]
    server = make_server("127.0.0.1", 0, app)
    example = Example(f"http://127.0.0.1:{server.port}/canary")

    @app.after_request  # type: ignore[untyped-decorator]
    def keep(response: Any) -> Any:
        from flask import request

        example.asked.append(request.get_json())
        example.answered.append(response.get_json())
        return response

    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield example
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("orders", "orders_live", "answer", "verdict"),
    [
        pytest.param("6", "60", "abort", "fail", id="fewer orders"),
        pytest.param("14", "60", "wait", "pass", id="as many orders"),
    ],
)
def test_example_judges_a_real_stage(
    monkeypatch: pytest.MonkeyPatch, orders: str, orders_live: str, answer: str, verdict: str
) -> None:
    monkeypatch.setenv("ORDERS_V2", orders)
    monkeypatch.setenv("ORDERS_LIVE", orders_live)
    with running() as example:
        world = baking({"webhooks": [example.url]})
        serve(world, 5)
        command = JudgeCanary(deployment_id=NAME, execution="executions/2")
        said = look(command, world.ports(), JudgePorts(world.requests, HttpJudges()))
    assert said["answer"] == answer
    assert world.state.deployment(NAME).judgement["verdict"] == verdict
    assert "of requests led to an order" in example.answered[0]["why"]
    assert set(example.asked[0]) == set(json.loads(fence("request").body))
    assert set(example.answered[0]) == set(json.loads(fence("answer").body))


def test_example_says_nothing_of_a_few_requests() -> None:
    with running() as example:
        facts = json.loads(fence("request").body) | {"candidate_requests": 20}
        judgement = HttpJudges().ask(example.url, facts)
    assert judgement.verdict == "inconclusive"
    assert "only 20 requests so far" in judgement.why


def test_call_by_hand_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    monkeypatch.setenv("ORDERS_V2", "30")
    monkeypatch.setenv("ORDERS_LIVE", "270")
    with running() as example:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", fence("webhook-call").body],
            env=os.environ | {"CHECK_URL": example.url.removesuffix("/canary")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert json.loads(done.stdout)["verdict"] == "pass", done.stderr
