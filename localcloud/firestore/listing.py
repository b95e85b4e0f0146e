"""ListDocuments and ListCollectionIds: pages of one moment."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from localcloud.firestore import fields, names
from localcloud.firestore.errors import InvalidArgument
from localcloud.firestore.messages import Document
from localcloud.firestore.query import Order, Query, Scope, complete_orders
from localcloud.firestore.store import Store

MAX_PAGE = 300


def parse_listing(request: Any) -> Query:
    """Return the query that lists a collection, or everything directly below a parent."""
    if request.show_missing and request.order_by:
        raise InvalidArgument("cannot specify an order when show_missing is true")
    names.parent_name(request.parent)
    if request.collection_id:
        names.check_id(request.collection_id)
    scope = Scope(request.parent, request.collection_id or None, all_descendants=False)
    return Query(scope, None, complete_orders(_parse_order_by(request.order_by)))


def with_missing(store: Store, query: Query, found: list[Any], at_us: int) -> list[Any]:
    """Add the documents that do not exist though documents exist below them, by name only."""
    parent, collection = query.scope.parent, query.scope.collection
    known = {document.name for document in found}
    depth = len(parent.split("/")) + 2
    for name in store.names_below(parent, at_us):
        parts = name.split("/")
        if collection is not None and parts[depth - 2] != collection:
            continue
        ancestor = "/".join(parts[:depth])
        if ancestor not in known:
            known.add(ancestor)
            found.append(Document(name=ancestor))
    return sorted(found, key=lambda document: names.sort_key(document.name))


def collection_ids(store: Store, parent: str, at_us: int) -> list[str]:
    """Return the ids of the collections directly below `parent`, in order."""
    names.parent_name(parent)
    depth = len(parent.split("/"))
    return sorted({name.split("/")[depth] for name in store.names_below(parent, at_us)})


class Page:
    """Where a page starts and the moment that all pages of a listing look at."""

    def __init__(self, request: Any) -> None:
        if request.page_size < 0:
            raise InvalidArgument("page size must not be negative")
        self.size = min(request.page_size or MAX_PAGE, MAX_PAGE)
        self.offset = 0
        self.at_us: int | None = None
        if request.page_token:
            self.at_us, self.offset = _parse_token(request.page_token)

    def cut(self, items: Sequence[Any], at_us: int) -> tuple[Sequence[Any], str]:
        """Return this page's items and the next page's token ("" after the last page)."""
        stop = self.offset + self.size
        is_last = stop >= len(items)
        return items[self.offset : stop], "" if is_last else _token(at_us, stop)


def _token(at_us: int, offset: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([at_us, offset]).encode()).decode()


def _parse_token(token: str) -> tuple[int, int]:
    try:
        at_us, offset = json.loads(base64.urlsafe_b64decode(token.encode()))
        return int(at_us), int(offset)
    except ValueError as broken:
        raise InvalidArgument("invalid page token") from broken


def _parse_order_by(text: str) -> list[Order]:
    orders = []
    for clause in filter(None, re.split(r"\s*,\s*", text.strip())):
        path, _, direction = clause.partition(" ")
        if direction.strip().lower() not in {"", "asc", "desc"}:
            raise InvalidArgument(f'invalid order by clause "{clause}"')
        is_descending = direction.strip().lower() == "desc"
        orders.append(Order(fields.parse_path(path), is_descending))
    return orders
