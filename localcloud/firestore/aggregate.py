"""count, sum and avg over a query's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localcloud.firestore import fields, values
from localcloud.firestore.errors import InvalidArgument
from localcloud.firestore.messages import Value

MAX_AGGREGATIONS = 5
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Aggregation:
    """One aggregation: `operator` is count, sum or avg; `path` its field, None for count."""

    alias: str
    operator: str
    path: fields.Path | None
    up_to: int | None = None

    def over(self, documents: Sequence[Any]) -> Any:
        """Return the aggregate as a Value."""
        if self.path is None:
            count = len(documents)
            return Value(integer_value=count if self.up_to is None else min(count, self.up_to))
        numbers = [
            found
            for document in documents
            if (value := fields.lookup(document.fields, self.path)) is not None
            and (found := values.number(value)) is not None
        ]
        return _sum(numbers) if self.operator == "sum" else _average(numbers)


def parse_aggregations(messages: Sequence[Any]) -> list[Aggregation]:
    """Return the checked aggregations; those without an alias are named field_1, field_2, …"""
    if not messages:
        raise InvalidArgument("aggregations cannot be empty")
    if len(messages) > MAX_AGGREGATIONS:
        raise InvalidArgument(f"a query has at most {MAX_AGGREGATIONS} aggregations")
    parsed: list[Aggregation] = []
    unnamed = 0
    for message in messages:
        unnamed += not message.alias
        parsed.append(_parse(message, message.alias or f"field_{unnamed}"))
    aliases = [aggregation.alias for aggregation in parsed]
    if len(set(aliases)) < len(aliases):
        raise InvalidArgument(f"aggregation aliases are not distinct: {aliases}")
    return parsed


def _parse(message: Any, alias: str) -> Aggregation:
    operator = message.WhichOneof("operator")
    if operator is None:
        raise InvalidArgument("an aggregation has no operator set")
    if operator == "count":
        up_to = message.count.up_to.value if message.count.HasField("up_to") else None
        if up_to is not None and up_to <= 0:
            raise InvalidArgument("count.up_to must be greater than zero")
        return Aggregation(alias, operator, None, up_to)
    return Aggregation(
        alias, operator, fields.parse_path(getattr(message, operator).field.field_path)
    )


def _sum(numbers: Sequence[int | float]) -> Any:
    total = sum(numbers)
    if isinstance(total, int):
        # A sum of integers that leaves 64 bits is answered as a double.
        fits = total in _INT64
        return Value(integer_value=total) if fits else Value(double_value=float(total))
    return Value(double_value=total)


def _average(numbers: Sequence[int | float]) -> Any:
    if not numbers:
        return Value(null_value=0)
    return Value(double_value=sum(numbers) / len(numbers))
