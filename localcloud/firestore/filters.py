"""The `where` of a query: its tree of filters, checked, as something that answers yes or no.

Rules: https://firebase.google.com/docs/firestore/query-data/queries#query_limitations
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from localcloud.firestore import fields, names, values
from localcloud.firestore.errors import InvalidArgument
from localcloud.firestore.messages import CompositeFilter, FieldFilter, UnaryFilter

MAX_DISJUNCTIONS = 30
MAX_NOT_IN = 10

EQUAL, IN = "EQUAL", "IN"
ARRAY_CONTAINS, ARRAY_CONTAINS_ANY = "ARRAY_CONTAINS", "ARRAY_CONTAINS_ANY"
NOT_EQUAL, NOT_IN = "NOT_EQUAL", "NOT_IN"
IS_NULL, IS_NAN = "IS_NULL", "IS_NAN"
IS_NOT_NULL, IS_NOT_NAN = "IS_NOT_NULL", "IS_NOT_NAN"
RANGES = {"LESS_THAN", "LESS_THAN_OR_EQUAL", "GREATER_THAN", "GREATER_THAN_OR_EQUAL"}
NEGATIONS = {NOT_EQUAL, NOT_IN, IS_NOT_NULL, IS_NOT_NAN}
INEQUALITIES = RANGES | NEGATIONS
_LISTS = {IN: MAX_DISJUNCTIONS, ARRAY_CONTAINS_ANY: MAX_DISJUNCTIONS, NOT_IN: MAX_NOT_IN}
_MULTIPLE = {IN, ARRAY_CONTAINS_ANY}


@dataclass(frozen=True)
class Leaf:
    """One comparison; `keys` are the sort keys of its operand or operands."""

    path: fields.Path
    op: str
    keys: tuple[values.Key, ...] = ()

    def matches(self, document: Any) -> bool:
        if self.path == (fields.NAME,):
            return self._holds((values.REFERENCE, *names.sort_key(document.name)))
        value = fields.lookup(document.fields, self.path)
        if value is None:
            return False
        if self.op in _UNARY_TESTS:
            return _UNARY_TESTS[self.op](value)
        if self.op in {ARRAY_CONTAINS, ARRAY_CONTAINS_ANY}:
            if values.type_of(value) != values.ARRAY:
                return False
            elements = value.array_value.values
            return any(self._equal(values.sort_key(element)) for element in elements)
        return self._holds(values.sort_key(value))

    def _holds(self, key: values.Key) -> bool:
        if self.op in NEGATIONS:
            return key[0] != values.NULL and _NULL_KEY not in self.keys and not self._equal(key)
        if self.op in {EQUAL, IN}:
            return self._equal(key)
        bound = self.keys[0]
        # A range stays inside the type of its bound, and nothing is in a range with NaN.
        if bound[0] != key[0] or not _is_comparable(bound) or not _is_comparable(key):
            return False
        if self.op == "LESS_THAN":
            return key < bound
        if self.op == "LESS_THAN_OR_EQUAL":
            return key <= bound
        return key > bound if self.op == "GREATER_THAN" else key >= bound

    def _equal(self, key: values.Key) -> bool:
        return _is_comparable(key) and key in self.keys


@dataclass(frozen=True)
class Node:
    """AND or OR over at least one filter."""

    is_or: bool
    children: tuple[Filter, ...]

    def matches(self, document: Any) -> bool:
        if self.is_or:
            return any(child.matches(document) for child in self.children)
        return all(child.matches(document) for child in self.children)


Filter = Leaf | Node

_NULL_KEY: values.Key = (values.NULL,)
_NAN_KEY: values.Key = (values.NUMBER, 0)
_UNARY_TESTS: dict[str, Callable[[Any], bool]] = {
    IS_NULL: values.is_null,
    IS_NAN: values.is_nan,
    IS_NOT_NULL: lambda value: not values.is_null(value),
    IS_NOT_NAN: lambda value: not values.is_nan(value) and not values.is_null(value),
}


def parse_filter(message: Any) -> Filter | None:
    """Return a query's filter, checked as a whole; None when it filters nothing."""
    found = _parse(message)
    if found is not None:
        _check_combination(found)
    return found


def leaves(tree: Filter | None) -> Iterator[Leaf]:
    """Yield every comparison in the tree."""
    if isinstance(tree, Leaf):
        yield tree
    elif tree is not None:
        for child in tree.children:
            yield from leaves(child)


def conjunctions(tree: Filter | None) -> list[list[Leaf]]:
    """Return the tree as an OR of ANDs; lists of operands are not spread out."""
    if tree is None:
        return [[]]
    if isinstance(tree, Leaf):
        return [[tree]]
    parts = [conjunctions(child) for child in tree.children]
    if tree.is_or:
        return [conjunction for part in parts for conjunction in part]
    combined: list[list[Leaf]] = [[]]
    for part in parts:
        combined = [[*left, *right] for left in combined for right in part]
    return combined


def _is_comparable(key: values.Key) -> bool:
    return key not in (_NULL_KEY, _NAN_KEY)


def _parse(message: Any) -> Filter | None:
    which = message.WhichOneof("filter_type")
    if which == "composite_filter":
        return _parse_composite(message.composite_filter)
    if which == "field_filter":
        return _parse_comparison(message.field_filter)
    if which == "unary_filter":
        return _parse_unary(message.unary_filter)
    raise InvalidArgument("a filter has no type set")


def _parse_composite(message: Any) -> Filter | None:
    if message.op not in (CompositeFilter.AND, CompositeFilter.OR):
        raise InvalidArgument("unsupported CompositeFilter operator")
    children = tuple(child for part in message.filters if (child := _parse(part)) is not None)
    if len(children) < 2:
        return children[0] if children else None
    return Node(message.op == CompositeFilter.OR, children)


def _parse_unary(message: Any) -> Leaf:
    path = fields.parse_path(message.field.field_path)
    op = UnaryFilter.Operator.Name(message.op)
    if op not in _UNARY_TESTS:
        raise InvalidArgument("unknown UnaryFilter operator")
    if path == (fields.NAME,):
        raise InvalidArgument(f"{op} cannot be asked of {fields.NAME}")
    return Leaf(path, op)


def _parse_comparison(message: Any) -> Leaf:
    path = fields.parse_path(message.field.field_path)
    op = FieldFilter.Operator.Name(message.op)
    if op not in _LISTS and op not in RANGES and op not in {EQUAL, NOT_EQUAL, ARRAY_CONTAINS}:
        raise InvalidArgument("unknown FieldFilter operator")
    values.unsupported_in_query(message.value)
    operands = _operands(message.value, op)
    if path == (fields.NAME,):
        _check_name_operands(op, operands)
    return Leaf(path, op, tuple(values.sort_key(operand) for operand in operands))


def _operands(value: Any, op: str) -> Sequence[Any]:
    if op not in _LISTS:
        return [value]
    if value.WhichOneof("value_type") != "array_value":
        raise InvalidArgument(f"'{op}' requires an ArrayValue")
    listed = list(value.array_value.values)
    if not listed:
        raise InvalidArgument(f"'{op}' requires a non-empty ArrayValue")
    if len(listed) > _LISTS[op]:
        raise InvalidArgument(f"'{op}' supports up to {_LISTS[op]} comparison values")
    return listed


def _check_name_operands(op: str, operands: Sequence[Any]) -> None:
    if op in {ARRAY_CONTAINS, ARRAY_CONTAINS_ANY}:
        raise InvalidArgument(f"{op} cannot be asked of {fields.NAME}")
    for operand in operands:
        if operand.WhichOneof("value_type") != "reference_value":
            raise InvalidArgument(f"{fields.NAME} is compared with document references only")
        names.check_reference(operand.reference_value)


def _check_combination(tree: Filter) -> None:
    found = list(leaves(tree))
    ops = [leaf.op for leaf in found]
    if sum(op in NEGATIONS for op in ops) > 1:
        raise InvalidArgument(
            "only a single NOT_EQUAL, NOT_IN, IS_NOT_NAN or IS_NOT_NULL filter is allowed per query"
        )
    if NOT_IN in ops and (_MULTIPLE & set(ops) or _has_or(tree)):
        raise InvalidArgument("NOT_IN cannot be used with IN, ARRAY_CONTAINS_ANY or OR")
    for conjunction in conjunctions(tree):
        # The same filter twice is one filter.
        if sum(leaf.op in {ARRAY_CONTAINS, ARRAY_CONTAINS_ANY} for leaf in set(conjunction)) > 1:
            raise InvalidArgument("a maximum of 1 ARRAY_CONTAINS filter is allowed per disjunction")
    if _disjunctions(tree) > MAX_DISJUNCTIONS:
        raise InvalidArgument(f"the query has more than {MAX_DISJUNCTIONS} disjunctions")


def _has_or(tree: Filter) -> bool:
    return isinstance(tree, Node) and (tree.is_or or any(map(_has_or, tree.children)))


def _disjunctions(tree: Filter) -> int:
    if isinstance(tree, Leaf):
        return len(tree.keys) if tree.op in _MULTIPLE else 1
    parts = [_disjunctions(child) for child in tree.children]
    return sum(parts) if tree.is_or else prod(parts)
