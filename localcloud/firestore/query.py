"""A structured query, checked once and then run over documents in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from localcloud.firestore import fields, filters, names, values
from localcloud.firestore.errors import FailedPrecondition, InvalidArgument, Unimplemented
from localcloud.firestore.messages import DESCENDING

MAX_INEQUALITY_FIELDS = 10


@dataclass(frozen=True)
class Scope:
    """Which documents a query starts from.

    `collection` None means every collection. With `all_descendants` the documents may lie
    at any depth below `parent`, otherwise directly in its collection.
    """

    parent: str
    collection: str | None
    all_descendants: bool

    def contains(self, name: names.DocumentName) -> bool:
        """Tell whether the document lies in this scope."""
        if self.collection is not None and name.collection != self.collection:
            return False
        if self.all_descendants:
            return name.full.startswith(f"{self.parent}/")
        return name.parent == self.parent


@dataclass(frozen=True)
class Order:
    """One sort criterion."""

    path: fields.Path
    descending: bool

    def key(self, document: Any) -> values.Key | None:
        """Return what the document sorts by, or None when it lacks the field."""
        if self.path == (fields.NAME,):
            return (values.REFERENCE, *names.sort_key(document.name))
        value = fields.lookup(document.fields, self.path)
        return None if value is None else values.sort_key(value)


@dataclass(frozen=True)
class Cursor:
    """A position between results: before or after the rows whose first keys are these."""

    keys: tuple[values.Key, ...]
    before: bool


@dataclass(frozen=True)
class Query:
    """A checked query; `orders` is complete, with the implied ones and __name__ last."""

    scope: Scope
    where: filters.Filter | None
    orders: tuple[Order, ...]
    start: Cursor | None = None
    end: Cursor | None = None
    offset: int = 0
    limit: int | None = None
    select: tuple[fields.Path, ...] | None = None
    present: tuple[fields.Path, ...] = ()

    def requiring(self, paths: Iterable[fields.Path]) -> Query:
        """Return the same query over only those documents that have all the fields."""
        return replace(self, present=tuple(paths))

    def run(self, documents: Iterable[Any]) -> list[Any]:
        """Return the matching documents in order, whole; `select` is the caller's to apply."""
        rows: list[tuple[list[Any], Any]] = []
        for document in documents:
            if self.where is not None and not self.where.matches(document):
                continue
            if any(fields.lookup(document.fields, path) is None for path in self.present):
                continue
            keys = [order.key(document) for order in self.orders]
            if None not in keys:
                rows.append((keys, document))
        # Stable sorts from the last criterion to the first give each its own direction.
        for index, order in reversed(list(enumerate(self.orders))):
            rows.sort(key=partial(_key_at, index), reverse=order.descending)
        inside = [document for keys, document in rows if self._is_between(keys)]
        stop = None if self.limit is None else self.offset + self.limit
        return inside[self.offset : stop]

    def _is_between(self, keys: list[Any]) -> bool:
        if self.start is not None:
            place = self._compare(keys, self.start)
            if place < 0 or (place == 0 and not self.start.before):
                return False
        if self.end is not None:
            place = self._compare(keys, self.end)
            return place < 0 or (place == 0 and not self.end.before)
        return True

    def _compare(self, keys: list[Any], cursor: Cursor) -> int:
        for order, key, bound in zip(self.orders, keys, cursor.keys, strict=False):
            if key != bound:
                return -1 if (key < bound) != order.descending else 1
        return 0


def _key_at(index: int, row: tuple[list[Any], Any]) -> Any:
    return row[0][index]


def parse_query(parent: str, message: Any) -> Query:
    """Return the checked query; InvalidArgument, FailedPrecondition or Unimplemented otherwise."""
    if message.HasField("find_nearest"):
        raise Unimplemented("StructuredQuery.find_nearest (vector search)")
    where = filters.parse_filter(message.where) if message.HasField("where") else None
    explicit = [_parse_order(order) for order in message.order_by]
    if message.offset < 0:
        raise InvalidArgument("offset is negative")
    limit = message.limit.value if message.HasField("limit") else None
    if limit is not None and limit < 0:
        raise InvalidArgument("limit is negative")
    orders = complete_orders(explicit, where)
    if _is_descending_key_scan(orders, where):
        raise FailedPrecondition("Firestore does not support descending key scans")
    return Query(
        scope=_parse_scope(parent, message),
        where=where,
        orders=orders,
        start=_parse_cursor(message.start_at, explicit) if message.HasField("start_at") else None,
        end=_parse_cursor(message.end_at, explicit) if message.HasField("end_at") else None,
        offset=message.offset,
        limit=limit,
        select=_parse_projection(message.select) if message.HasField("select") else None,
    )


def complete_orders(
    explicit: list[Order], where: filters.Filter | None = None
) -> tuple[Order, ...]:
    """Add the orders that Firestore implies: inequality fields by name, then __name__.

    Each takes the direction of the last explicit order.
    https://firebase.google.com/docs/firestore/query-data/multiple-range-fields
    """
    orders = list(explicit)
    descending = orders[-1].descending if orders else False
    seen = [order.path for order in orders]
    for path in seen:
        if seen.count(path) > 1:
            raise InvalidArgument(f"order by clause cannot contain duplicate fields {path}")
    unequal = {leaf.path for leaf in filters.leaves(where) if leaf.op in filters.INEQUALITIES}
    if len(unequal) > MAX_INEQUALITY_FIELDS:
        raise InvalidArgument(f"a query has at most {MAX_INEQUALITY_FIELDS} inequality fields")
    name = (fields.NAME,)
    implied = sorted(unequal - set(seen) - {name})
    if name in seen and (seen[-1] != name or implied):
        raise InvalidArgument("order by clause cannot contain more fields after the key")
    orders += [Order(path, descending) for path in implied]
    if name not in seen:
        orders.append(Order(name, descending))
    return tuple(orders)


def _is_descending_key_scan(orders: tuple[Order, ...], where: filters.Filter | None) -> bool:
    """Tell whether only names decide what is read, from the last one backwards."""
    name = (fields.NAME,)
    is_filtered = any(leaf.path != name for leaf in filters.leaves(where))
    return orders[0].path == name and orders[0].descending and not is_filtered


def _parse_scope(parent: str, message: Any) -> Scope:
    names.parent_name(parent)
    if len(message.from_) > 1:
        raise InvalidArgument("StructuredQuery.from cannot have more than one collection selector")
    if not message.from_:
        raise Unimplemented("StructuredQuery without a from clause")
    selector = message.from_[0]
    if selector.collection_id:
        names.check_id(selector.collection_id)
    return Scope(parent, selector.collection_id or None, selector.all_descendants)


def _parse_order(message: Any) -> Order:
    return Order(fields.parse_path(message.field.field_path), message.direction == DESCENDING)


def _parse_cursor(message: Any, orders: list[Order]) -> Cursor | None:
    if not message.values:
        return None
    if len(message.values) > len(orders):
        raise InvalidArgument("cursor has more values than the query has explicit orders")
    for order, value in zip(orders, message.values, strict=False):
        values.unsupported_in_query(value)
        is_reference = value.WhichOneof("value_type") == "reference_value"
        if order.path == (fields.NAME,) and not is_reference:
            raise InvalidArgument(f"a cursor on {fields.NAME} takes a document reference")
    return Cursor(tuple(values.sort_key(value) for value in message.values), message.before)


def _parse_projection(message: Any) -> tuple[fields.Path, ...] | None:
    return tuple(fields.parse_path(field.field_path) for field in message.fields) or None
