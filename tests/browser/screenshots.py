"""`python -m tests.browser.screenshots docs/screens`: every page, wide and narrow, light, dark."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.chromium import browser
from tests.browser.samples import Gallery, addresses, gallery
from tests.browser.shrinking import shrink

WIDTHS = {1280: 900, 390: 844}
TALLEST = 2600
SCHEMES = ("light", "dark")


def take(found: Gallery, folder: Path, names: set[str]) -> list[Path]:
    """Write NAME-WIDTH-SCHEME.png for each page; all of them where `names` is empty."""
    taken: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as started:
        for width, height in WIDTHS.items():
            for scheme in SCHEMES:
                context = started.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    locale="en-GB",
                    timezone_id="Europe/Berlin",
                    reduced_motion="reduce",
                )
                page = context.new_page()
                for name, address in addresses(found).items():
                    if names and name not in names:
                        continue
                    page.goto(found.url + address)
                    file = folder / f"{name}-{width}-{scheme}.png"
                    _shoot(page, file, width)
                    taken.append(file)
                context.close()
    return taken


def _shoot(page: Any, file: Path, width: int) -> None:
    page.wait_for_load_state("networkidle")
    tall = page.evaluate("() => document.documentElement.scrollHeight")
    page.screenshot(
        path=str(file),
        full_page=True,
        clip={"x": 0, "y": 0, "width": width, "height": min(tall, TALLEST)},
    )


def main() -> None:
    """Fill a dashboard, take the pictures."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/screens")
    with tempfile.TemporaryDirectory() as data, gallery(Path(data)) as found:
        taken = take(found, folder, set(sys.argv[2:]))
    for file in taken:
        shrink(file)


if __name__ == "__main__":
    main()
