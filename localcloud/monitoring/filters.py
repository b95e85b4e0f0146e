"""The part of Monitoring's filter language that is understood here.

    filter     = comparison { "AND" comparison }
    comparison = selector "=" value | "(" filter ")"
    selector   = "metric.type" | "resource.type" | ("metric" | "resource") ".labels." name

A value is a quoted string or a bare word. Everything else that the language has is refused
by its name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from localcloud.monitoring.errors import InvalidArgument, Unsupported
from localcloud.monitoring.series import METRIC_LABELS, RESOURCE_LABELS

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z0-9_./-]+)|(!=|<=|>=|=~|[()=<>:,!~]))')
_LABELS = {"metric": METRIC_LABELS, "resource": RESOURCE_LABELS}


def selector(text: str) -> str:
    """Return the one spelling of a selector; InvalidArgument when there is no such label."""
    if text in ("metric.type", "resource.type"):
        return text
    match = re.fullmatch(r"(metric|resource)\.labels?\.(\w+)", text)
    if match is None:
        raise Unsupported(f"the selector {text!r}")
    if match[2] not in _LABELS[match[1]]:
        raise InvalidArgument(
            f"{match[1]} has no label {match[2]!r}; it has {', '.join(_LABELS[match[1]])}"
        )
    return f"{match[1]}.labels.{match[2]}"


@dataclass
class _Parser:
    tokens: list[str]
    wanted: dict[str, str]

    def filter(self) -> None:
        self.comparison()
        while self.tokens and self.tokens[0] != ")":
            word = self.tokens.pop(0)
            if word != "AND":
                raise Unsupported(f"{word!r} in a filter (only AND joins comparisons)")
            self.comparison()

    def comparison(self) -> None:
        word = self.take("a comparison")
        if word == "(":
            self.filter()
            if self.take("a closing parenthesis") != ")":
                raise InvalidArgument("filter: a parenthesis is not closed")
            return
        if word == "NOT":
            raise Unsupported("NOT in a filter")
        left = selector(word)
        operator = self.take("an operator")
        if operator != "=":
            raise Unsupported(f"the operator {operator!r} in a filter")
        value = self.value()
        if self.wanted.setdefault(left, value) != value:
            raise InvalidArgument(f"filter: {left} cannot equal two values")

    def value(self) -> str:
        word = self.take("a value")
        if word in ("(", ")", "=", ",") or (self.tokens and self.tokens[0] == "("):
            raise Unsupported(f"{word!r} as a value in a filter (functions)")
        return str(json.loads(word)) if word.startswith('"') else word

    def take(self, what: str) -> str:
        if not self.tokens:
            raise InvalidArgument(f"filter ends where {what} should be")
        return self.tokens.pop(0)


def parse(text: str) -> dict[str, str]:
    """Return the values that a filter demands, by selector; it always has "metric.type"."""
    parser = _Parser(_tokens(text), {})
    parser.filter()
    if parser.tokens:
        raise InvalidArgument(f"filter: {parser.tokens[0]!r} is one too many")
    if "metric.type" not in parser.wanted:
        raise InvalidArgument('filter must name one metric: metric.type = "…"')
    return parser.wanted


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidArgument(f"filter: cannot read {text[position:]!r}")
        tokens.append(match[0].strip())
        position = match.end()
    return tokens
