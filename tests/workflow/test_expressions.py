"""Expressions, each computed by an execution of the real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localcloud.workflows import SourceError
from localcloud.workflows.expressions import Node, ParseError, parse
from tests.workflow.running import Cloud, returning


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder: Path = tmp_path_factory.mktemp("expressions")
    with Cloud(folder, environment={"FUNCTIONS_URL": "http://functions"}) as running:
        yield running


VALUES: list[tuple[str, str, Any]] = [
    ("product_binds_tighter_than_sum", "2 + 3 * 4", 14),
    ("parentheses_bind_tightest", "(2 + 3) * 4", 20),
    ("subtraction_goes_from_left_to_right", "10 - 3 - 2", 5),
    ("minus_binds_tighter_than_product", "-2 * 3", -6),
    ("division_gives_a_double", "10 / 4", 2.5),
    ("floor_division_of_integers_gives_an_integer", "10 // 4", 2),
    ("floor_division_goes_down", "-10 // 4", -3),
    ("floor_division_of_doubles_gives_a_double", "7.5 // 2", 3.0),
    ("remainder_of_integers", "10 % 3", 1),
    ("integer_plus_double_is_double", "1 + 0.5", 1.5),
    ("strings_are_joined", '"a" + "b" + "c"', "abc"),
    ("string_escapes_are_read", r'"a\"b\\c\nd\u00e9"', 'a"b\\c\ndé'),
    ("integer_equals_its_double", "1 == 1.0", True),
    ("boolean_is_not_a_number", "true == 1", False),
    ("null_equals_only_null", "null == false", False),
    ("lists_are_equal_by_content", "[1, [2]] == [1.0, [2]]", True),
    ("strings_are_ordered", '"a" < "b"', True),
    ("element_in_list", "2 in [1, 2]", True),
    ("comparison_binds_tighter_than_and", "1 < 2 and 2 < 3", True),
    ("and_binds_tighter_than_or", "true or false and false", True),
    ("upper_case_logic", "NOT false AND TRUE OR FALSE", True),
    ("not_of_a_parenthesis", 'not("a" in ["b"])', True),
    ("and_stops_at_false", "false and 1 / 0 == 1", False),
    ("or_stops_at_true", "true or 1 / 0 == 1", True),
    ("list_literal", '[1, "two", [true, null]]', [1, "two", [True, None]]),
    ("empty_list", "[]", []),
    ("multi_line", '"a" +\n  "b"', "ab"),
    ("int_of_string", 'int("42")', 42),
    ("int_of_double_cuts", "int(-2.7)", -2),
    ("double_of_string", 'double("2.5")', 2.5),
    ("string_of_integer", "string(7)", "7"),
    ("string_of_boolean", "string(true)", "true"),
    ("len_counts_characters", 'len("añb")', 3),
    ("default_of_null", 'default(null, "x")', "x"),
    ("default_keeps_false", "default(false, true)", False),
    ("if_true", 'if(1 < 2, "yes", "no")', "yes"),
    ("if_null_is_false", 'if(null, "yes", "no")', "no"),
    ("get_type_of_double", "get_type(1.0)", "double"),
    ("get_type_of_null", "get_type(null)", "null"),
    ("get_type_of_bytes", 'get_type(text.encode("a"))', "bytes"),
    ("list_concat", "list.concat([1], 2)", [1, 2]),
    ("list_prepend", "list.prepend([1], 2)", [2, 1]),
    ("math_abs", "math.abs(-3)", 3),
    ("math_floor", "math.floor(-1.5)", -2),
    ("math_max_of_mixed_is_double", "math.max(1, 0.5)", 1.0),
    ("math_min", "math.min(1, 2)", 1),
    ("text_find_all", 'text.find_all("aXbX", "X")',
     [{"index": 1, "match": "X"}, {"index": 3, "match": "X"}]),
    ("text_find_all_regex", 'text.find_all_regex("a12b3", "[0-9]+")',
     [{"index": 1, "match": "12"}, {"index": 4, "match": "3"}]),
    ("text_match_regex", 'text.match_regex("v12", "^v[0-9]+$")', True),
    ("text_replace_all", 'text.replace_all("a.b.c", ".", "-")', "a-b-c"),
    ("text_replace_all_regex_takes_the_replacement_literally",
     r'text.replace_all_regex("one two", "one|two", "\\1")', r"\1 \1"),
    ("text_split", 'text.split("a/b/c", "/")', ["a", "b", "c"]),
    ("text_substring", 'text.substring("abcdef", 1, 3)', "bc"),
    ("text_to_upper", 'text.to_upper("ab")', "AB"),
    ("text_to_lower", 'text.to_lower("AB")', "ab"),
    ("text_url_encode", 'text.url_encode("a b/c+d")', "a%20b%2Fc%2Bd"),
    ("text_url_encode_plus", 'text.url_encode_plus("a b")', "a+b"),
    ("text_url_decode", 'text.url_decode("a%20b+c")', "a b c"),
    ("text_round_trip", 'text.decode(text.encode("é"))', "é"),
    ("json_round_trip", 'json.decode(json.encode_to_string([1, 2.5, null, "x"]))',
     [1, 2.5, None, "x"]),
    ("json_decode_of_bytes", r'json.decode(text.encode("{\"a\": 1}"))', {"a": 1}),
    ("json_with_indent", "json.encode_to_string([1], true)", "[\n    1\n]"),
    ("base64_encode", 'base64.encode(text.encode("Hello"))', "SGVsbG8="),
    ("base64_without_padding", 'base64.encode(text.encode("Hello"), false)', "SGVsbG8"),
    ("base64_decode", 'text.decode(base64.decode("SGVsbG8="))', "Hello"),
    ("checksum_as_documented",
     'base64.encode(hash.compute_checksum(text.encode("Hello World"), "SHA256"))',
     "pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4="),
    ("hmac_as_in_rfc_2202",
     'base64.encode(hash.compute_hmac(text.encode("Jefe"),'
     ' text.encode("what do ya want for nothing?"), "MD5"))',
     "dQx4PmqwtQPqqG4xCl23OA=="),
    ("uuid_has_36_characters", "len(uuid.generate())", 36),
    ("time_format_as_documented", "time.format(1720788633)", "2024-07-12T12:50:33.000000Z"),
    ("time_format_in_a_zone_as_documented", 'time.format(1720788633, "Europe/Paris")',
     "2024-07-12T14:50:33.000000+02:00"),
    ("time_parse", 'time.parse("2024-07-12T12:50:33.5Z")', 1720788633.5),
    ("now_is_the_clock", "sys.now()", 1767225600.0),
    ("env_project", 'sys.get_env("GOOGLE_CLOUD_PROJECT_ID")', "turnout-local"),
    ("env_location", 'sys.get_env("GOOGLE_CLOUD_LOCATION")', "europe-central2"),
    ("env_workflow", 'sys.get_env("GOOGLE_CLOUD_WORKFLOW_ID")', "test"),
    ("env_execution", 'len(sys.get_env("GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID"))', 36),
    ("env_of_the_user", 'sys.get_env("FUNCTIONS_URL")', "http://functions"),
    ("env_default", 'sys.get_env("NOT_SET", "fallback")', "fallback"),
    ("retry_policy_is_an_object", "http.default_retry.max_retries", 5),
    ("retry_backoff_is_an_object", "retry.default_backoff.multiplier", 1.25),
]  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "value"), [row[1:] for row in VALUES], ids=[r[0] for r in VALUES]
)
def test_expression_has_its_value(cloud: Cloud, expression: str, value: Any) -> None:
    computed = cloud.compute(expression)

    assert computed == value
    assert type(computed) is type(value)


OVER_VARIABLES: list[tuple[str, str, dict[str, Any], Any]] = [
    ("field", "m.a.b", {"m": {"a": {"b": 1}}}, 1),
    ("key", 'm["a b"]', {"m": {"a b": 2}}, 2),
    ("computed_key", 'm["k" + string(1)]', {"m": {"k1": 3}}, 3),
    ("index", "l[len(l) - 1]", {"l": [1, 2, 3]}, 3),
    ("key_in_map", '"a" in m', {"m": {"a": None}}, True),
    ("keys", "keys(m)", {"m": {"a": 1, "b": 2}}, ["a", "b"]),
    ("map_get_of_missing_is_null", 'map.get(m, "x")', {"m": {}}, None),
    ("map_get_of_a_path", 'map.get(m, ["a", "b"])', {"m": {"a": {"b": 1}}}, 1),
    ("map_get_of_null_is_null", 'map.get(m, "x")', {"m": None}, None),
    ("map_delete", 'map.delete(m, "a")', {"m": {"a": 1, "b": 2}}, {"b": 2}),
    ("map_merge", "map.merge(m, n)", {"m": {"a": 1, "b": 1}, "n": {"b": 2}}, {"a": 1, "b": 2}),
    ("map_merge_nested", "map.merge_nested(m, n)",
     {"m": {"x": {"a": 1, "b": 1}}, "n": {"x": {"b": 2}}}, {"x": {"a": 1, "b": 2}}),
    ("variable_named_like_a_module", "list.items", {"list": {"items": 1}}, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "variables", "value"),
    [row[1:] for row in OVER_VARIABLES],
    ids=[row[0] for row in OVER_VARIABLES],
)
def test_expression_over_variables_has_its_value(
    cloud: Cloud, expression: str, variables: dict[str, Any], value: Any
) -> None:
    assert cloud.compute(expression, **variables) == value


FAILURES: list[tuple[str, str, str, str]] = [
    ("string_plus_integer", '"n: " + 1', "TypeError", "convert with string()"),
    ("list_plus_list", "[1] + [2]", "TypeError", "list and list"),
    ("boolean_plus_integer", "true + 1", "TypeError", "boolean and integer"),
    ("division_by_zero", "1 / 0", "ZeroDivisionError", "by zero"),
    ("floor_division_by_zero", "1 // 0", "ZeroDivisionError", "by zero"),
    ("remainder_by_zero", "1 % 0", "ZeroDivisionError", "by zero"),
    ("not_of_a_string", 'not "a"', "TypeError", "needs booleans"),
    ("not_before_in_binds_to_the_element", 'not "a" in ["a"]', "TypeError", "write not(a in b)"),
    ("and_of_an_integer", "true and 1", "TypeError", "needs booleans"),
    ("order_of_null", "null < 1", "TypeError", "null and integer"),
    ("order_of_mixed", '"1" < 2', "TypeError", "string and integer"),
    ("in_of_a_string", '"a" in "abc"', "TypeError", "map or a list"),
    ("index_out_of_range", "[1][1]", "IndexError", "out of range"),
    ("negative_index", "[1][-1]", "IndexError", "out of range"),
    ("index_of_the_wrong_type", '[1]["0"]', "TypeError", "integer"),
    ("field_of_a_list", "[1].a", "TypeError", "not a map"),
    ("field_of_null", "default(null, null).x", "TypeError", "not a map"),
    ("int_of_text", 'int("4.5")', "ValueError", "not an integer"),
    ("double_of_text", 'double("x")', "ValueError", "not a double"),
    ("string_of_null", "string(null)", "TypeError", "not null"),
    ("len_of_integer", "len(1)", "TypeError", "not integer"),
    ("condition_that_is_text", 'if("x", 1, 2)', "TypeError", "boolean"),
    ("overflow", "9223372036854775807 + 1", "ValueError", "64 bit"),
    ("bad_json", 'json.decode("{")', "ValueError", "not JSON"),
    ("bad_base64", 'base64.decode("*")', "ValueError", "not Base64"),
    ("bad_regex", 'text.match_regex("a", "(")', "ValueError", "regular expression"),
    ("lookahead_is_not_re2", 'text.match_regex("a", "a(?=b)")', "ValueError", "RE2"),
    ("unknown_hash", 'hash.compute_checksum(text.encode("a"), "CRC")', "ValueError", "not one of"),
    ("hash_of_text", 'hash.compute_checksum("a", "MD5")', "TypeError", "must be bytes"),
    ("unset_environment", 'sys.get_env("NOT_SET")', "KeyError", "NOT_SET"),
    ("time_without_zone", 'time.parse("2024-07-12T12:50:33")', "ValueError", "no time zone"),
    ("substring_out_of_range", 'text.substring("abc", 2, 9)', "ValueError", "not within"),
    ("bytes_cannot_be_returned", 'text.encode("a")', "TypeError", "bytes cannot be encoded"),
    ("other_charset", 'text.encode("a", "latin1")', "ValueError", "UTF-8"),
]


@pytest.mark.parametrize(
    ("expression", "tag", "message"), [row[1:] for row in FAILURES], ids=[r[0] for r in FAILURES]
)
def test_expression_that_cannot_be_computed_raises_its_documented_error(
    cloud: Cloud, expression: str, tag: str, message: str
) -> None:
    raised, said = cloud.failure(expression)

    assert raised == tag
    assert message in said


def test_missing_key_of_a_map_raises_key_error(cloud: Cloud) -> None:
    assert cloud.failure("m.x", m={"a": 1}) == ("KeyError", 'key not found: "x"')


REFUSED: list[tuple[str, str, str]] = [
    ("unknown_variable", "nobody", "variable 'nobody' is not defined"),
    ("unknown_function", "text.shout(1)", "unknown function 'text.shout'"),
    ("undocumented_bool", "bool(1)", "unknown function 'bool'"),
    ("too_few_arguments", "text.split(1)", "misses its argument 'separator'"),
    ("too_many_arguments", "len(1, 2)", "takes 1 arguments, got 2"),
    ("blocking_function", "sys.sleep(1)", "sys.sleep blocks"),
    ("http_in_expression", 'http.get("http://x")', "http.get blocks"),
    ("connector", "googleapis.run.v2.get(1)", "connectors are not supported"),
    ("callback", 'events.create_callback_endpoint("GET")', "callbacks are not supported"),
    ("map_literal", '{"a": 1}', "map literals are not part of the expression language"),
    ("single_quotes", "'a'", "double quotes"),
    ("unfinished_string", '"a', "has no end"),
    ("unfinished_operator", "1 +", 'unexpected "the end"'.replace('"', "")),
    ("two_values", "1 2", 'unexpected "2"'),
    ("chained_comparison", "1 < 2 < 3", "cannot be chained"),
    ("not_in", "1 not in [1]", "write not(a in b)"),
    ("unknown_escape", r'"\d"', "not an escape sequence"),
    ("number_with_letters", "12ab", "is not a number"),
    ("python_power", "2 ** 3", 'unexpected "*"'),
    ("python_conditional", "1 if true else 2", 'unexpected "if"'),
    ("python_dunder_is_only_a_missing_name", "__import__", "not defined"),
    ("call_of_a_value", "[1](0)", "only a function name can be called"),
    ("empty", "", "unexpected the end"),
    ("too_long", '"' + "a" * 400 + '"', "over 400"),
    ("too_deep", "(" * 100 + "1" + ")" * 100, "nested more than"),
    ("big_integer", "9223372036854775808", "64 bit integer"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_expression_that_can_never_run_is_refused_when_loaded(
    cloud: Cloud, expression: str, message: str
) -> None:
    with pytest.raises(SourceError) as refused:
        cloud.deploy(returning(expression, {}))

    assert message in str(refused.value)
    assert 'step "answer"' in str(refused.value)
    assert "line 1" in str(refused.value)


def test_expression_of_400_characters_is_accepted(cloud: Cloud) -> None:
    text = '"' + "a" * 395 + '"'
    assert len(f"${{{text}}}") == 400

    assert cloud.compute(text) == "a" * 395


def test_expression_inside_a_longer_text_is_refused_with_the_way_to_write_it(cloud: Cloud) -> None:
    source = 'main: {params: [args], steps: [{answer: {return: "id ${args.x}"}}]}'

    with pytest.raises(SourceError, match="whole value"):
        cloud.deploy(source)


integers = st.integers(min_value=-(10**6), max_value=10**6)


@st.composite
def arithmetic(draw: st.DrawFn, depth: int = 3) -> tuple[str, int]:
    """Return the text of an integer expression without parentheses it needs not, and its value."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(min_value=0, max_value=999))
        return str(number), number
    left, a = draw(arithmetic(depth=depth - 1))
    right, b = draw(arithmetic(depth=depth - 1))
    symbol = draw(st.sampled_from("+-*"))
    value = {"+": a + b, "-": a - b, "*": a * b}[symbol]
    return f"({left}) {symbol} ({right})", value


@settings(max_examples=30, deadline=None)
@given(arithmetic())
def test_any_integer_arithmetic_agrees_with_its_value(cloud: Cloud, drawn: tuple[str, int]) -> None:
    text, value = drawn

    assert cloud.compute(text) == value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None)
@given(json_values)
def test_any_json_value_survives_argument_encoding_and_result(cloud: Cloud, value: Any) -> None:
    assert cloud.compute("json.decode(json.encode_to_string(x))", x=value) == value


def parsed_or_refused(text: str) -> Node | None:
    try:
        return parse(text)
    except ParseError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab01.,()[]"\\ +-*/%<>=!{}$\nandorti', max_size=40))
def test_any_text_is_parsed_or_refused_with_its_column(text: str) -> None:
    parsed_or_refused(text)
