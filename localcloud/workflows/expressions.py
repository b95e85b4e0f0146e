"""The grammar of `${...}`: a tokenizer and a Pratt parser to a small syntax tree.

Binding, tightest first (.../reference/syntax/datatypes, "Order of operations"):
()  .  []  not  unary -  * / // %  + -  comparisons and in  and  or.
Note that `not` binds tighter than `in`: it is `not("a" in b)`, never `not "a" in b`.
Map literals are not part of the documented grammar and are refused; lists are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from localcloud.workflows.values import INTEGER_MAX, Value

DEPTH = 60


class ParseError(Exception):
    """The text is not an expression; `column` counts from 1 within it."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"{message} (column {column} of the expression)")


@dataclass(frozen=True)
class Literal:
    """A number, string, boolean or null."""

    value: Value


@dataclass(frozen=True)
class ListLiteral:
    """`[a, b]`."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Name:
    """A variable, or a subworkflow named as a retry predicate."""

    name: str


@dataclass(frozen=True)
class Attribute:
    """`target.name`; of a module of the library it is an object such as `http.default_retry`."""

    target: Node
    name: str


@dataclass(frozen=True)
class Index:
    """`target[key]`."""

    target: Node
    key: Node


@dataclass(frozen=True)
class Call:
    """`function(arguments)`; `function` is the whole dotted name."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Unary:
    """`not operand` or `-operand`."""

    operator: str
    operand: Node


@dataclass(frozen=True)
class Binary:
    """`left operator right`."""

    operator: str
    left: Node
    right: Node


Node = Literal | ListLiteral | Name | Attribute | Index | Call | Unary | Binary

_OR, _AND, _COMPARE, _SUM, _PRODUCT, _MINUS, _NOT = range(1, 8)
_BINDING = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), _COMPARE),
    **dict.fromkeys(("+", "-"), _SUM),
    **dict.fromkeys(("*", "/", "//", "%"), _PRODUCT),
}
_KEYWORDS = {"and": "and", "AND": "and", "or": "or", "OR": "or", "not": "not", "NOT": "not"}
_KEYWORDS["in"] = "in"
_CONSTANTS: dict[str, Value] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    "null": None,
}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<number>\d+(?:\.\d+)?)(?![\w.])
    | (?P<name>[A-Za-z_]\w*)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<symbol>//|==|!=|<=|>=|[-+*/%<>()\[\],.])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_ESCAPES = {
    '"': '"', "\\": "\\", "/": "/", "'": "'",
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f",
}  # fmt: skip


@dataclass(frozen=True)
class _Token:
    kind: str  # number, name, string, keyword, symbol, end
    text: str
    column: int


def parse(text: str) -> Node:
    """Return the tree of an expression (the text between `${` and `}`); ParseError otherwise."""
    return _Parser(text).whole()


def parse_target(text: str) -> Node:
    """Return the tree of an assignment's left side, such as `a`, `a.b`, `a["k"][0]`."""
    node = parse(text)
    root = node
    while isinstance(root, Attribute | Index):
        root = root.target
    if not isinstance(root, Name):
        raise ParseError("only a variable, or a place inside one, can be assigned", 1)
    return node


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._expression(0)
        self._expect_end()
        return node

    def _expression(self, binding: int) -> Node:
        self._depth += 1
        if self._depth > DEPTH:
            raise ParseError(f"nested more than {DEPTH} levels deep", self._peek().column)
        left = self._postfix(self._prefix())
        while (operator := self._operator()) and _BINDING[operator.text] > binding:
            self._at += 1
            level = _BINDING[operator.text]
            left = Binary(operator.text, left, self._expression(level))
            following = self._operator()
            if level == _COMPARE and following and _BINDING[following.text] == _COMPARE:
                raise ParseError(
                    "comparisons cannot be chained; join them with and", operator.column
                )
        self._depth -= 1
        return left

    def _operator(self) -> _Token | None:
        token = self._peek()
        return token if token.kind in ("symbol", "keyword") and token.text in _BINDING else None

    def _prefix(self) -> Node:
        token = self._next()
        if token.kind == "number":
            return Literal(_number(token))
        if token.kind == "string":
            return Literal(_unquoted(token))
        if token.kind == "name":
            if token.text in _CONSTANTS:
                return Literal(_CONSTANTS[token.text])
            return Name(token.text)
        if token.text == "not" and token.kind == "keyword":
            return Unary("not", self._expression(_NOT))
        if token.text == "-":
            return Unary("-", self._expression(_MINUS))
        if token.text == "(":
            inner = self._expression(0)
            self._expect(")")
            return inner
        if token.text == "[":
            return ListLiteral(self._items("]"))
        raise _unexpected(token)

    def _postfix(self, node: Node) -> Node:
        while self._peek().kind == "symbol":
            token = self._peek()
            if token.text == ".":
                self._at += 1
                name = self._next()
                if name.kind not in ("name", "keyword"):
                    raise ParseError('a name must follow "."', name.column)
                node = Attribute(node, name.text)
            elif token.text == "[":
                self._at += 1
                node = Index(node, self._expression(0))
                self._expect("]")
            elif token.text == "(":
                self._at += 1
                node = Call(_dotted(node, token), self._items(")"))
            else:
                break
        return node

    def _items(self, closing: str) -> tuple[Node, ...]:
        items: list[Node] = []
        if self._peek().text != closing or self._peek().kind != "symbol":
            items.append(self._expression(0))
            while self._peek().text == "," and self._peek().kind == "symbol":
                self._at += 1
                items.append(self._expression(0))
        self._expect(closing)
        return tuple(items)

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _expect(self, symbol: str) -> None:
        token = self._next()
        if token.kind != "symbol" or token.text != symbol:
            raise ParseError(f'expected "{symbol}", found {_shown(token)}', token.column)

    def _expect_end(self) -> None:
        token = self._peek()
        if token.kind == "keyword" and token.text == "not":
            raise ParseError('there is no "not in"; write not(a in b)', token.column)
        if token.kind != "end":
            raise _unexpected(token)


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ParseError(_why_no_token(text, at), at + 1)
        kind = found.lastgroup or ""
        word = found.group()
        if kind == "name" and word in _KEYWORDS:
            yield _Token("keyword", _KEYWORDS[word], at + 1)
        elif kind != "space":
            yield _Token(kind, word, at + 1)
        at = found.end()
    yield _Token("end", "", len(text) + 1)


def _why_no_token(text: str, at: int) -> str:
    character = text[at]
    if character == '"':
        return "the string has no end"
    if character == "'":
        return "strings are written in double quotes"
    if character in "{}":
        return "map literals are not part of the expression language; assign a YAML map instead"
    if character.isdigit():
        return f"{re.match(r'[0-9.]*[^ ]?', text[at:]).group()!r} is not a number"  # type: ignore[union-attr]
    return f"unexpected character {character!r}"


def _number(token: _Token) -> int | float:
    if "." in token.text:
        return float(token.text)
    number = int(token.text)
    if number > INTEGER_MAX:
        raise ParseError(f"{token.text} does not fit a 64 bit integer", token.column)
    return number


def _unquoted(token: _Token) -> str:
    def replace(found: re.Match[str]) -> str:
        escape = found.group(1)
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        if escape not in _ESCAPES:
            raise ParseError(f"\\{escape} is not an escape sequence", token.column + found.start())
        return _ESCAPES[escape]

    return _ESCAPE.sub(replace, token.text[1:-1])


def _dotted(node: Node, token: _Token) -> str:
    parts: list[str] = []
    while isinstance(node, Attribute):
        parts.append(node.name)
        node = node.target
    if not isinstance(node, Name):
        raise ParseError("only a function name can be called", token.column)
    return ".".join([node.name, *reversed(parts)])


def _shown(token: _Token) -> str:
    return "the end" if token.kind == "end" else f'"{token.text}"'


def _unexpected(token: _Token) -> ParseError:
    return ParseError(f"unexpected {_shown(token)}", token.column)
