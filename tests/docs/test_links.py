"""Every link of every page leads somewhere: pages, headings and pictures; addresses by form."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import requests

from tests.docs.pages import ROOT, anchors, links, pages, slug_of

EXTERNAL = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?(/\S*)?")


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    assert [found for link in links(page) if (found := what_is_wrong(page, link))] == []


def what_is_wrong(page: Path, link: str) -> str:
    """Return what is wrong with a link, "" for nothing."""
    if urlsplit(link).scheme:
        return "" if EXTERNAL.fullmatch(link) else f"{link}: not an https address"
    path, _, anchor = link.partition("#")
    target = (page.parent / unquote(path)).resolve() if path else page
    if not target.exists():
        return f"{link}: there is no {target}"
    if anchor and (target.suffix != ".md" or anchor not in anchors(target)):
        return f"{link}: {target.name} has no such heading"
    inside = page.is_relative_to(ROOT / "docs")
    if inside and not target.is_relative_to(ROOT / "docs"):
        return f"{link}: leaves docs/, so the site cannot follow it; name the file as code"
    return ""


@pytest.mark.parametrize(
    ("link", "says"),
    [
        pytest.param("missing.md", "there is no", id="no such page"),
        pytest.param("concepts.md#nothing-of-the-kind", "no such heading", id="no such heading"),
        pytest.param("../Makefile", "leaves docs/", id="out of the site"),
        pytest.param("http://example.com", "not an https", id="not https"),
        pytest.param("https://example", "not an https", id="no host"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(link: str, says: str) -> None:
    assert says in what_is_wrong(ROOT / "docs" / "README.md", link)


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Rollbacks: `python -m benchmarks.rollback`", "rollbacks-python--m-benchmarksrollback"),
        ("Bake, canary, verdict", "bake-canary-verdict"),
        ("POST /recommend-batch", "post-recommend-batch"),
        ("[A link](x.md) and code", "a-link-and-code"),
    ],
)
def test_anchors_are_made_as_github_does(heading: str, anchor: str) -> None:
    assert slug_of(heading) == anchor


def test_every_page_is_reached_from_the_index() -> None:
    reached, waiting = set(), [ROOT / "docs" / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                waiting.append(target)
    assert sorted(set(pages()) - reached - {ROOT / "README.md", ROOT / "examples/README.md"}) == []


@pytest.mark.skipif(not os.environ.get("ONLINE"), reason="make docs-check ONLINE=1 asks them")
def test_addresses_answer() -> None:
    addresses = {link for page in pages() for link in links(page) if urlsplit(link).scheme}
    assert [one for one in sorted(addresses) if not answers(one)] == []


def answers(address: str) -> bool:
    """Say whether somebody is there: some sites send programs away with 403 or 429."""
    try:
        found = requests.get(address, timeout=30, headers={"User-Agent": "turnout docs"})
    except requests.RequestException:
        return False
    return found.status_code < 400 or found.status_code in (403, 429)
