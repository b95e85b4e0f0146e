"""The Firestore service (google.firestore.v1.Firestore) over one folder."""

from __future__ import annotations

import secrets
import string
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from localcloud.firestore import fields, names
from localcloud.firestore.admin import Admin
from localcloud.firestore.aggregate import parse_aggregations
from localcloud.firestore.claims import key_of_scope
from localcloud.firestore.errors import FirestoreError, InvalidArgument, NotFound, Unimplemented
from localcloud.firestore.indexes import Indexes
from localcloud.firestore.listen import ListenStream, stopping
from localcloud.firestore.listing import Page, collection_ids, parse_listing, with_missing
from localcloud.firestore.messages import Write, message_class, timestamp
from localcloud.firestore.query import Query, parse_query
from localcloud.firestore.reads import Reading, reading
from localcloud.firestore.store import Store, versions_of
from localcloud.firestore.transactions import Transactions
from localcloud.firestore.transport import SERVICE, bidirectional, left_out, streaming, unary
from localcloud.firestore.writes import check_write, check_writes

_CLEANING_S = 60.0
_ID_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 20


class Firestore:
    """Documents, transactions, queries and listeners, kept in `folder`.

    With `indexes` (a `firestore.indexes.json`), queries that the real service would refuse
    for want of a composite index are refused with FAILED_PRECONDITION. `monotonic` tells
    seconds, for the expiry of transactions.
    """

    def __init__(
        self,
        folder: Path,
        indexes: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = Store(folder / "firestore.sqlite")
        self._indexes = None if indexes is None else Indexes(indexes)
        self._transactions = Transactions(self._store, monotonic)
        self._streams: set[ListenStream] = set()
        self._streams_lock = threading.Lock()
        self._stopped = threading.Event()
        self._cleaner: threading.Thread | None = None

    def start(self) -> None:
        """Begin forgetting versions that no read may look at any more."""
        self._cleaner = threading.Thread(target=self._clean, name="firestore-cleaner", daemon=True)
        self._cleaner.start()

    def stop(self) -> None:
        """End open listeners (they connect again elsewhere) and the background thread."""
        self._stopped.set()
        with self._streams_lock:
            for stream in self._streams:
                stream.end(stopping())
        if self._cleaner is not None:
            self._cleaner.join()
        self._store.close()

    def grpc_handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return what a gRPC server needs to answer as Firestore, and as its Admin API.

        The server must accept messages of 10 MiB; gRPC's own default is 4 MiB.
        """
        handlers = {
            "GetDocument": unary("GetDocumentRequest", "Document", self._get_document),
            "ListDocuments": unary(
                "ListDocumentsRequest", "ListDocumentsResponse", self._list_documents
            ),
            "CreateDocument": unary("CreateDocumentRequest", "Document", self._create_document),
            "UpdateDocument": unary("UpdateDocumentRequest", "Document", self._update_document),
            "DeleteDocument": unary("DeleteDocumentRequest", "", self._delete_document),
            "BatchGetDocuments": streaming(
                "BatchGetDocumentsRequest", "BatchGetDocumentsResponse", self._batch_get_documents
            ),
            "BeginTransaction": unary(
                "BeginTransactionRequest", "BeginTransactionResponse", self._begin_transaction
            ),
            "Commit": unary("CommitRequest", "CommitResponse", self._commit),
            "Rollback": unary("RollbackRequest", "", self._rollback),
            "RunQuery": streaming("RunQueryRequest", "RunQueryResponse", self._run_query),
            "RunAggregationQuery": streaming(
                "RunAggregationQueryRequest",
                "RunAggregationQueryResponse",
                self._run_aggregation_query,
            ),
            "Listen": bidirectional("ListenRequest", "ListenResponse", self._listen),
            "ListCollectionIds": unary(
                "ListCollectionIdsRequest", "ListCollectionIdsResponse", self._list_collection_ids
            ),
            "BatchWrite": unary("BatchWriteRequest", "BatchWriteResponse", self._batch_write),
            "PartitionQuery": unary(
                "PartitionQueryRequest", "PartitionQueryResponse", left_out("PartitionQuery")
            ),
            "ExecutePipeline": streaming(
                "ExecutePipelineRequest", "ExecutePipelineResponse", left_out("ExecutePipeline")
            ),
            "Write": bidirectional("WriteRequest", "WriteResponse", left_out("Write")),
        }
        documents = grpc.method_handlers_generic_handler(SERVICE, handlers)
        return [documents, Admin(self._store).grpc_handler()]

    # Documents

    def _get_document(self, request: Any) -> Any:
        name = names.document_name(request.name)
        found = self._reading(name.database, request, [name.full]).document(name.full)
        if found is None:
            raise NotFound(f'document "{name.full}" not found')
        return _masked(found, request)

    def _batch_get_documents(self, request: Any) -> Iterator[Any]:
        response_class = message_class("BatchGetDocumentsResponse")
        database = names.check_database(request.database)
        wanted = list(dict.fromkeys(request.documents))
        for name in wanted:
            names.document_name(name, database)
        where = self._reading(database, request, wanted)
        if where.is_new and where.transaction is not None:
            yield response_class(transaction=where.transaction.id)
        for name in wanted:
            response = response_class(read_time=timestamp(where.at_us))
            found = where.document(name)
            if found is None:
                response.missing = name
            else:
                response.found.CopyFrom(_masked(found, request))
            yield response

    def _create_document(self, request: Any) -> Any:
        names.parent_name(request.parent)
        collection = names.check_id(request.collection_id)
        document_id = request.document_id or _new_id()
        write = Write(update=request.document)
        write.update.name = f"{request.parent}/{collection}/{document_id}"
        write.current_document.exists = False
        return self._write_one(write, request)

    def _update_document(self, request: Any) -> Any:
        write = Write(update=request.document)
        for field in ("update_mask", "current_document"):
            if request.HasField(field):
                getattr(write, field).CopyFrom(getattr(request, field))
        return self._write_one(write, request)

    def _delete_document(self, request: Any) -> Any:
        write = Write(delete=request.name)
        if request.HasField("current_document"):
            write.current_document.CopyFrom(request.current_document)
        self._transactions.commit_alone([check_write(write)])
        return Empty()

    def _write_one(self, message: Any, request: Any) -> Any:
        checked = check_write(message)
        done = self._transactions.commit_alone([checked])
        written = self._store.get(checked.name.full, done.time_us)
        return _masked(written, request)

    # Writes and transactions

    def _begin_transaction(self, request: Any) -> Any:
        database = names.check_database(request.database)
        begun = self._transactions.begin(database, request.options)
        return message_class("BeginTransactionResponse")(transaction=begun.id)

    def _commit(self, request: Any) -> Any:
        database = names.check_database(request.database)
        if request.transaction:
            # Found before its writes are looked at: a commit ends its transaction either way.
            self._transactions.find(database, request.transaction)
        try:
            writes = check_writes(request.writes, database)
        except FirestoreError:
            if request.transaction:
                self._transactions.roll_back(database, request.transaction)
            raise
        if request.transaction:
            done = self._transactions.commit(database, request.transaction, writes)
        else:
            done = self._transactions.commit_alone(writes)
        return message_class("CommitResponse")(
            write_results=done.results, commit_time=timestamp(done.time_us)
        )

    def _rollback(self, request: Any) -> Any:
        database = names.check_database(request.database)
        self._transactions.roll_back(database, request.transaction)
        return Empty()

    def _batch_write(self, request: Any) -> Any:
        database = names.check_database(request.database)
        writes = check_writes(request.writes, database)
        if len({write.name.full for write in writes}) < len(writes):
            raise InvalidArgument(
                "the same document cannot be written more than once in a single request"
            )
        response = message_class("BatchWriteResponse")()
        for write in writes:
            result, status = response.write_results.add(), response.status.add()
            try:
                result.CopyFrom(self._transactions.commit_alone([write]).results[0])
            except FirestoreError as refused:
                status.code, status.message = refused.code_number, str(refused)
        return response

    # Queries

    def _run_query(self, request: Any) -> Iterator[Any]:
        response_class = message_class("RunQueryResponse")
        query = self._parse_query(request, request.structured_query)
        where = self._query_reading(request, query)
        if where.is_new and where.transaction is not None:
            yield response_class(transaction=where.transaction.id)
        found = where.query(query.scope, self._runner(query), versions_of)
        for position, document in enumerate(found):
            yield response_class(
                document=fields.project(document, query.select),
                read_time=timestamp(where.at_us),
                skipped_results=0 if position else query.offset,
                **({"done": True} if position == len(found) - 1 else {}),
            )
        if not found:
            yield response_class(read_time=timestamp(where.at_us), done=True)

    def _run_aggregation_query(self, request: Any) -> Iterator[Any]:
        response_class = message_class("RunAggregationQueryResponse")
        message = request.structured_aggregation_query
        aggregations = parse_aggregations(message.aggregations)
        paths = [a.path for a in aggregations if a.path is not None]
        # Aggregations come from indexes, which hold only documents that have all the fields.
        query = self._parse_query(request, message.structured_query, paths).requiring(paths)
        where = self._query_reading(request, query)
        if where.is_new and where.transaction is not None:
            yield response_class(transaction=where.transaction.id)
        found = where.query(query.scope, self._runner(query), versions_of)
        response = response_class(read_time=timestamp(where.at_us))
        for aggregation in aggregations:
            value = aggregation.over(found)
            response.result.aggregate_fields[aggregation.alias].CopyFrom(value)
        yield response

    def _parse_query(self, request: Any, message: Any, aggregated: Sequence[Any] = ()) -> Query:
        if request.HasField("explain_options"):
            raise Unimplemented("explain_options")
        query = parse_query(request.parent, message)
        if self._indexes is not None:
            self._indexes.check(query, aggregated)
        return query

    def _query_reading(self, request: Any, query: Query) -> Reading:
        database = names.database_of(request.parent)
        return self._reading(database, request, [key_of_scope(query.scope)])

    def _runner(self, query: Query) -> Callable[[int], list[Any]]:
        return lambda at_us: query.run(self._store.scan(query.scope, at_us))

    # Listings

    def _list_documents(self, request: Any) -> Any:
        query = parse_listing(request)
        page = Page(request)
        if page.at_us is not None and not request.WhichOneof("consistency_selector"):
            where = Reading(self._store, self._store.check_read_time(page.at_us))
        else:
            where = self._query_reading(request, query)

        def run(at_us: int) -> list[Any]:
            found = query.run(self._store.scan(query.scope, at_us))
            if request.show_missing:
                found = with_missing(self._store, query, found, at_us)
            return found

        found = where.query(query.scope, run, versions_of)
        items, token = page.cut(found, where.at_us)
        return message_class("ListDocumentsResponse")(
            documents=[_masked(document, request) for document in items], next_page_token=token
        )

    def _list_collection_ids(self, request: Any) -> Any:
        page = Page(request)
        if page.at_us is not None:
            at_us = self._store.check_read_time(page.at_us)
        else:
            at_us = self._reading(names.database_of(request.parent), request, ()).at_us
        found = collection_ids(self._store, request.parent, at_us)
        ids, token = page.cut(found, at_us)
        return message_class("ListCollectionIdsResponse")(collection_ids=ids, next_page_token=token)

    # Listeners

    def _listen(self, requests: Iterator[Any]) -> Iterator[Any]:
        stream = ListenStream(self._store, self._indexes)
        with self._streams_lock:
            if self._stopped.is_set():
                raise stopping()
            self._streams.add(stream)
        try:
            yield from stream.responses(requests)
        finally:
            with self._streams_lock:
                self._streams.discard(stream)

    def _reading(self, database: str, request: Any, keys: Iterable[str]) -> Reading:
        return reading(self._store, self._transactions, database, request, keys)

    def _clean(self) -> None:
        while not self._stopped.is_set():
            self._store.forget_old_versions()
            self._stopped.wait(_CLEANING_S)


def _masked(document: Any, request: Any) -> Any:
    if not request.HasField("mask"):
        return document
    return fields.project(document, [fields.parse_path(p) for p in request.mask.field_paths])


def _new_id() -> str:
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
