"""The serving container's API against its own OpenAPI document: generated requests, valid and not.

A real `python -m serving` with a small model, its artifacts and API keys in the local cloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import requests
import schemathesis

from serving.openapi import openapi_document
from tests import models
from tests.contract import contract_cases
from tests.contract.contract_cases import Cases
from tests.e2e.test_serving_container import Cloud, Container

OPERATIONS, WITH_INPUT = 4, 2

schema = schemathesis.openapi.from_dict(
    openapi_document("Recommendations"), config=contract_cases.config()
)


class World:
    """A healthy container, a key for it, and what was asked of it."""

    def __init__(self, container: Container, key: str) -> None:
        self.url = f"http://127.0.0.1:{container.port}"
        self.container = container
        self.cases = Cases()
        self._key = key
        self._random = Random(7)
        self._session = requests.Session()

    def ask(self, case: Any) -> None:
        """Send the case with a good key, and hold the answer to the document."""
        if case.meta is not None and case.meta.generation.mode.is_positive:
            self._aim(case.body)
        response = case.call_and_validate(
            base_url=self.url,
            session=self._session,
            headers={"Authorization": f"Bearer {self._key}"},
        )
        self.cases.note(case, response)

    def _aim(self, body: Any) -> None:
        """Ask for no more products than there are, which the document cannot know; and let
        half of the questions be about customers that the model knows."""
        if isinstance(body, dict) and isinstance(body.get("top_k"), (int, float)):
            body["top_k"] = 1 + int(body["top_k"]) % len(models.PRODUCTS)
        if isinstance(body, dict) and self._random.random() < 0.5:
            if "customer_id" in body:
                body["customer_id"] = self._random.choice(models.CUSTOMERS)
            if "customer_ids" in body:
                body["customer_ids"] = self._random.sample(models.CUSTOMERS, 3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The container, healthy."""
    folder: Path = tmp_path_factory.mktemp("cloud")
    cloud = Cloud(folder)
    cloud.start()
    container = Container(cloud.deploy(models.write_good))
    try:
        container.wait_until_healthy()
        yield World(container, cloud.create_key())
    finally:
        container.stop()
        cloud.stop()


@schema.parametrize()
@contract_cases.thorough(WITH_INPUT)
def test_generated_request_gets_a_documented_answer(case: Any, world: World) -> None:
    world.ask(case)


def test_cases_were_as_many_as_asked_for(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n" + world.cases.report("prediction API"))
    assert world.cases.requests.total() >= contract_cases.wanted()
    assert len(world.cases.requests) >= OPERATIONS
    assert not any(status >= 500 for status in world.cases.answers)
