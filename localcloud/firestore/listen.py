"""Listening: the initial results of a target, then every change, in consistent snapshots.

Protocol: google.firestore.v1.Firestore.Listen. After a target's first results comes CURRENT;
a NO_CHANGE without target ids and with a read time says that all targets are as they were at
that moment. Resume tokens hold that moment, so a listener that returns gets the difference.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from localcloud.firestore import fields, names
from localcloud.firestore.errors import (
    FirestoreError,
    InvalidArgument,
    Unavailable,
    Unimplemented,
)
from localcloud.firestore.indexes import Indexes
from localcloud.firestore.messages import (
    ListenResponse,
    TargetChange,
    microseconds,
    refuse_unknown_fields,
    timestamp,
)
from localcloud.firestore.query import Query, parse_query
from localcloud.firestore.store import RETENTION_US, Commit, Store, version_of


class Matcher(Protocol):
    """What a target watches."""

    def may_match(self, name: names.DocumentName) -> bool:
        """Tell whether a change of this document can change the results."""
        ...

    def results(self, store: Store, at_us: int) -> dict[str, Any]:
        """Return the matching documents at a moment, by name, in order."""
        ...


@dataclass(frozen=True)
class DocumentsMatcher:
    """Named documents, which need not exist."""

    watched: tuple[str, ...]

    def may_match(self, name: names.DocumentName) -> bool:
        return name.full in self.watched

    def results(self, store: Store, at_us: int) -> dict[str, Any]:
        found = ((name, store.get(name, at_us)) for name in self.watched)
        return {name: document for name, document in found if document is not None}


@dataclass(frozen=True)
class QueryMatcher:
    """The results of a query."""

    query: Query

    def may_match(self, name: names.DocumentName) -> bool:
        return self.query.scope.contains(name)

    def results(self, store: Store, at_us: int) -> dict[str, Any]:
        found = self.query.run(store.scan(self.query.scope, at_us))
        return {d.name: fields.project(d, self.query.select) for d in found}


@dataclass
class WatchedTarget:
    """A target and what its listener has been told: the version of each document."""

    id: int
    matcher: Matcher
    sent: dict[str, tuple[str, int]] = field(default_factory=dict)


class ListenStream:
    """One Listen call. Requests arrive on a thread of their own, responses are an iterator."""

    def __init__(self, store: Store, indexes: Indexes | None) -> None:
        self._store = store
        self._indexes = indexes
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._targets: dict[int, WatchedTarget] = {}
        self._database: str | None = None
        self._assigns_ids: bool | None = None
        self._told_us = 0  # the moment up to which every target has been told everything

    def end(self, error: FirestoreError | None = None) -> None:
        """End the responses, with an error or without; from any thread, any number of times."""
        self._events.put(error or _END)

    def responses(self, requests: Iterator[Any]) -> Iterator[Any]:
        """Yield responses until the client ends its requests or `end` is called."""
        unsubscribe = self._store.subscribe(self._events.put)
        reader = threading.Thread(target=self._read, args=(requests,), daemon=True)
        reader.start()
        try:
            while (event := self._events.get()) is not _END:
                if isinstance(event, FirestoreError):
                    raise event
                if isinstance(event, Commit):
                    yield from self._follow(event)
                else:
                    yield from self._handle(event)
        finally:
            unsubscribe()

    def _read(self, requests: Iterator[Any]) -> None:
        # gRPC raises from the iterator, without a class of its own, when the client goes away.
        with contextlib.suppress(Exception):
            for request in requests:
                self._events.put(request)
        self._events.put(_END)

    def _handle(self, request: Any) -> Iterator[Any]:
        refuse_unknown_fields(request)
        names.check_database(request.database)
        if self._database not in (None, request.database):
            raise InvalidArgument("a Listen stream stays with one database")
        self._database = request.database
        which = request.WhichOneof("target_change")
        if which == "remove_target":
            if self._targets.pop(request.remove_target, None) is not None:
                yield _change(TargetChange.REMOVE, request.remove_target)
        elif which == "add_target":
            yield from self._add(request.add_target)
        else:
            raise InvalidArgument("a Listen request adds or removes a target")

    def _add(self, message: Any) -> Iterator[Any]:
        target_id = self._new_id(message.target_id)
        try:
            target = WatchedTarget(target_id, self._parse_matcher(message))
            at_us = self._store.now()
            resumed_us = _resume_time(message)
        except FirestoreError as refused:
            yield _change(TargetChange.ADD, target_id)
            yield _removed(target_id, refused)
            return
        self._targets[target_id] = target
        yield _change(TargetChange.ADD, target_id)
        if resumed_us is not None:
            if self._can_resume(target, message, resumed_us, at_us):
                target.sent = _versions(target.matcher.results(self._store, resumed_us))
            else:
                yield _change(TargetChange.RESET, target_id)
        yield from self._differences(target, at_us)
        if isinstance(target.matcher, DocumentsMatcher) and resumed_us is None:
            for name in target.matcher.watched:
                if name not in target.sent:
                    yield _deleted(name, target_id, at_us)
        yield _change(TargetChange.CURRENT, target_id, at_us)
        # The snapshot is of all targets, so the others must have reached the same moment.
        for other in self._targets.values():
            if other is not target:
                yield from self._differences(other, at_us)
        self._told_us = at_us
        yield _consistent(at_us)
        if message.once:
            del self._targets[target_id]
            yield _change(TargetChange.REMOVE, target_id)

    def _new_id(self, wanted: int) -> int:
        if wanted < 0 or wanted in self._targets:
            raise InvalidArgument(f"target id {wanted} is negative or already in use")
        if self._assigns_ids not in (None, wanted == 0):
            raise InvalidArgument("either all targets of a stream choose their id, or none")
        self._assigns_ids = wanted == 0
        return wanted or max(self._targets, default=0) + 1

    def _parse_matcher(self, message: Any) -> Matcher:
        which = message.WhichOneof("target_type")
        if which == "documents":
            for name in message.documents.documents:
                names.document_name(name, self._database)
            return DocumentsMatcher(tuple(message.documents.documents))
        if which != "query":
            raise InvalidArgument("a target has neither documents nor a query")
        if message.query.WhichOneof("query_type") != "structured_query":
            raise Unimplemented("a query target without a structured_query")
        if names.database_of(message.query.parent) != self._database:
            raise InvalidArgument(f'"{message.query.parent}" is not in database "{self._database}"')
        query = parse_query(message.query.parent, message.query.structured_query)
        if self._indexes is not None:
            self._indexes.check(query)
        return QueryMatcher(query)

    def _can_resume(self, target: WatchedTarget, message: Any, resumed_us: int, at_us: int) -> bool:
        if not at_us - RETENTION_US <= resumed_us <= at_us:
            return False
        if not message.HasField("expected_count"):
            return True
        then = target.matcher.results(self._store, resumed_us)
        return bool(len(then) == message.expected_count.value)

    def _follow(self, commit: Commit) -> Iterator[Any]:
        if commit.time_us <= self._told_us:
            return
        self._told_us = commit.time_us
        changed = [names.document_name(name) for name in commit.changed]
        is_changed = False
        for target in list(self._targets.values()):
            if any(target.matcher.may_match(name) for name in changed):
                for response in self._differences(target, commit.time_us):
                    is_changed = True
                    yield response
        if is_changed:
            yield _consistent(commit.time_us)

    def _differences(self, target: WatchedTarget, at_us: int) -> Iterator[Any]:
        """Yield what changed for a target since it was last told, and note it as told."""
        now = target.matcher.results(self._store, at_us)
        for name in [name for name in target.sent if name not in now]:
            del target.sent[name]
            document = self._store.get(name, at_us)
            yield (_deleted if document is None else _left)(name, target.id, at_us)
        for name, document in now.items():
            if target.sent.get(name) != version_of(document):
                target.sent[name] = version_of(document)
                response = ListenResponse()
                response.document_change.document.CopyFrom(document)
                response.document_change.target_ids.append(target.id)
                yield response


_END = object()


def _versions(results: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return {name: version_of(document) for name, document in results.items()}


def _resume_time(message: Any) -> int | None:
    which = message.WhichOneof("resume_type")
    if which == "read_time":
        return microseconds(message.read_time)
    if which == "resume_token" and message.resume_token:
        # A token that is not ours asks for a moment long past, which resets the target.
        return int(message.resume_token) if message.resume_token.isdigit() else 0
    return None


def _change(kind: int, target_id: int, at_us: int | None = None) -> Any:
    response = ListenResponse()
    response.target_change.target_change_type = kind
    response.target_change.target_ids.append(target_id)
    if at_us is not None:
        _stamp(response, at_us)
    return response


def _consistent(at_us: int) -> Any:
    response = ListenResponse()
    response.target_change.target_change_type = TargetChange.NO_CHANGE
    _stamp(response, at_us)
    return response


def _stamp(response: Any, at_us: int) -> None:
    response.target_change.read_time.CopyFrom(timestamp(at_us))
    response.target_change.resume_token = str(at_us).encode()


def _removed(target_id: int, cause: FirestoreError) -> Any:
    response = _change(TargetChange.REMOVE, target_id)
    response.target_change.cause.CopyFrom(Status(code=cause.code_number, message=str(cause)))
    return response


def _deleted(name: str, target_id: int, at_us: int) -> Any:
    response = ListenResponse()
    response.document_delete.document = name
    response.document_delete.removed_target_ids.append(target_id)
    response.document_delete.read_time.CopyFrom(timestamp(at_us))
    return response


def _left(name: str, target_id: int, at_us: int) -> Any:
    response = ListenResponse()
    response.document_remove.document = name
    response.document_remove.removed_target_ids.append(target_id)
    response.document_remove.read_time.CopyFrom(timestamp(at_us))
    return response


def stopping() -> FirestoreError:
    """Return what ends open streams when the service stops; clients connect again."""
    return Unavailable("the local Firestore is stopping")
