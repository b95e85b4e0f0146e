"""One local cloud and one Chromium for the whole session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser.chromium import browser
from tests.browser.samples import Gallery, gallery
from tests.browser.story import MODELS, Story
from tests.e2e import declarations
from tests.e2e.world import Cloud
from tests.permissions import record


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser."""
    with browser() as started:
        yield started


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    """A dashboard filled with every state."""
    with gallery(tmp_path_factory.mktemp("gallery")) as found:
        yield found


@pytest.fixture(scope="session")
def story(
    tmp_path_factory: pytest.TempPathFactory,
    artifacts_being_written: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Story]:
    """The session's local cloud with its dashboard; TensorFlow writes models while it starts."""
    folder = tmp_path_factory.mktemp("story")
    cloud = Cloud(folder, declarations.write(folder, MODELS))
    try:
        world = cloud.start()
        assert request.getfixturevalue("artifacts")
        environment = json.loads((cloud.data / "cloud.json").read_text())["environment"]
        yield Story(
            world, artifacts_being_written, f"{environment['TURNOUT_FUNCTIONS_URL']}/dashboard"
        )
        world.close()
    finally:
        cloud.stop()
    record.check(cloud.data)


@pytest.fixture
def context(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A browser of its own for each test; `context` parametrised is its options."""
    made = chromium.new_context(
        viewport={"width": 1280, "height": 900},
        **{"locale": "en-GB", "timezone_id": "Europe/Berlin", **getattr(request, "param", {})},
    )
    made.set_default_timeout(60_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab that fails the test where the page broke its own security policy or a script."""
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "console",
        lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None,
    )
    yield opened
    assert not wrong, wrong


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs no cloud first: it fails soonest."""
    here = Path(__file__).parent
    items.sort(
        key=lambda item: item.path.parent == here and "story" in getattr(item, "fixturenames", ())
    )
