"""`python -m tools.docs` writes every generated page; `--check` only says which are stale."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.docs import api, cli, errors, messages, predictions, settings, states, terraform

ROOT = Path(__file__).parents[2]


def pages() -> dict[Path, str]:
    """Return the text of every generated page by its path below the project's folder."""
    reference = Path("docs/reference")
    return {
        reference / "messages.md": messages.page(),
        reference / "api.md": api.page(),
        reference / "cli.md": cli.page(),
        reference / "terraform.md": terraform.page(ROOT / "terraform"),
        reference / "errors.md": errors.page(),
        reference / "settings.md": settings.page(ROOT),
        Path("docs/states.svg"): states.drawing(),
        predictions.PAGE: predictions.filled((ROOT / predictions.PAGE).read_text()),
    }


def stale() -> list[Path]:
    """Return the generated pages that are not what the code says now."""
    return [
        path
        for path, text in pages().items()
        if not (ROOT / path).exists() or (ROOT / path).read_text() != text
    ]


def main() -> int:
    """Write the pages, or with `--check` name the stale ones; return the exit code."""
    found = stale()
    if "--check" in sys.argv:
        for path in found:
            print(f"{path} is stale: run make docs")
        return 1 if found else 0
    written = pages()
    for path in found:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(written[path])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
