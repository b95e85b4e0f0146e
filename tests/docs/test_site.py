"""The site builds without a warning, leaves nothing out, and fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import ROOT

_FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(?:https?:)?//"
    r"|<link[^>]*\srel=[\"']?(?:stylesheet|preconnect|preload)[^>]*href=[\"']?(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//"
)


def build(folder: Path, *, whole: bool = True) -> subprocess.CompletedProcess[str]:
    """Build a site of `folder/docs` into `folder/site`, as `make docs` does."""
    config = folder / "mkdocs.yml"
    nav = "" if whole else "nav: [index.md, other.md]\n"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nsite_dir: site\n{nav}")
    return subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(config)],
        cwd=folder,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the warnings and where they are, without colours, pictures and the stack."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    return "\n".join(re.findall(r"Warning: .*|Error: .*|\[ \S+:\d+:\d+ \]", plain))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    done = build(folder)
    assert done.returncode == 0, said(done)
    return folder / "site"


def test_every_page_is_on_the_site_and_in_its_navigation(site: Path) -> None:
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    listed = set(_listed(yaml.unsafe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(pages ^ listed) == []
    built = [page.removesuffix(".md").replace("README", "index") + ".html" for page in pages]
    assert [page for page in built if not (site / page).exists()] == []


def _listed(found: object) -> list[str]:
    if isinstance(found, str):
        return [found]
    inner = found.values() if isinstance(found, dict) else found
    return [page for one in inner for page in _listed(one)]  # type: ignore[attr-defined]


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert [str(one) for one in files if _FETCHED.search(one.read_text())] == []


def test_no_fence_is_left_as_text(site: Path) -> None:
    assert [str(one) for one in site.rglob("*.html") if "<p>```" in one.read_text()] == []


@pytest.mark.parametrize(
    ("link", "fails"),
    [("other.md", False), ("missing.md", True), ("other.md#nothing", True)],
)
def test_a_broken_link_fails_the_build(tmp_path: Path, link: str, fails: bool) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Page\n\n[one]({link})\n")
    (docs / "other.md").write_text("# Other\n")
    (docs / "site.css").touch()
    done = build(tmp_path, whole=False)
    assert (done.returncode != 0) is fails, said(done)
