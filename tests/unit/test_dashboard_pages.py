"""What the pages say of a rollout's steps, and which tools they point to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import unescape

import pytest
from google.cloud import firestore

from functions.dashboard.settings import Tools
from shared import wiring
from shared.domain.deployment import Status, Step, StepName, StepState
from tests.dashboards import MODEL, NOW, SETTINGS, Dashboard, firestore_here

EMPTY = "empty"
PREPARED = "671 customers' answers prepared (top 20), 1 task, 3.2 s"
REFUSED = "the model has no query_model; export it again"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[firestore.Client]:
    """Firestore with a live model, and one for which nothing was trained."""
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        firestore_here(tmp_path_factory.mktemp("firestore"), monkeypatch) as client,
    ):
        monkeypatch.setenv("TURNOUT_PROJECT", "shop")
        wiring.settings.cache_clear()
        dashboard = Dashboard(client)
        for model_id in (MODEL, EMPTY):
            dashboard.declare(model_id)
        dashboard.live(41)
        yield client
    wiring.settings.cache_clear()


@pytest.fixture
def dashboard(client: firestore.Client) -> Dashboard:
    made = Dashboard(client)
    made.cloud_run.declare(f"model-serving-{MODEL}")
    return made


def page(dashboard: Dashboard, path: str) -> str:
    answer = dashboard.ask("GET", path)
    assert answer.status_code == 200
    return unescape(answer.get_data(as_text=True))


@pytest.mark.parametrize(
    ("tools", "logs", "command"),
    [
        pytest.param(
            Tools.GCLOUD,
            "https://console.cloud.google.com/logs/query",
            "gcloud pubsub topics publish training-completed --project=shop",
            id="Google's",
        ),
        pytest.param(
            Tools.TURNOUT,
            f"/models/{MODEL}/logs",
            "turnout publish --file message.json",
            id="the local cloud's",
        ),
    ],
)
def test_links_and_commands_are_those_of_the_tools_that_the_settings_name(
    client: firestore.Client,
    tools: Tools,
    logs: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whether Google's clients talk to another server says nothing about people's tools.
    monkeypatch.setenv("TURNOUT_GRPC_EMULATOR_HOST", "127.0.0.1:1")
    wiring.settings.cache_clear()
    dashboard = Dashboard(client, replace(SETTINGS, tools=tools))
    for model_id in (MODEL, EMPTY):
        dashboard.cloud_run.declare(f"model-serving-{model_id}")
    assert f'href="{logs}' in page(dashboard, f"/models/{MODEL}")
    assert command in page(dashboard, f"/models/{EMPTY}")


def test_preparation_is_a_step_between_the_copy_and_the_service_with_its_detail(
    dashboard: Dashboard,
) -> None:
    done = Step(StepState.DONE, NOW, NOW, PREPARED)
    dashboard.live(
        42, prepared_digest="sha256:p", prepared_customers=671, prepare_execution="executions/1"
    )
    found = dashboard.state.deployment(f"{MODEL}-42-auto")
    dashboard.state.change(
        MODEL, lambda book: book.put(found.with_step(StepName.PREPARE_MODEL, done))
    )
    shown = dashboard.ask("GET", f"/api/deployments/{MODEL}-42-auto/").json
    assert [(one["name"], one["title"]) for one in shown["steps"]][:3] == [
        ("copy_artifacts", "Copy artifacts"),
        ("prepare_model", "Prepare model"),
        ("configure_service", "Configure service"),
    ]
    assert shown["steps"][1]["detail"] == PREPARED
    assert (shown["prepared_digest"], shown["prepared_customers"]) == ("sha256:p", 671)
    assert shown["prepare_execution"] == "executions/1"
    shown_page = page(dashboard, f"/deployments/{MODEL}-42-auto")
    assert shown_page.index("Copy artifacts") < shown_page.index("Prepare model")
    assert PREPARED in shown_page


def test_refused_model_is_told_with_its_reason_and_what_to_do(dashboard: Dashboard) -> None:
    dashboard.run(43)
    made = dashboard.rolling(43)
    refused = Step(StepState.FAILED, NOW, NOW, error=REFUSED)
    failed = made.with_step(StepName.PREPARE_MODEL, refused).become(Status.FAILED, NOW, REFUSED)
    dashboard.state.change(MODEL, lambda book: book.put(failed))
    shown = page(dashboard, f"/deployments/{MODEL}-43-auto")
    assert REFUSED in shown
    assert "export it as the reason asks" in shown
