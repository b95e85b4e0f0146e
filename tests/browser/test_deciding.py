"""A rollout that waits for a person: what the page tells, and each word in a click."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, expect

from shared.domain.deployment import Deployment
from tests.browser.samples import PERSON, Gallery, hold

HERE = "dashboard 127.0.0.1"


@pytest.fixture
def holding(sample: Gallery, request: pytest.FixtureRequest) -> Deployment:
    """A rollout of this test's own, held at 10 %."""
    model_id = request.node.name.split("_")[1][:20]
    sample.dashboard.declare(model_id)
    return hold(sample.dashboard, model_id, datetime.now(UTC))


def now(sample: Gallery, holding: Deployment) -> Deployment:
    return sample.dashboard.state.deployment(holding.id)


def last_word(sample: Gallery, holding: Deployment) -> tuple[str, str, str]:
    event = sample.dashboard.state.events(holding.id)[-1]
    return event.action, event.reason, event.source


def test_page_tells_what_there_is_to_decide_upon(page: Page, sample: Gallery) -> None:
    page.goto(f"{sample.url}/deployments/{sample.holding.id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("v2 waits for a person")
    decide = page.locator("section", has=page.locator("#decide"))
    expect(decide.get_by_role("heading")).to_have_text("May v2 go on to 50 %?")
    expect(decide).to_contain_text("It waits for a person's approval: the policy wants it at 10 %.")
    judged = page.locator("section", has=page.locator("#judgement"))
    expect(judged).to_contain_text("As good as live")
    expect(judged.get_by_role("row", name="Requests")).to_have_text("Requests4,81243,290")
    expect(judged.get_by_role("row", name="p95, ms")).to_have_text("p95, ms6.26.0")
    skew = page.locator("section", has=page.locator("#skew"))
    expect(skew.get_by_role("row", name="Recall@100")).to_contain_text("40.9 % in training")
    expect(skew).to_contain_text("less than 42.00%. (reported only)")
    gate = page.locator("section", has=page.locator("#gate"))
    expect(gate).to_contain_text("for the same 18,204 customers +0.0061")
    expect(gate).to_contain_text("may fall by 0.5 points")
    expect(page.get_by_role("row", name="Holding")).to_contain_text("pipeline")


def test_approve_is_one_click(page: Page, sample: Gallery, holding: Deployment) -> None:
    page.goto(f"{sample.url}/deployments/{holding.id}#decide")
    page.get_by_role("button", name="Approve: go on to 50 %").click()
    expect(page.get_by_role("row", name="Approved")).to_contain_text("developer@localhost")
    assert now(sample, holding).approved
    assert not now(sample, holding).skipped
    assert last_word(sample, holding) == ("approved", "no reason given", HERE)


def test_skip_asks_first_and_says_what_it_costs(
    page: Page, sample: Gallery, holding: Deployment
) -> None:
    page.goto(f"{sample.url}/deployments/{holding.id}")
    page.get_by_role("link", name="Skip to 100 %").click()
    expect(page.locator("main")).to_contain_text("goes from 10 % to 100 % when its workflow looks")
    assert not now(sample, holding).skipped, "looking decides nothing"
    page.get_by_label("Why").fill("live is broken")
    page.get_by_role("button", name="Skip to 100 % with v2").click()
    expect(page.get_by_role("row", name="Skipped")).to_contain_text("live is broken")
    assert now(sample, holding).skipped
    assert last_word(sample, holding) == ("skipped", "live is broken", HERE)


def test_cancel_of_a_held_rollout_is_the_other_way_out(
    page: Page, sample: Gallery, holding: Deployment
) -> None:
    page.goto(f"{sample.url}/deployments/{holding.id}")
    page.locator("#cancel").click()
    page.get_by_role("button", name="Cancel v2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("v2 was cancelled")
    assert now(sample, holding).status == "cancelled"


def test_way_back_of_a_model_has_an_address_that_only_asks(page: Page, sample: Gallery) -> None:
    page.goto(f"{sample.url}/models/{sample.holding.model_id}/rollback")
    expect(page.get_by_role("heading", level=1)).to_contain_text("back to v1?")
    assert sample.dashboard.state.deployment(sample.holding.id).status == "deploying"
    assert sample.holding.deployed_by != PERSON
