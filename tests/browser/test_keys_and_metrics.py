"""API keys from the page, used at the real endpoint; compare; health; the examples' addresses."""

from __future__ import annotations

import requests
from playwright.sync_api import Page, expect

from tests.browser.story import Story
from tests.e2e.world import until

REVOKED_WITHIN_S = 30.0


def test_key_made_on_the_page_works_until_it_is_revoked_there(page: Page, story: Story) -> None:
    story.live("keys")
    page.goto(f"{story.url}/models/keys/api")
    page.get_by_label("What is it for").fill("web shop")
    page.get_by_role("button", name="Generate API key").click()
    key = page.locator("#new-key").inner_text()
    endpoint = page.locator("#base-url").inner_text()
    assert endpoint in page.locator("#code-1").inner_text()

    def recommend() -> requests.Response:
        return requests.post(
            f"{endpoint}/recommend",
            json={"customer_id": "C001", "top_k": 3},
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )

    answer = recommend()
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["recommendations"]) == 3

    page.goto(f"{story.url}/models/keys/api")
    expect(page.locator("main")).not_to_contain_text(key)
    page.get_by_role("link", name=f"Revoke {key[:8]}…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Revoke the key “web shop”?")
    page.get_by_role("button", name=f"Revoke {key[:8]}…").click()
    row = page.locator("tr").filter(has_text=key[:8])
    expect(row).to_contain_text("Revoked")
    until(lambda: recommend().status_code == 401, "the key is refused", REVOKED_WITHIN_S)


def test_key_without_a_name_is_explained_and_none_is_made(page: Page, story: Story) -> None:
    page.goto(f"{story.url}/models/first/api")
    page.get_by_label("What is it for").fill("shop")
    page.get_by_label("Days until it expires").fill("soon")
    page.get_by_role("button", name="Generate API key").click()
    expect(page.locator(".trouble")).to_contain_text("No key was made")
    expect(page.get_by_label("What is it for")).to_have_value("shop")
    expect(page.get_by_text("No key yet")).to_be_visible()


def test_comparison_says_which_run_is_better_and_by_how_much(page: Page, story: Story) -> None:
    story.live("keys")
    story.trained("keys", 3, recall=0.41)
    page.goto(f"{story.url}/models/keys")
    page.get_by_role("link", name="Compare #3 with current").click()
    row = page.get_by_role("row").filter(has_text="Recall@100")
    expect(row).to_contain_text("41.0 %")
    expect(row).to_contain_text("points worse")
    expect(page.locator("main")).to_contain_text("Not better by Recall@100")
