"""Every page, in every state: accessible, light enough, readable on a phone and without scripts."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from functions.dashboard import prediction_api
from serving.openapi import openapi_document
from tests.browser.chromium import violations
from tests.browser.samples import MODEL, Gallery, addresses

HEAVIEST_BYTES = 100_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_violation_on_any_page(
    chromium: Browser, sample: Gallery, width: int, scheme: Any
) -> None:
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    found = {}
    for name, address in addresses(sample).items():
        page.goto(sample.url + address)
        page.evaluate(
            "() => document.querySelectorAll('details:not([name])')"
            ".forEach(one => { one.open = true; })"
        )
        if wrong := violations(page):
            found[name] = wrong
    context.close()
    assert not found, json.dumps(found, indent=1)


def test_no_page_is_wider_than_a_small_phone_nor_breaks_its_own_policy(
    chromium: Browser, sample: Gallery
) -> None:
    context = chromium.new_context(viewport={"width": 320, "height": 700})
    page = context.new_page()
    refused: list[str] = []
    page.on("console", lambda said: refused.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: refused.append(str(error)))
    for name, address in addresses(sample).items():
        page.goto(sample.url + address)
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= 320, f"{name} is {wide} pixels wide"
        small = page.locator("button:visible, .button:visible").evaluate_all(
            "all => all.filter(one => one.getBoundingClientRect().height < 44)"
            ".map(one => one.innerText)"
        )
        assert not small, f"{name}: {small} are lower than 44 pixels"
    context.close()
    assert not [said for said in refused if "404" not in said], refused


def test_no_page_weighs_more_than_100_kb_gzipped_with_all_its_files(sample: Gallery) -> None:
    for name, address in {
        **addresses(sample),
        "month": f"/models/{MODEL}/metrics?hours=720",
    }.items():
        page = requests.get(sample.url + address, timeout=60)
        html = page.text
        files = {
            part.split('"')[0].replace("&amp;", "&")
            for part in html.split('"')
            if part.startswith("/assets/")
        }
        weights = {file: _weight(sample.url + file) for file in files}
        total = len(gzip.compress(page.content)) + sum(weights.values())
        assert total < HEAVIEST_BYTES, f"{name} weighs {total} bytes: {weights}"


def _weight(url: str) -> int:
    with requests.get(url, stream=True, timeout=60) as answer:
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"], url
        assert answer.headers["Content-Encoding"] == "gzip", url
        return len(answer.raw.read(decode_content=False))


def test_times_are_the_readers_with_their_age_and_utc_on_hover(page: Page, sample: Gallery) -> None:
    page.goto(f"{sample.url}/models/{MODEL}")
    time = page.locator("#production ~ .panel time").first
    expect(time.locator(".at")).to_contain_text("CET")
    expect(time.locator(".age")).to_contain_text("ago")
    assert (time.get_attribute("title") or "").endswith("UTC")


def test_plots_show_every_version_and_mark_changes_in_words(page: Page, sample: Gallery) -> None:
    page.goto(f"{sample.url}/models/{MODEL}/metrics?hours=168")
    expect(page.locator(".uplot canvas")).to_have_count(5)
    expect(page.locator(".uplot").first).to_contain_text("v2")
    marks = page.locator("#marks [data-text]").evaluate_all(
        "all => all.map(one => one.dataset.text)"
    )
    assert {"v4 live", "back to v2"} <= set(marks)


def test_copy_button_copies_the_endpoint_and_says_so(chromium: Browser, sample: Gallery) -> None:
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{sample.url}/models/{MODEL}")
    page.get_by_role("button", name="Copy URL").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied == page.locator("#endpoint").inner_text()
    context.close()


def test_shown_prediction_api_is_the_serving_containers_own() -> None:
    assert prediction_api.document() == openapi_document("Prediction API"), (
        "write functions/dashboard/serving_openapi.json anew: "
        "it is openapi_document('Prediction API') of the serving container"
    )


def test_examples_carry_the_endpoint_in_five_languages() -> None:
    examples = prediction_api.code_examples("https://model.example")
    assert [one.language for one in examples] == ["Python", "curl", "JavaScript", "Go", "Java"]
    for one in examples:
        assert "https://model.example" in one.code
        assert '{"customer_id": "C001234", "top_k": 10}' in one.code
