"""docs/reference/terraform.md: variables and outputs, read from the .tf files."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2

from shared.domain.policy import CanaryPolicy, HoldPolicy, SkewPolicy
from shared.messages import ModelDeclaration, Policy
from tools.docs.markdown import code, generated, one_line, table
from tools.docs.messages import sections

_HEREDOC = re.compile(r"^<<-?(\w+)\n(.*)\n\s*\1$", re.DOTALL)
_SHORT = 24
_WORDS = {
    "Canary": one_line(inspect.getdoc(CanaryPolicy) or ""),
    "Skew": one_line(inspect.getdoc(SkewPolicy) or ""),
    "Hold": one_line(inspect.getdoc(HoldPolicy) or ""),
    "Policy": one_line(inspect.getdoc(Policy) or ""),
}


def page(folder: Path) -> str:
    """Return the page for all .tf files of `folder`."""
    variables = list(_blocks(folder, "variable"))
    outputs = list(_blocks(folder, "output"))
    return "\n".join(
        [
            generated(
                "Terraform",
                "terraform/*.tf and shared/messages.py",
                "What an installation says about itself, in `terraform/terraform.tfvars` or a "
                "file beside it; and what it says back (`terraform output`).",
            ),
            "## Variables\n",
            table(["Variable", "Type", "Default", "Meaning"], map(_variable, variables)),
            "## Outputs\n",
            table(
                ["Output", "Meaning"],
                [
                    [code(name), _text(block.get("description", '""')) + _secret(block)]
                    for name, block in outputs
                ],
            ),
            "## A model\n",
            "One entry of the map `models`; its key is the `model_id`. `image` and "
            "`service_account` may be left out in Terraform: `turnout-serving` stands for "
            "`serving_image`, and `serving` for the account that all models share. The same file, "
            "`terraform/models.auto.tfvars.json`, is what the local cloud reads. The defaults "
            "here are the code's; what is checked at `terraform plan` is checked once more when "
            "the declaration is read.\n",
            *sections(ModelDeclaration, words=_WORDS),
        ]
    )


def _blocks(folder: Path, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(folder.glob("*.tf")):
        text = file.read_text()
        # Parsing takes its time, and few files have any.
        found: Mapping[str, Any] = hcl2.loads(text) if f'{kind} "' in text else {}
        for block in found.get(kind, []):
            for name, inner in block.items():
                yield name.strip('"'), inner


def _variable(item: tuple[str, dict[str, Any]]) -> list[str]:
    name, block = item
    kind = one_line(str(block.get("type", "any"))).removeprefix("${").removesuffix("}")
    shown = kind if len(kind) <= _SHORT else f"{kind[: kind.index('(')]}(…)"
    return [code(name), code(shown), _default(block), _text(block.get("description", '""'))]


def _default(block: Mapping[str, Any]) -> str:
    if "default" not in block:
        return "required"
    found = block["default"]
    if isinstance(found, dict):
        return code("{}") if not found else "see the file"
    if isinstance(found, str):
        return code(found)
    return code(json.dumps(found).replace('\\"', "").replace('""', '"'))


def _text(quoted: str) -> str:
    inner = quoted.strip('"')
    heredoc = _HEREDOC.match(inner)
    return one_line(textwrap.dedent(heredoc[2]) if heredoc else inner.replace('\\"', '"'))


def _secret(block: Mapping[str, Any]) -> str:
    return " (sensitive: not printed)" if block.get("sensitive") is True else ""
