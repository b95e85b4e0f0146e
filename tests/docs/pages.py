"""The project's Markdown pages: their fences, links, headings and inline code.

What a fence of commands is checked by is said in a comment above it, which readers do not see:

    <!-- live -->                run against a local cloud, by tests/e2e/test_docs.py
    <!-- cloud -->               needs a Google Cloud project: checked against the tools' own help
    <!-- long -->                is the test run, or longer than it: checked in the same way
    <!-- covered-by: FILE::NAME -->     another test runs it; that test must exist

Without one it is run, so it may only hold commands that are quick and change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = frozenset({"bash", "sh", "shell"})
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)(?P=ticks) *$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"<!-- *(?P<kind>[a-z-]+)(?:: *(?P<more>[^>]*?))? *-->\s*\Z")
_LINK = re.compile(r"(?<!\\)!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+(?:\([^()]*\))?)\)")
_AUTOLINK = re.compile(r"<(https?://[^>]+)>")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Fence:
    """A block of code: its page, the line it begins at, its language and what checks it."""

    page: Path
    line: int
    language: str
    body: str
    kind: str = ""
    more: str = ""

    @property
    def where(self) -> str:
        """`docs/concepts.md:12`, for people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def pages() -> tuple[Path, ...]:
    """Return every page that people read."""
    return (ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md")))


@cache
def fences(page: Path) -> tuple[Fence, ...]:
    """Return a page's blocks of code, in their order."""
    text = page.read_text()
    return tuple(_fence(page, text, found) for found in _FENCE.finditer(text))


def all_fences(*languages: str) -> list[Fence]:
    """Return all blocks in one of these languages."""
    return [one for page in pages() for one in fences(page) if one.language in languages]


def links(page: Path) -> Iterator[str]:
    """Yield where a page's links and pictures lead."""
    text = _CODE.sub("", _without_fences(page))
    yield from (found["target"] for found in _LINK.finditer(text))
    yield from _AUTOLINK.findall(text)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    seen: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(_without_fences(page)):
        slug = slug_of(heading)
        number = seen.get(slug, 0)
        seen[slug] = number + 1
        found.add(f"{slug}-{number}" if number else slug)
    return frozenset(found)


def slug_of(heading: str) -> str:
    """Return a heading's anchor: letters, digits, hyphens and underscores of its text."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def inline_code(page: Path) -> Iterator[str]:
    """Yield what stands between single backquotes, outside of blocks."""
    yield from _CODE.findall(_without_fences(page))


def commands(body: str) -> list[str]:
    """Return a block's commands: lines joined where they end in a backslash, no comments."""
    joined = re.sub(r"\\\n\s*", " ", body)
    lines = (re.sub(r"(^|\s)#(\s.*)?$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def _without_fences(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def _fence(page: Path, text: str, found: re.Match[str]) -> Fence:
    indent = found["indent"]
    body = re.sub(rf"^{indent}", "", found["body"], flags=re.MULTILINE)
    mark = _MARK.search(text[: found.start()])
    return Fence(
        page,
        text.count("\n", 0, found.start()) + 1,
        found["info"].strip().split(" ")[0],
        body,
        mark["kind"] if mark else "",
        (mark["more"] or "").strip() if mark else "",
    )
