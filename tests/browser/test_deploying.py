"""Deploy, watch, cancel, go back: in a real browser, against the whole local cloud."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.story import DEADLINE_MS, Story, becomes


def test_first_run_deployed_at_once_becomes_live_without_a_reload(page: Page, story: Story) -> None:
    page.goto(f"{story.url}/models/first")
    expect(page.get_by_text("No training run yet")).to_be_visible()
    expect(page.locator("#message")).to_contain_text("gs://turnout-local-training/first/run-1")
    assert story.trained("first", 1) == "listed"

    page.reload()
    page.get_by_role("link", name="Deploy run #1").click()
    page.get_by_label("Immediate").check()
    expect(page.locator("#what-happens")).to_contain_text("it takes 100 % of the traffic at once")
    page.get_by_role("button", name="Deploy run #1 now").click()

    becomes(page, "v1 is live")
    assert re.search(r"/deployments/[a-z0-9-]+$", page.url)
    expect(page.locator(".steps .state")).to_have_text(["Done"] * 6)
    story.serves("first", v1=100)

    page.get_by_role("link", name="first", exact=True).first.click()
    expect(page.locator("#production ~ .panel")).to_contain_text("Active v1, training run #1")
    expect(page.locator("#production ~ .panel")).to_contain_text("developer@localhost")
    page.get_by_role("link", name="Health check").click()
    expect(page.get_by_text("Healthy", exact=True)).to_be_visible()
    page.go_back()
    expect(page).to_have_url(f"{story.url}/models/first")


def test_better_run_deployed_with_the_keyboard_alone_becomes_live(page: Page, story: Story) -> None:
    story.live("board")
    story.trained("board", 2, "better", recall=0.48)
    page.goto(f"{story.url}/models/board")
    expect(page.get_by_text("★ Better")).to_be_visible()

    def go_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement.innerText || ''").strip() == name:
                return
        raise AssertionError(f"Tab never reached {name!r}")

    go_to("Deploy run #2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Deploy run #2 of board")
    go_to("Deploy run #2 now")
    page.keyboard.press("Enter")
    becomes(page, "v2 is live")


def test_gradual_rollout_is_watched_to_its_end_and_then_rolled_back(
    page: Page, story: Story
) -> None:
    story.live("steps")
    story.trained("steps", 2, "better", recall=0.48)
    page.goto(f"{story.url}/models/steps/deploy?run=2")
    page.get_by_label("Gradual rollout").check()
    page.get_by_label("Steps, in percent of traffic").fill("50, 10")
    expect(page.locator("#what-happens")).to_contain_text("cannot be carried out")
    page.get_by_label("Steps, in percent of traffic").fill("10, 50")
    page.get_by_label("Over how long").fill("6s")
    expect(page.locator("#what-happens")).to_contain_text(
        "10 % of the traffic at once, 50 % after 3 seconds and 100 % after 6 seconds."
        " v1 stays ready"
    )
    page.get_by_role("button", name="Deploy run #2 now").click()
    for share in ("10 % at once (now)", "50 % after 3 seconds (now)"):
        expect(page.locator(".stages .now")).to_have_text(share, timeout=DEADLINE_MS)
        assert _bar_is_full(page)
    becomes(page, "v2 is live")
    story.serves("steps", v2=100)

    page.get_by_role("link", name="Roll back to v1").click()
    expect(page.locator("main")).to_contain_text("v2 (run #2) stops serving")
    page.get_by_label("Why").fill("answers look odd")
    page.get_by_role("button", name="Roll back to v1").click()
    expect(page.locator("#production ~ .panel").first).to_contain_text("v1, training run #1")
    story.serves("steps", v1=100)
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="v2", exact=True))
    expect(row).to_contain_text("Rolled back")
    expect(row).to_contain_text("answers look odd")
    page.get_by_role("link", name="Audit trail").click()
    expect(page.get_by_role("row").filter(has_text="Rollback")).to_contain_text(
        re.compile("developer@localhost.*answers look odd.*dashboard 127.0.0.1", re.S)
    )


def _bar_is_full(page: Page) -> bool:
    widths = page.locator(".bar rect").evaluate_all(
        "all => all.map(one => parseInt(one.getAttribute('width')))"
    )
    return sum(widths) == 100


def test_rollout_paused_let_go_on_and_cancelled_in_the_middle_returns_all_traffic(
    page: Page, story: Story
) -> None:
    story.live("halt")
    story.trained("halt", 2, "better", recall=0.48)
    _start_gradual(page, story, "halt", 2)
    page.get_by_role("button", name="Pause at this share").click()
    becomes(page, "Deploying v2, paused")
    page.get_by_role("button", name="Resume").click()
    becomes(page, "Deploying v2")
    page.get_by_role("button", name="Go on to 50 % now").click()
    expect(page.locator(".stages .now")).to_contain_text("50 %", timeout=DEADLINE_MS)
    page.get_by_role("link", name="Cancel v2").first.click()
    expect(page.locator("main")).to_contain_text("All traffic goes back to v1")
    page.get_by_label("Why").fill("wrong run")
    page.get_by_role("button", name="Cancel v2").click()

    becomes(page, "v2 was cancelled")
    expect(page.locator(".trouble")).to_contain_text("wrong run")
    expect(page.locator(".trouble")).to_contain_text("v2 had reached 50 % of the traffic")
    story.serves("halt", v1=100)


def _start_gradual(page: Page, story: Story, model: str, run: int) -> None:
    page.goto(f"{story.url}/models/{model}/deploy?run={run}")
    page.get_by_label("Gradual rollout").check()
    page.get_by_label("Steps, in percent of traffic").fill("10, 50")
    page.get_by_label("Over how long").fill("2h")
    page.get_by_role("button", name=f"Deploy run #{run} now").click()
    expect(page.locator(".stages .now")).to_contain_text("10 %", timeout=DEADLINE_MS)


def test_deployment_that_fails_says_why_what_traffic_did_and_what_to_do(
    page: Page, story: Story
) -> None:
    story.trained("broken", 1, "corrupt")
    page.goto(f"{story.url}/models/broken/deploy?run=1")
    page.get_by_role("button", name="Deploy run #1 now").click()
    becomes(page, "v1 failed")
    trouble = page.locator(".trouble")
    expect(trouble).to_contain_text("Why")
    expect(trouble).to_contain_text("v1 never received any traffic")
    expect(trouble).to_contain_text("What you can do")
    expect(page.locator(".steps .failed")).to_have_count(1)
    expect(page.get_by_role("link", name="Deploy run #1 again")).to_be_visible()


def test_second_of_two_tabs_is_told_that_the_first_acted(
    context: BrowserContext, page: Page, story: Story
) -> None:
    story.live("tabs")
    story.live("tabs", 2, recall=0.48)
    first, second = page, context.new_page()
    for tab in (first, second):
        tab.goto(f"{story.url}/models/tabs")
        tab.get_by_role("link", name="Roll back to v1").first.click()
    first.get_by_role("button", name="Roll back to v1").click()
    expect(first.locator("#production ~ .panel").first).to_contain_text("v1, training run #1")

    second.get_by_role("button", name="Roll back to v1").click()
    expect(second.get_by_role("heading", level=1)).to_have_text("It changed since you looked")
    expect(second.locator("main")).to_contain_text("Nothing was done")
    second.get_by_role("link", name="See how it is now").click()
    expect(second.get_by_role("heading", level=1)).to_have_text("v1 is live")


def test_lost_connection_is_said_and_the_page_follows_again_when_it_is_back(
    context: BrowserContext, page: Page, story: Story
) -> None:
    story.live("lost")
    story.trained("lost", 2, "better", recall=0.48)
    _start_gradual(page, story, "lost", 2)
    page.locator("#pause").focus()
    context.set_offline(True)
    banner = page.locator("#connection")
    expect(banner).to_contain_text("Connection lost. What you see is from")
    expect(page.locator(".stages .now")).to_contain_text("10 %")

    context.set_offline(False)
    expect(banner).to_have_text("Connected again.")
    expect(banner).to_be_hidden()
    assert page.evaluate("() => document.activeElement.id") == "pause"
    page.get_by_role("link", name="Roll back to v1").click()
    page.get_by_role("button", name="Roll back to v1").click()
    story.serves("lost", v1=100)


@pytest.mark.parametrize("context", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_a_run_is_deployed_and_rolled_back(page: Page, story: Story) -> None:
    story.live("plain")
    story.trained("plain", 2, "better", recall=0.48)
    page.goto(f"{story.url}/models/plain")
    page.get_by_role("link", name="Deploy run #2").click()
    page.get_by_label("Gradual rollout").check()
    page.get_by_label("Over how long").fill("4s")
    page.get_by_role("button", name="Say again what will happen").click()
    expect(page.locator("#what-happens")).to_contain_text("after 4 seconds")
    page.get_by_label("Immediate").check()
    page.get_by_role("button", name="Deploy run #2 now").click()
    for _ in range(600):
        if page.get_by_role("heading", level=1).inner_text() == "v2 is live":
            break
        page.reload()
    becomes(page, "v2 is live")
    page.get_by_role("link", name="Roll back to v1").click()
    page.get_by_role("button", name="Roll back to v1").click()
    expect(page.locator("#production ~ .panel").first).to_contain_text("v1, training run #1")
    story.serves("plain", v1=100)


def test_page_that_has_settled_asks_no_more_and_one_that_moves_gets_304(
    page: Page, story: Story
) -> None:
    story.live("halt")
    page.goto(f"{story.url}/models/halt")
    expect(page.locator("#live")).not_to_have_attribute("hx-get", re.compile("."))
    story.trained("halt", 3, "better", recall=0.48)
    _start_gradual(page, story, "halt", 3)
    with page.expect_response(lambda one: "/live" in one.url and one.status == 304):
        pass
    page.get_by_role("link", name="Roll back to v1").click()
    page.get_by_role("button", name="Roll back to v1").click()
    story.serves("halt", v1=100)
