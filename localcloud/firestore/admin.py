"""Export and import of documents (google.firestore.admin.v1.FirestoreAdmin), to Cloud Storage.

The calls, what they answer and what an import leaves alone are Google's. The files are not:
they hold Document messages, each after its length, where Google writes a format of its own.
The operation that a call returns is done already, so nobody has to ask for it again.
https://firebase.google.com/docs/firestore/manage-data/export-import
"""

from __future__ import annotations

import io
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from google.api_core.exceptions import NotFound as BucketMissing
from google.cloud.firestore_admin_v1.types import firestore_admin, operation
from google.cloud.storage import Bucket, Client
from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty

from localcloud.firestore import names
from localcloud.firestore.errors import FirestoreError, InvalidArgument, NotFound
from localcloud.firestore.messages import Document, microseconds, timestamp
from localcloud.firestore.query import Scope
from localcloud.firestore.store import Store
from localcloud.firestore.writes import CheckedWrite

SERVICE = "google.firestore.admin.v1.FirestoreAdmin"
METADATA = ".overall_export_metadata"
OUTPUT = "all_namespaces/all_kinds/output-0"
MINUTE_US = 60_000_000
WRITES_AT_ONCE = 500
LENGTH_BYTES = 4

ExportMetadata: Any = operation.ExportDocumentsMetadata.pb()
ExportResponse: Any = operation.ExportDocumentsResponse.pb()
ImportMetadata: Any = operation.ImportDocumentsMetadata.pb()
SUCCESSFUL = int(operation.OperationState.SUCCESSFUL)


class Admin:
    """Copies documents between a store and buckets, through Google's own storage client."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def grpc_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return what a gRPC server needs to answer as Firestore's Admin API."""
        handlers = {
            "ExportDocuments": _unary(
                firestore_admin.ExportDocumentsRequest.pb(), self._export_documents
            ),
            "ImportDocuments": _unary(
                firestore_admin.ImportDocumentsRequest.pb(), self._import_documents
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _export_documents(self, request: Any) -> Any:
        """Write all documents (of some collections) as they are, or were at a full minute."""
        database = names.check_database(request.name)
        begun = time.time_ns() // 1000
        at_us = self._store.now()
        if request.HasField("snapshot_time"):
            at_us = self._store.check_read_time(microseconds(request.snapshot_time))
            if at_us % MINUTE_US:
                raise InvalidArgument("snapshot_time must be rounded to the minute")
        found = self._store.scan(Scope(f"{database}/documents", None, True), at_us)
        chosen = [one for one in found if _is_among(one.name, request.collection_ids)]
        bucket, prefix = _place(request.output_uri_prefix, database)
        prefix = prefix or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S_") + secrets.token_hex(3)
        content = b"".join(_framed(one.SerializeToString()) for one in chosen)
        try:
            bucket.blob(f"{prefix}/{OUTPUT}").upload_from_string(content)
            # Written last: an export that is not complete has none, and cannot be imported.
            bucket.blob(_metadata(prefix)).upload_from_string(
                json.dumps(list(request.collection_ids))
            )
        except BucketMissing:
            raise NotFound(f'bucket "{bucket.name}" not found') from None
        uri = f"gs://{bucket.name}/{prefix}"
        metadata = ExportMetadata(
            start_time=timestamp(begun),
            end_time=timestamp(time.time_ns() // 1000),
            operation_state=SUCCESSFUL,
            collection_ids=request.collection_ids,
            output_uri_prefix=uri,
        )
        _count(metadata, chosen, content)
        return _done(database, metadata, ExportResponse(output_uri_prefix=uri))

    def _import_documents(self, request: Any) -> Any:
        """Write an export's documents over those of the same name, and leave all others."""
        database = names.check_database(request.name)
        begun = time.time_ns() // 1000
        bucket, prefix = _place(request.input_uri_prefix, database)
        if not prefix or not bucket.blob(_metadata(prefix)).exists():
            raise InvalidArgument(f'"{request.input_uri_prefix}" is no complete export')
        exported = set(json.loads(bucket.blob(_metadata(prefix)).download_as_bytes()))
        if not exported.issuperset(request.collection_ids):
            # https://cloud.google.com/firestore/docs/manage-data/export-import
            raise InvalidArgument(
                "only an export of specific collections supports an import of specific collections"
                f"; this one is of {', '.join(sorted(exported)) or 'all documents'}"
            )
        content: bytes = bucket.blob(f"{prefix}/{OUTPUT}").download_as_bytes()
        found = [Document.FromString(part) for part in _parts(content)]
        chosen = [one for one in found if _is_among(one.name, request.collection_ids)]
        for start in range(0, len(chosen), WRITES_AT_ONCE):
            self._store.commit(
                [_write(one, database) for one in chosen[start : start + WRITES_AT_ONCE]]
            )
        metadata = ImportMetadata(
            start_time=timestamp(begun),
            end_time=timestamp(time.time_ns() // 1000),
            operation_state=SUCCESSFUL,
            collection_ids=request.collection_ids,
            input_uri_prefix=request.input_uri_prefix,
        )
        _count(metadata, chosen, content)
        return _done(database, metadata, Empty())


def _unary(request: Any, method: Callable[[Any], Any]) -> grpc.RpcMethodHandler[Any, Any]:
    def handle(message: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(message)
        except FirestoreError as refused:
            context.abort(refused.code, str(refused))

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=request.FromString,
        response_serializer=operations_pb2.Operation.SerializeToString,
    )


def _place(uri: str, database: str) -> tuple[Bucket, str]:
    """Return the bucket of a gs:// URI and the folder in it ("" for none)."""
    name, _, prefix = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not name:
        raise InvalidArgument(f'"{uri}" is not of the form gs://BUCKET[/FOLDER]')
    return Client(project=database.split("/")[1]).bucket(name), prefix.strip("/")


def _metadata(prefix: str) -> str:
    return f"{prefix}/{prefix.rsplit('/', 1)[-1]}{METADATA}"


def _is_among(name: str, collection_ids: Sequence[str]) -> bool:
    return not collection_ids or names.document_name(name).collection in collection_ids


def _write(document: Any, database: str) -> CheckedWrite:
    _, _, path = document.name.partition("/documents/")
    name = names.document_name(f"{database}/documents/{path}")
    return CheckedWrite(name, dict(document.fields))


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def _parts(content: bytes) -> Iterator[bytes]:
    stream = io.BytesIO(content)
    while length := stream.read(LENGTH_BYTES):
        yield stream.read(int.from_bytes(length, "big"))


def _count(metadata: Any, documents: Sequence[Any], content: bytes) -> None:
    for progress, count in (
        (metadata.progress_documents, len(documents)),
        (metadata.progress_bytes, len(content)),
    ):
        progress.estimated_work = progress.completed_work = count


def _done(database: str, metadata: Any, response: Any) -> Any:
    done = operations_pb2.Operation(
        name=f"{database}/operations/{secrets.token_urlsafe(24)}", done=True
    )
    done.metadata.Pack(metadata)
    done.response.Pack(response)
    return done
