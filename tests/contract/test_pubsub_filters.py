"""The filter language of subscriptions, which Google's emulator ignores: local only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.pubsub.errors import InvalidArgument
from localcloud.pubsub.filters import parse_filter

MOVIES = {"model": "movies", "kind": "training", "iana.org/lang": "en", "empty": ""}


@pytest.mark.parametrize(
    ("source", "matches"),
    [
        ("", True),
        ("attributes:model", True),
        ("attributes:empty", True),
        ("attributes:missing", False),
        ("NOT attributes:missing", True),
        ('attributes:"iana.org/lang"', True),
        ('attributes.model = "movies"', True),
        ('attributes.model="movies"', True),
        ('attributes.model = "Movies"', False),
        ('attributes.model != "books"', True),
        ('attributes.model != "movies"', False),
        ('attributes.missing != "movies"', True),
        ('attributes."iana.org/lang" = "en"', True),
        ('hasPrefix(attributes.model, "mov")', True),
        ('hasPrefix( attributes.model , "" )', True),
        ('hasPrefix(attributes.missing, "")', False),
        ('NOT hasPrefix(attributes.model, "b")', True),
        ('attributes:model AND attributes.kind = "training"', True),
        ('attributes:missing OR attributes.kind = "training"', True),
        ('attributes:missing OR NOT (attributes:model AND attributes:kind)', False),
        ('(attributes:missing OR attributes:kind) AND attributes:model', True),
        ("NOT(attributes:missing)AND(attributes:kind)", True),
        ('attributes:model AND attributes:kind AND attributes:missing', False),
        (r'attributes.model = "\u006dovies"', True),
        (r'attributes.model = "\x6dovies"', True),
        (r'attributes.model = "\155ovies"', True),
    ],
)  # fmt: skip
def test_filter_decides_by_attributes(source: str, matches: bool) -> None:
    assert parse_filter(source)(MOVIES) is matches


@pytest.mark.parametrize(
    "source",
    [
        "attributes",
        "attributes:",
        "attributes.model",
        "attributes.model = movies",
        "attributes.model = 'movies'",
        'attributes.model == "movies"',
        'attributes.model > "a"',
        'attributes.model = "movies',
        r'attributes.model = "\q"',
        'attributes.model:"movies"',
        'attribute.model = "movies"',
        'model = "movies"',
        'hasprefix(attributes.model, "m")',
        'hasPrefix(attributes.model "m")',
        'hasPrefix("m", attributes.model)',
        'hasSuffix(attributes.model, "s")',
        "attributes:a and attributes:b",
        "not attributes:a",
        "attributes:a attributes:b",
        "attributes:a AND",
        "AND attributes:a",
        "attributes:a AND attributes:b OR attributes:c",
        "attributes:a OR attributes:b AND attributes:c",
        "(attributes:a",
        "attributes:a)",
        "()",
        'attributes.a = ("b" OR "c")',
        'attributes.a = "' + "x" * 250 + '"',
    ],
)
def test_filter_outside_the_language_is_refused(source: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_filter(source)


KEYS = st.sampled_from(["a", "b-c", "d_e", "f.g h"])
VALUES = st.sampled_from(["", "x", "xy", 'say "x"', "back\\slash", "ü"])


@st.composite
def filters(draw: st.DrawFn, depth: int = 2) -> tuple[str, str]:
    """Return a filter and the same condition as a Python expression over `m`."""
    key = draw(KEYS)
    value = draw(VALUES)
    quoted_key = key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)
    quoted = json.dumps(value)
    leaves = [
        (f"attributes:{quoted_key}", f"({key!r} in m)"),
        (f"attributes.{quoted_key} = {quoted}", f"(m.get({key!r}) == {value!r})"),
        (f"attributes.{quoted_key}!={quoted}", f"(m.get({key!r}) != {value!r})"),
        (
            f"hasPrefix(attributes.{quoted_key}, {quoted})",
            f"({key!r} in m and m[{key!r}].startswith({value!r}))",
        ),
    ]
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(leaves))
    if draw(st.booleans()):
        source, python = draw(filters(depth - 1))
        return f"NOT ({source})", f"(not {python})"
    left, right = draw(filters(depth - 1)), draw(filters(depth - 1))
    operator = draw(st.sampled_from(["AND", "OR"]))
    return (
        f"({left[0]}) {operator} ({right[0]})",
        f"({left[1]} {operator.lower()} {right[1]})",
    )


@given(filters(), st.dictionaries(KEYS, VALUES))
def test_filter_means_what_its_parts_mean(
    both: tuple[str, str], attributes: dict[str, str]
) -> None:
    source, python = both
    if len(source.encode()) > 256:
        with pytest.raises(InvalidArgument):
            parse_filter(source)
    else:
        expected = eval(python, {"m": attributes})  # The test's own expression, not input.
        assert parse_filter(source)(attributes) == expected


@given(st.text(alphabet='attributes:.ANDORNT()="!\\x ,hPf', max_size=60))
def test_any_text_is_a_filter_or_refused(source: str) -> None:
    try:
        answer = parse_filter(source)(MOVIES)
    except InvalidArgument:
        return
    assert answer in (True, False)
