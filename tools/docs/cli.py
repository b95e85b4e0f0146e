"""docs/reference/cli.md: the commands of `turnout`, from typer's own help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
import typer.main
from typer.cli import get_docs_for_click

from tools.docs.markdown import first_paragraph, generated
from turnout.cli import app


def page() -> str:
    """Return the page."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="turnout")
    with context:
        found = list(_helps(command))
        text = get_docs_for_click(obj=command, ctx=context, name="turnout")
    head, _, commands = text.partition("\n")
    introduction = generated("The command line", "turnout/cli.py", "").rstrip()
    for name, said in found:
        # The list of commands cuts their help after 45 characters.
        commands = re.sub(rf"^\* `{name}`: .*$", f"* `{name}`: {said}", commands, flags=re.M)
    # Indented examples in a docstring are code in Markdown already; blank lines pile up.
    body = re.sub(r"\n{3,}", "\n\n", commands).strip()
    assert head == "# `turnout`", head
    return f"{introduction}\n\n{body}\n"


def _helps(command: Any) -> Iterator[tuple[str, str]]:
    """Yield each command's name with the first paragraph of its help, groups' commands included."""
    for name, found in getattr(command, "commands", {}).items():
        yield name, first_paragraph(found.help)
        yield from _helps(found)
