"""What the pages say of a rollout's steps, and which tools they point to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from google.cloud import firestore

from functions.dashboard.settings import Tools
from shared import wiring
from shared.domain.deployment import Status, Step, StepName, StepState
from tests.dashboards import MODEL, NOW, SETTINGS, Dashboard, firestore_here
from tests.unit.test_dashboard_api import sick

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


def test_approval_is_of_the_share_that_the_page_showed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with firestore_here(tmp_path, monkeypatch) as client:
        dashboard = Dashboard(client)
        dashboard.declare()
        dashboard.live(41)
        rolling = dashboard.rolling(42, percent=10)
        path = f"/deployments/{rolling.id}"
        hidden = '<input type="hidden" name="percent" value="{}"><button id="approve"'
        assert hidden.format(10) in page(dashboard, path)
        moved = replace(rolling, traffic_percent=50)
        dashboard.state.change(MODEL, lambda book: book.put(moved))
        late = dashboard.form(f"{path}/approve", "deployer", percent="10")
        assert late.status_code == 409
        assert "is at 50 % by now, not at 10 %" in unescape(late.get_data(as_text=True))
        for percent, status in (("ten", 400), ("1e1", 400), ("-50", 400), ("5000", 400)):
            answer = dashboard.form(f"{path}/approve", "deployer", percent=percent)
            assert (percent, answer.status_code) == (percent, status)
        assert dashboard.state.deployment(rolling.id) == moved
        assert hidden.format(50) in page(dashboard, path)
        assert dashboard.form(f"{path}/approve", "deployer", percent="50").status_code == 303
        assert dashboard.state.deployment(rolling.id).approved


def test_rollback_leaves_the_check_out_only_where_the_box_is_not_ticked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with firestore_here(tmp_path, monkeypatch) as client:
        dashboard = Dashboard(client)
        dashboard.declare()
        first = sick(dashboard)
        path = f"/deployments/{first.id}/rollback"
        asked = page(dashboard, path)
        assert '<input type="hidden" name="check" value="no">' in asked
        assert 'type="checkbox" id="check" name="check" value="yes" checked' in asked
        for ticked in ({"check": ["no", "yes"]}, {}):
            refused = dashboard.form(path, "deployer", **ticked)
            assert refused.status_code == 409
            assert "not healthy" in unescape(refused.get_data(as_text=True))
        assert dashboard.form(path, "deployer", check="no").status_code == 303
        assert dashboard.model().active == first.id
