"""The dashboard's API against its own OpenAPI document: generated requests, valid and not.

The pipeline behind it is real up to the workflow: a deployment that is asked for is created,
takes the lock or waits, and can be paused, cancelled and rolled back over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import pytest
import schemathesis

from functions.on_training_completed import receive
from tests.contract import contract_cases
from tests.contract.contract_cases import Cases
from tests.dashboards import EMAILS, MODEL, Dashboard, firestore_here, listening
from turnout.dashboard import Api, document_of

OPERATIONS = 21
RUNS = (41, 42, 43, 44)


class Pipeline:
    """A topic whose messages are handled at once."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self.deployments = ["movies-41-auto", "movies-42-auto", "movies-43-auto"]
        self.published = 0

    def publish(self, data: bytes, _: Mapping[str, str]) -> str:
        """Hand the message to the function that receives it."""
        self.published += 1
        assert receive(data, str(self.published), self._dashboard.ports) != "refused"
        message = json.loads(data)
        request_id = message["deploy"]["request_id"]
        made = f"{message['model_id']}-{message['run_number']}-{request_id}"
        self.deployments = [*self.deployments[:3], *self.deployments[3:][-5:], made]
        return str(self.published)


class World:
    """The dashboard, and what exists in it: generated requests ask for that more often."""

    def __init__(self, dashboard: Dashboard) -> None:
        self.url = ""
        self.dashboard = dashboard
        self.pipeline = Pipeline(dashboard)
        dashboard.topic = self.pipeline  # type: ignore[assignment]
        dashboard.app = dashboard.another()
        self.keys = ["0" * 64]
        self.cases = Cases()
        self._random = Random(7)

    def aim(self, case: Any) -> None:
        """Let most valid requests name something that exists."""
        if not _is_valid(case) or self._random.random() < 0.2:
            return
        known = {"model_id": [MODEL], "deploy_id": self.pipeline.deployments, "key_id": self.keys}
        for name in case.path_parameters or {}:
            case.path_parameters[name] = self._random.choice(known[name])
        if isinstance(case.body, dict) and "training_run" in case.body:
            case.body["training_run"] = self._random.choice(RUNS)
        if case.query and "training_run" in case.query:
            case.query["training_run"] = self._random.choice(RUNS)

    def ask(self, case: Any) -> None:
        """Send the case as an admin, and hold the answer to the document."""
        self.aim(case)
        token = self.dashboard.signer.token(EMAILS["admin"])
        headers = {"Authorization": f"Bearer {token}"}
        response = case.call_and_validate(base_url=self.url, headers=headers)
        self.cases.note(case, response)
        if response.status_code == 201:
            self.keys = [*self.keys[-5:], response.json()["id"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two versions that were live, one rollout, a waiting run."""
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        firestore_here(tmp_path_factory.mktemp("firestore"), monkeypatch) as client,
    ):
        dashboard = Dashboard(client)
        dashboard.declare()
        dashboard.live(41)
        dashboard.live(42)
        dashboard.rolling(43)
        dashboard.run(44)
        world = World(dashboard)
        with listening(dashboard.app) as world.url:
            yield world


schema = schemathesis.openapi.from_dict(document_of(Api.DASHBOARD), config=contract_cases.config())


@schema.parametrize()
@contract_cases.thorough(OPERATIONS)
def test_generated_request_gets_a_documented_answer(case: Any, world: World) -> None:
    world.ask(case)


def test_cases_were_as_many_as_asked_for(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n" + world.cases.report("dashboard API"))
    assert world.cases.requests.total() >= contract_cases.wanted()
    assert len(world.cases.requests) >= OPERATIONS
    assert not any(status >= 500 for status in world.cases.answers)


def _is_valid(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def test_document_is_openapi_3_1_and_complete(world: World) -> None:
    document = world.dashboard.ask("GET", "/api/openapi.json", "viewer").json
    rules = {
        (method, str(rule).replace("<", "{").replace(">", "}"))
        for rule in world.dashboard.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if str(rule).startswith("/api/") and not str(rule).startswith(("/api/docs", "/api/openapi"))
    }
    documented = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    assert document["openapi"] == "3.1.0"
    assert documented == rules
    assert len(rules) == OPERATIONS
