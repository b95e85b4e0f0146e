"""The meaning of expressions: what each operator accepts and gives."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Protocol

from localcloud.workflows import limits
from localcloud.workflows.errors import WorkflowError, failure
from localcloud.workflows.expressions import (
    Attribute,
    Binary,
    Call,
    Index,
    ListLiteral,
    Literal,
    Name,
    Node,
    Unary,
)
from localcloud.workflows.values import (
    INTEGER_MAX,
    INTEGER_MIN,
    Value,
    equal,
    is_number,
    type_name,
)


class Environment(Protocol):
    """What the names in an expression stand for."""

    def defines(self, name: str) -> bool:
        """Return whether `name` is a variable here."""
        ...

    def variable(self, name: str) -> Value:
        """Return a variable's value; KeyError (a workflow's) when it has none."""
        ...

    def constant(self, dotted: str) -> Value:
        """Return an object of the library, such as `http.default_retry`."""
        ...

    def call(self, function: str, arguments: Sequence[Value]) -> Value:
        """Call a function of the library or a subworkflow."""
        ...


def evaluate(node: Node, names: Environment) -> Value:
    """Return the value of an expression; WorkflowError with the documented tag otherwise."""
    match node:
        case Literal(value):
            return value
        case Name(name):
            return names.variable(name)
        case ListLiteral(items):
            return [evaluate(item, names) for item in items]
        case Attribute(Name(module), name) if not names.defines(module):
            return names.constant(f"{module}.{name}")
        case Attribute(target, name):
            return member(evaluate(target, names), name)
        case Index(target, key):
            return item_of(evaluate(target, names), evaluate(key, names))
        case Call(function, arguments):
            return names.call(function, [evaluate(argument, names) for argument in arguments])
        case Unary(symbol, operand):
            return _unary(symbol, evaluate(operand, names))
        case Binary("and" | "or" as symbol, left, right):
            return _logical(symbol, left, right, names)
        case Binary(symbol, left, right):
            return _BINARY[symbol](evaluate(left, names), evaluate(right, names))


def member(target: Value, name: str) -> Value:
    """Return `target.name`."""
    if not isinstance(target, dict):
        raise failure("TypeError", f'cannot read "{name}" of {type_name(target)}; it is not a map')
    if name not in target:
        raise failure("KeyError", f'key not found: "{name}"')
    return target[name]


def item_of(target: Value, key: Value) -> Value:
    """Return `target[key]` of a map or a list; negative indexes count for nothing."""
    if isinstance(target, dict):
        if not isinstance(key, str):
            raise failure("TypeError", f"a map's key is a string, not {type_name(key)}")
        return member(target, key)
    if isinstance(target, list):
        return target[list_index(target, key)]
    raise failure("TypeError", f"cannot index {type_name(target)}; it is neither a map nor a list")


def list_index(target: list[Value], key: Value) -> int:
    """Return `key` as an index that exists in `target`."""
    if not isinstance(key, int) or isinstance(key, bool):
        raise failure("TypeError", f"a list's index is an integer, not {type_name(key)}")
    if not 0 <= key < len(target):
        raise failure("IndexError", f"index {key} is out of range: the list has {len(target)}")
    return key


def checked_string(text: str) -> str:
    """Return `text` unless it is longer than a string may be."""
    if len(text) * 4 > limits.STRING_BYTES and len(text.encode()) > limits.STRING_BYTES:
        raise failure("ResourceLimitError", f"string longer than {limits.STRING_BYTES} bytes")
    return text


def checked_number(number: int | float) -> int | float:
    """Return `number` unless it leaves the range of a 64 bit integer."""
    if isinstance(number, int) and not INTEGER_MIN <= number <= INTEGER_MAX:
        raise failure("ValueError", "the result does not fit a 64 bit integer")
    return number


def _logical(symbol: str, left: Node, right: Node, names: Environment) -> bool:
    first = _boolean(symbol, evaluate(left, names))
    if first == (symbol == "or"):
        return first
    return _boolean(symbol, evaluate(right, names))


def _boolean(symbol: str, value: Value) -> bool:
    if not isinstance(value, bool):
        hint = '; "not" binds tighter than "in": write not(a in b)' if symbol == "not" else ""
        raise failure("TypeError", f'"{symbol}" needs booleans, got {type_name(value)}{hint}')
    return value


def _unary(symbol: str, value: Value) -> Value:
    if symbol == "not":
        return not _boolean("not", value)
    if not is_number(value):
        raise failure("TypeError", f'"-" needs a number, got {type_name(value)}')
    return checked_number(-value)


def _mismatch(symbol: str, left: Value, right: Value) -> WorkflowError:
    hint = "; convert with string()" if str in (type(left), type(right)) and symbol == "+" else ""
    return failure(
        "TypeError",
        f'"{symbol}" does not take {type_name(left)} and {type_name(right)}{hint}',
    )


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, str) and isinstance(right, str):
        return checked_string(left + right)
    return _arithmetic("+", operator.add)(left, right)


def _arithmetic(
    symbol: str, compute: Callable[[Value, Value], Value], divides: bool = False
) -> Callable[[Value, Value], Value]:
    def apply(left: Value, right: Value) -> Value:
        if not (is_number(left) and is_number(right)):
            raise _mismatch(symbol, left, right)
        if divides and right == 0:
            raise failure("ZeroDivisionError", f'"{symbol}" by zero')
        try:
            return checked_number(compute(left, right))
        except (OverflowError, ValueError):
            raise failure("ValueError", f'"{symbol}" has no result for these numbers') from None

    return apply


def _floor_division(left: Value, right: Value) -> Value:
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    return float(math.floor(left / right))


def _ordered(symbol: str, compare: Callable[[Value, Value], bool]) -> Callable[..., bool]:
    def apply(left: Value, right: Value) -> bool:
        if not (is_number(left) and is_number(right)) and not (
            isinstance(left, str) and isinstance(right, str)
        ):
            raise _mismatch(symbol, left, right)
        return compare(left, right)

    return apply


def _contains(element: Value, collection: Value) -> bool:
    if isinstance(collection, dict):
        return isinstance(element, str) and element in collection
    if isinstance(collection, list):
        return any(equal(element, item) for item in collection)
    raise failure("TypeError", f'"in" needs a map or a list, got {type_name(collection)}')


_BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "+": _add,
    "-": _arithmetic("-", operator.sub),
    "*": _arithmetic("*", operator.mul),
    "/": _arithmetic("/", operator.truediv, divides=True),
    "//": _arithmetic("//", _floor_division, divides=True),
    "%": _arithmetic("%", operator.mod, divides=True),
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "<": _ordered("<", operator.lt),
    "<=": _ordered("<=", operator.le),
    ">": _ordered(">", operator.gt),
    ">=": _ordered(">=", operator.ge),
    "in": _contains,
}
