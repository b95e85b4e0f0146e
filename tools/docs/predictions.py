"""The five languages of docs/how-to/call-the-prediction-api.md: the dashboard's own examples."""

from __future__ import annotations

import re
from pathlib import Path

from functions.dashboard.prediction_api import code_examples

PAGE = Path("docs/how-to/call-the-prediction-api.md")
URL = "https://YOUR-MODELS-URL"
FENCES = {
    "Python": "python",
    "curl": "bash",
    "JavaScript": "javascript",
    "Go": "go",
    "Java": "java",
}
_BEGIN, _END = "<!-- examples: written by `make docs` -->\n", "<!-- end of examples -->\n"
_BETWEEN = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)


def filled(page: str) -> str:
    """Return the page with the examples between its two marks; ValueError without these."""
    if not _BETWEEN.search(page):
        raise ValueError(f"{PAGE} lacks the marks between which the examples are written")
    sections = [
        f"### {one.language}\n\n<!-- languages -->\n```{FENCES[one.language]}\n"
        f"{one.code.strip()}\n```\n"
        for one in code_examples(URL)
    ]
    body = _BEGIN + "\n" + "\n".join(sections) + "\n" + _END
    return _BETWEEN.sub(lambda _: body, page)
