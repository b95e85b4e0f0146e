"""The filter language of subscriptions: which attributes a message must have.

    filter     = term { "AND" term } | term { "OR" term }
    term       = [ "NOT" ] ( "(" filter ")" | comparison )
    comparison = "attributes" ":" key
               | "attributes" "." key ( "=" | "!=" ) string
               | "hasPrefix" "(" "attributes" "." key "," string ")"
    key        = letters, digits, "_" and "-", or a string

AND and OR do not mix without parentheses. `!=` is true for a message without the key.
Source: cloud.google.com/pubsub/docs/subscription-message-filter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from localcloud.pubsub.errors import InvalidArgument

Attributes = Mapping[str, str]
Matches = Callable[[Attributes], bool]

MAX_BYTES = 256

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:u(?P<u4>[0-9A-Fa-f]{4})|U(?P<u8>[0-9A-Fa-f]{8})|[xX](?P<hex>[0-9A-Fa-f]{2})"
    r"|(?P<octal>[0-3][0-7]{2})|(?P<one>.))",
    re.DOTALL,
)
_ONE_CHARACTER = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", '"': '"', "'": "'", "`": "`", "?": "?",
}  # fmt: skip


@lru_cache(maxsize=1024)
def parse_filter(source: str) -> Matches:
    """Return the predicate on a message's attributes that `source` describes.

    An empty filter matches every message. Raises InvalidArgument, naming the place, for
    anything outside the language or longer than 256 bytes.
    """
    if len(source.encode()) > MAX_BYTES:
        raise InvalidArgument(
            f"the filter has {len(source.encode())} bytes; at most {MAX_BYTES} are allowed"
        )
    if not source:
        return lambda _attributes: True
    return _Parser(source).whole()


class _Parser:
    """Reads a filter from left to right, one method a rule of the grammar."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def whole(self) -> Matches:
        matches = self._filter()
        self._skip_space()
        if self._at < len(self._source):
            raise self._error("AND, OR or the end")
        return matches

    def _filter(self) -> Matches:
        terms = [self._term()]
        operator = self._operator()
        while operator is not None:
            terms.append(self._term())
            following = self._operator()
            if following not in (operator, None):
                raise self._error(f"parentheses: {operator} and {following} cannot be mixed")
            if following is None:
                break
        if len(terms) == 1:
            return terms[0]
        combine = all if operator == "AND" else any
        return lambda attributes: combine(term(attributes) for term in terms)

    def _operator(self) -> str | None:
        return next((word for word in ("AND", "OR") if self._take_word(word)), None)

    def _term(self) -> Matches:
        if self._take_word("NOT"):
            negated = self._primary()
            return lambda attributes: not negated(attributes)
        return self._primary()

    def _primary(self) -> Matches:
        if self._take("("):
            inner = self._filter()
            self._expect(")")
            return inner
        if self._take_word("hasPrefix"):
            return self._prefix()
        if self._take_word("attributes"):
            return self._comparison()
        raise self._error("attributes, hasPrefix, NOT or (")

    def _prefix(self) -> Matches:
        self._expect("(")
        if not self._take_word("attributes"):
            raise self._error("attributes.KEY")
        self._expect(".")
        key = self._key()
        self._expect(",")
        prefix = self._string()
        self._expect(")")
        return lambda attributes: attributes[key].startswith(prefix) if key in attributes else False

    def _comparison(self) -> Matches:
        if self._take(":"):
            key = self._key()
            return lambda attributes: key in attributes
        self._expect(".")
        key = self._key()
        if self._take("!="):
            value = self._string()
            return lambda attributes: attributes.get(key) != value
        self._expect("=")
        value = self._string()
        return lambda attributes: attributes.get(key) == value

    def _key(self) -> str:
        self._skip_space()
        if self._source.startswith('"', self._at):
            return self._string()
        found = _WORD.match(self._source, self._at)
        if found is None:
            raise self._error("an attribute's key")
        self._at = found.end()
        return found[0]

    def _string(self) -> str:
        self._skip_space()
        found = _STRING.match(self._source, self._at)
        if found is None:
            raise self._error('a string in double quotes (")')
        text = _ESCAPE.sub(self._unescape, found[0][1:-1])
        self._at = found.end()
        return text

    def _unescape(self, escape: re.Match[str]) -> str:
        code = escape["u4"] or escape["u8"] or escape["hex"]
        if code or escape["octal"]:
            number = int(code, 16) if code else int(escape["octal"], 8)
            if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF:
                return chr(number)
        elif escape["one"] in _ONE_CHARACTER:
            return _ONE_CHARACTER[escape["one"]]
        raise self._error(f"a known escape sequence, not {escape[0]!r}")

    def _take(self, symbol: str) -> bool:
        self._skip_space()
        if not self._source.startswith(symbol, self._at):
            return False
        self._at += len(symbol)
        return True

    def _take_word(self, word: str) -> bool:
        self._skip_space()
        found = _WORD.match(self._source, self._at)
        if found is None or found[0] != word:
            return False
        self._at = found.end()
        return True

    def _expect(self, symbol: str) -> None:
        if not self._take(symbol):
            raise self._error(repr(symbol))

    def _skip_space(self) -> None:
        found = _SPACE.match(self._source, self._at)
        self._at = found.end() if found else self._at

    def _error(self, expected: str) -> InvalidArgument:
        return InvalidArgument(
            f"invalid filter at position {self._at + 1}, before {self._source[self._at :]!r}: "
            f"expected {expected} (filter={self._source!r})"
        )
