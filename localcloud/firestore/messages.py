"""Google's own message classes, without their proto-plus wrapping.

Documents are parsed and compared by the thousand in a query; the bare protobuf classes
do that several times faster and speak the same bytes.
"""

from __future__ import annotations

from typing import Any

from google.cloud.firestore_v1.types import common, document, firestore, query, write
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from localcloud.firestore.errors import InvalidArgument, Unimplemented

Document: Any = document.Document.pb()
Value: Any = document.Value.pb()
ArrayValue: Any = document.ArrayValue.pb()
DocumentMask: Any = common.DocumentMask.pb()
TransactionOptions: Any = common.TransactionOptions.pb()
Write: Any = write.Write.pb()
WriteResult: Any = write.WriteResult.pb()
FieldTransform: Any = write.DocumentTransform.FieldTransform.pb()
StructuredQuery: Any = query.StructuredQuery.pb()
FieldFilter: Any = query.StructuredQuery.FieldFilter.pb()
UnaryFilter: Any = query.StructuredQuery.UnaryFilter.pb()
CompositeFilter: Any = query.StructuredQuery.CompositeFilter.pb()
ListenResponse: Any = firestore.ListenResponse.pb()
TargetChange: Any = firestore.TargetChange.pb()

VERIFY_FIELD = 5
"""Write.verify's number: on the wire for years, though absent from Google's Python classes."""

ASCENDING: int = StructuredQuery.ASCENDING
DESCENDING: int = StructuredQuery.DESCENDING


def message_class(name: str) -> Any:
    """Return the protobuf class of a request or response of the Firestore service."""
    return Document if name == "Document" else getattr(firestore, name).pb()


def timestamp(us: int) -> Timestamp:
    """Return microseconds since 1970 as a Timestamp."""
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)


def microseconds(stamp: Timestamp) -> int:
    """Return a Timestamp in microseconds since 1970; InvalidArgument when it is finer."""
    if stamp.nanos % 1000:
        raise InvalidArgument("timestamp cannot have more than microseconds precision")
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000


def refuse_unknown_fields(message: Any) -> None:
    """Raise Unimplemented when the request carries fields that its class does not know.

    They come from a newer client and may change what the request means.
    """
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() != message.ByteSize():
        _refuse_unknown_in(message)


def _refuse_unknown_in(message: Any) -> None:
    name = message.DESCRIPTOR.name
    for raw in UnknownFieldSet(message):  # type: ignore[attr-defined]
        if not (name == "Write" and raw.field_number == VERIFY_FIELD):
            raise Unimplemented(f"field number {raw.field_number} of {name}")
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            parts = [part for part in value.values() if hasattr(part, "DESCRIPTOR")]
        else:
            parts = list(value) if field.is_repeated else [value]
        for part in parts:
            _refuse_unknown_in(part)
