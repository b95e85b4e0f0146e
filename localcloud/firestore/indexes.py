"""Which queries the real service would refuse for want of an index.

Google's emulator checks none, so a missing index shows up in production only. Given the
project's `firestore.indexes.json`, this refuses such queries at once.

Format: https://firebase.google.com/docs/reference/firestore/indexes
Rules: https://firebase.google.com/docs/firestore/query-data/index-overview
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud.firestore import fields, filters
from localcloud.firestore.errors import FailedPrecondition
from localcloud.firestore.query import Order, Query

ASCENDING, DESCENDING, CONTAINS = "ASCENDING", "DESCENDING", "CONTAINS"
COLLECTION, COLLECTION_GROUP = "COLLECTION", "COLLECTION_GROUP"
_CONTAINS_OPS = {filters.ARRAY_CONTAINS, filters.ARRAY_CONTAINS_ANY}
_EQUALITY_OPS = {filters.EQUAL, filters.IN, filters.IS_NULL, filters.IS_NAN}
_INFORMATIVE = {"density": "SPARSE_ALL", "apiScope": "ANY_API"}

Part = tuple[fields.Path, str]  # a field and ASCENDING, DESCENDING or CONTAINS


@dataclass(frozen=True)
class Index:
    """One index; `parts` ends with __name__, as every index does."""

    collection: str
    scope: str
    parts: tuple[Part, ...]


class Indexes:
    """The indexes that a project has declared, besides the automatic single-field ones."""

    def __init__(self, path: Path) -> None:
        """Read `firestore.indexes.json`; ValueError on anything in it that is not understood."""
        declared = json.loads(path.read_text())
        _only(declared, {"indexes", "fieldOverrides"}, str(path))
        self._composite = [_parse_index(entry) for entry in declared.get("indexes", [])]
        self._overrides = dict(_parse_override(o) for o in declared.get("fieldOverrides", []))

    def check(self, query: Query, aggregated: Sequence[fields.Path] = ()) -> None:
        """Raise FailedPrecondition, naming the index to add, when one is missing.

        `aggregated` are the fields that sum and avg read.
        """
        if query.scope.collection is None:
            return
        scope = COLLECTION_GROUP if query.scope.all_descendants else COLLECTION
        for conjunction in filters.conjunctions(query.where):
            needed = _Need(query.scope.collection, scope, conjunction, query.orders, aggregated)
            if not needed.is_met_by(self._candidates(needed)):
                raise FailedPrecondition(
                    "The query requires an index that firestore.indexes.json does not declare. "
                    f"Add to {needed.remedy()}"
                )

    def _candidates(self, needed: _Need) -> Iterable[Index]:
        for index in self._composite:
            if (index.collection, index.scope) == (needed.collection, needed.scope):
                yield index
        for path in needed.fields():
            for kind in self._single_field(needed, path):
                yield Index(needed.collection, needed.scope, _with_name(((path, kind),)))

    def _single_field(self, needed: _Need, path: fields.Path) -> set[str]:
        # Only collections are indexed by themselves; a group's field needs an override.
        automatic = {(COLLECTION, kind) for kind in (ASCENDING, DESCENDING, CONTAINS)}
        everywhere = self._overrides.get((needed.collection, ("*",)), automatic)
        kinds = self._overrides.get((needed.collection, path), everywhere)
        return {kind for scope, kind in kinds if scope == needed.scope}


class _Need:
    """What one conjunction of a query asks of the indexes.

    The rows come from one index, or from several joined: each starts with some of the
    equality fields, in any order, and ends with the sort orders; together they cover all
    the equality fields.
    """

    def __init__(
        self,
        collection: str,
        scope: str,
        conjunction: Sequence[filters.Leaf],
        orders: Sequence[Order],
        aggregated: Sequence[fields.Path],
    ) -> None:
        self.collection, self.scope = collection, scope
        name = (fields.NAME,)
        contains = {leaf.path for leaf in conjunction if leaf.op in _CONTAINS_OPS}
        equal = {leaf.path for leaf in conjunction if leaf.op in _EQUALITY_OPS} - {name}
        self.equal: frozenset[Part] = frozenset(
            {(path, CONTAINS) for path in contains} | {(path, ASCENDING) for path in equal}
        )
        # An equality field has one value: sorting by it sorts nothing.
        tail = [(o.path, _direction(o)) for o in orders if o.path not in equal]
        ordered = {path for path, _ in tail}
        default = tail[-2][1] if len(tail) > 1 else ASCENDING
        extra = [(p, default) for p in dict.fromkeys(aggregated) if p not in ordered | equal]
        self.tail: tuple[Part, ...] = (*tail[:-1], *extra, *tail[-1:])

    def fields(self) -> set[fields.Path]:
        """Return every field that an index of this need may have, except __name__."""
        return {path for path, _ in (*self.equal, *self.tail)} - {(fields.NAME,)}

    def is_met_by(self, indexes: Iterable[Index]) -> bool:
        if not self.equal and len(self.tail) == 1:
            return True  # every collection can be read in the order of its names
        # With nothing but __name__ to sort by, either direction of reading will do.
        reverse = tuple((path, _opposite(kind)) for path, kind in self.tail)
        covered: set[Part] = set()
        is_found = False
        for index in indexes:
            split = len(index.parts) - len(self.tail)
            if split < 0 or index.parts[split:] not in (self.tail, reverse):
                continue
            prefix = {
                (path, CONTAINS if kind == CONTAINS else ASCENDING)
                for path, kind in index.parts[:split]
            }
            if prefix <= self.equal:
                is_found = True
                covered |= prefix
        return is_found and covered >= self.equal

    def remedy(self) -> str:
        """Return the JSON to add, and where."""
        parts = [*sorted(self.equal), *self.tail]
        if parts[-1] == _with_name(tuple(parts[:-1]))[-1]:
            parts.pop()
        if len(parts) == 1:
            path, kind = parts[0]
            entry: dict[str, Any] = {
                "collectionGroup": self.collection,
                "fieldPath": fields.format_path(path),
                "indexes": [{"queryScope": self.scope, **_kind_json(kind)}],
            }
            return f"fieldOverrides: {json.dumps(entry)}"
        entry = {
            "collectionGroup": self.collection,
            "queryScope": self.scope,
            "fields": [
                {"fieldPath": fields.format_path(path), **_kind_json(kind)} for path, kind in parts
            ],
        }
        return f"indexes: {json.dumps(entry)}"


def _direction(order: Order) -> str:
    return DESCENDING if order.descending else ASCENDING


def _opposite(kind: str) -> str:
    return {ASCENDING: DESCENDING, DESCENDING: ASCENDING}[kind]


def _with_name(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Append __name__ in the direction of the last field, unless it is there."""
    name = (fields.NAME,)
    if parts and parts[-1][0] == name:
        return parts
    is_descending = bool(parts) and parts[-1][1] == DESCENDING
    return (*parts, (name, DESCENDING if is_descending else ASCENDING))


def _kind_json(kind: str) -> dict[str, str]:
    return {"arrayConfig": kind} if kind == CONTAINS else {"order": kind}


def _parse_index(entry: dict[str, Any]) -> Index:
    where = f"index {json.dumps(entry)}"
    _only(entry, {"collectionGroup", "queryScope", "fields", *_INFORMATIVE}, where)
    for key, only in _INFORMATIVE.items():
        if entry.get(key, only) != only:
            raise ValueError(f"{where}: {key} {entry[key]!r} is not supported")
    parts = []
    for part in entry["fields"]:
        _only(part, {"fieldPath", "order", "arrayConfig"}, where)
        parts.append((fields.parse_path(part["fieldPath"]), _parse_kind(part, where)))
    if len(parts) < 2:
        raise ValueError(f"{where}: an index of one field belongs in fieldOverrides")
    scope = _parse_scope(entry.get("queryScope", COLLECTION), where)
    return Index(entry["collectionGroup"], scope, _with_name(tuple(parts)))


def _parse_override(
    entry: dict[str, Any],
) -> tuple[tuple[str, fields.Path], set[tuple[str, str]]]:
    where = f"field override {json.dumps(entry)}"
    _only(entry, {"collectionGroup", "fieldPath", "indexes", "ttl"}, where)
    kinds = set()
    for index in entry["indexes"]:
        _only(index, {"queryScope", "order", "arrayConfig"}, where)
        scope = _parse_scope(index.get("queryScope", COLLECTION), where)
        kinds.add((scope, _parse_kind(index, where)))
    text = entry["fieldPath"]
    path = ("*",) if text == "*" else fields.parse_path(text)
    return (entry["collectionGroup"], path), kinds


def _parse_kind(entry: dict[str, Any], where: str) -> str:
    kind = entry.get("order") or entry.get("arrayConfig")
    allowed = {ASCENDING, DESCENDING} if "order" in entry else {CONTAINS}
    if kind not in allowed or ("order" in entry) == ("arrayConfig" in entry):
        raise ValueError(f"{where}: a field has an order or an arrayConfig, not {kind!r}")
    return str(kind)


def _parse_scope(scope: str, where: str) -> str:
    if scope not in (COLLECTION, COLLECTION_GROUP):
        raise ValueError(f"{where}: queryScope {scope!r} is not supported")
    return scope


def _only(entry: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := set(entry) - known:
        raise ValueError(f"{where}: {', '.join(sorted(unknown))} is not supported")
