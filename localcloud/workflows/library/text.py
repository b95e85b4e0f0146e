"""Module text.

Regular expressions are RE2's. Python's `re` runs them, so what only Python knows is
refused; where alternatives overlap, RE2 may pick a longer match than Python does.
"""

from __future__ import annotations

import re
import urllib.parse

from localcloud.workflows.errors import failure
from localcloud.workflows.evaluate import checked_string
from localcloud.workflows.library.registry import expect, function
from localcloud.workflows.values import Value

_NOT_RE2 = re.compile(r"\\[1-9]|\(\?(?:=|!|<=|<!|>|#|P=|\()|[*+?}]\+|\\[ZG]")


@function("text.decode")
def decode(data: Value, charset: Value = "UTF-8") -> str:
    """Return bytes as a string."""
    _utf8(charset)
    try:
        return checked_string(expect(data, "data", "bytes").decode())
    except UnicodeDecodeError:
        raise failure("ValueError", "data is not UTF-8") from None


@function("text.encode")
def encode(data: Value, charset: Value = "UTF-8") -> bytes:
    """Return a string as bytes."""
    _utf8(charset)
    return bytes(expect(data, "data", "string").encode())


@function("text.find_all")
def find_all(source: Value, substr: Value) -> list[dict[str, Value]]:
    """Return `{index, match}` of each place where `substr` stands, none overlapping."""
    return _found(re.escape(expect(substr, "substr", "string")), source)


@function("text.find_all_regex")
def find_all_regex(source: Value, regexp: Value) -> list[dict[str, Value]]:
    """Return `{index, match}` of each match."""
    return _found(_re2(regexp), source)


@function("text.match_regex")
def match_regex(source: Value, regexp: Value) -> bool:
    """Return whether the expression matches anywhere."""
    return re.search(_re2(regexp), expect(source, "source", "string")) is not None


@function("text.replace_all")
def replace_all(source: Value, substr: Value, repl: Value) -> str:
    """Return `source` with each `substr` replaced."""
    return _replaced(re.escape(expect(substr, "substr", "string")), source, repl)


@function("text.replace_all_regex")
def replace_all_regex(source: Value, regexp: Value, repl: Value) -> str:
    """Return `source` with each match replaced; `repl` is taken as it stands."""
    return _replaced(_re2(regexp), source, repl)


@function("text.split")
def split(source: Value, separator: Value) -> list[str]:
    """Return the parts between separators; an empty one parts every character."""
    expect(source, "source", "string")
    return source.split(separator) if expect(separator, "separator", "string") else list(source)


@function("text.substring")
def substring(source: Value, start: Value, end: Value) -> str:
    """Return the characters from `start` up to, not including, `end`."""
    expect(source, "source", "string")
    expect(start, "start", "integer")
    if not 0 <= start <= expect(end, "end", "integer") <= len(source):
        raise failure("ValueError", f"{start} to {end} is not within the {len(source)} characters")
    return str(source[start:end])


@function("text.to_lower")
def to_lower(source: Value) -> str:
    """Return `source` in small letters."""
    return str(expect(source, "source", "string").lower())


@function("text.to_upper")
def to_upper(source: Value) -> str:
    """Return `source` in capitals."""
    return checked_string(expect(source, "source", "string").upper())


@function("text.url_encode")
def url_encode(source: Value) -> str:
    """Return `source` percent-encoded, a space as %20."""
    return checked_string(urllib.parse.quote(expect(source, "source", "string"), safe=""))


@function("text.url_encode_plus")
def url_encode_plus(source: Value) -> str:
    """Return `source` percent-encoded, a space as +."""
    return checked_string(urllib.parse.quote_plus(expect(source, "source", "string"), safe=""))


@function("text.url_decode")
def url_decode(source: Value) -> str:
    """Return what was percent-encoded; + is a space."""
    try:
        return urllib.parse.unquote_plus(expect(source, "source", "string"), errors="strict")
    except UnicodeDecodeError:
        raise failure("ValueError", "source does not decode to UTF-8") from None


def _utf8(charset: Value) -> None:
    if expect(charset, "charset", "string").upper() != "UTF-8":
        raise failure("ValueError", f"charset {charset!r} is not supported; only UTF-8 is")


def _re2(regexp: Value) -> str:
    expect(regexp, "regexp", "string")
    foreign = _NOT_RE2.search(regexp)
    if foreign:
        raise failure("ValueError", f"{foreign.group()!r} is not part of RE2's syntax")
    try:
        re.compile(regexp)
    except re.error as wrong:
        raise failure("ValueError", f"{regexp!r} is not a regular expression: {wrong}") from None
    return str(regexp)


def _found(pattern: str, source: Value) -> list[dict[str, Value]]:
    matches = re.finditer(pattern, expect(source, "source", "string"))
    return [{"index": match.start(), "match": match.group()} for match in matches]


def _replaced(pattern: str, source: Value, repl: Value) -> str:
    expect(repl, "repl", "string")
    return checked_string(re.sub(pattern, lambda _: repl, expect(source, "source", "string")))
