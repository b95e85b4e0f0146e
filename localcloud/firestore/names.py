"""Resource names: projects/P/databases/D/documents/COLLECTION/DOCUMENT/COLLECTION/DOCUMENT/…

Rules and limits: https://firebase.google.com/docs/firestore/quotas#collections_documents_and_fields
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from localcloud.firestore.errors import InvalidArgument

MAX_ID_BYTES = 1500
MAX_NAME_BYTES = 6 * 1024
MAX_DEPTH = 100
_RESERVED = re.compile(r"__.*__", re.DOTALL)
_NUMERIC = re.compile(r"__id(-?\d+)__")


@dataclass(frozen=True)
class DocumentName:
    """A document's full name, split."""

    full: str
    database: str
    segments: tuple[str, ...]

    @property
    def parent(self) -> str:
        """The document, or the database's root, that the collection hangs under."""
        return self.full.rsplit("/", 2)[0]

    @property
    def collection(self) -> str:
        return self.segments[-2]

    @cached_property
    def size(self) -> int:
        """Bytes that the name counts for in a document's size."""
        return sum(len(segment.encode()) + 1 for segment in self.segments) + 16


def is_reserved(identifier: str) -> bool:
    """Tell whether `identifier` matches __.*__, which Firestore keeps for itself."""
    return _RESERVED.fullmatch(identifier) is not None


def check_database(name: str) -> str:
    """Return `name` when it is a database's; InvalidArgument otherwise."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "projects" or parts[2] != "databases" or not all(parts):
        raise InvalidArgument(
            f'database name "{name}" is not of the form projects/PROJECT/databases/DATABASE'
        )
    return name


def document_name(full: str, database: str | None = None) -> DocumentName:
    """Split and check a document's name; in `database`, when that is given."""
    name = _split(full)
    if len(name.segments) < 2 or len(name.segments) % 2:
        raise InvalidArgument(f'"{full}" does not name a document')
    for identifier in name.segments:
        check_id(identifier)
    if len(name.segments) > MAX_DEPTH or len(full.encode()) > MAX_NAME_BYTES:
        raise InvalidArgument(f"document name of {len(full)} characters is too long or too deep")
    if database is not None and name.database != database:
        raise InvalidArgument(f'document "{full}" is not in database "{database}"')
    return name


def parent_name(full: str) -> str:
    """Check the name of a collection's parent (a document, or the root) and return it."""
    name = _split(full)
    if len(name.segments) % 2:
        raise InvalidArgument(f'"{full}" names a collection, not the parent of one')
    for identifier in name.segments:
        check_id(identifier)
    return full


def check_id(identifier: str) -> str:
    """Return a collection's or document's id when it is allowed; InvalidArgument otherwise."""
    if not identifier or identifier in {".", ".."} or "/" in identifier:
        raise InvalidArgument(f'resource id "{identifier}" is invalid')
    if is_reserved(identifier):
        raise InvalidArgument(f'resource id "{identifier}" is invalid because it is reserved')
    if len(identifier.encode()) > MAX_ID_BYTES:
        raise InvalidArgument(f"resource id is longer than {MAX_ID_BYTES} bytes")
    return identifier


def check_reference(full: str) -> str:
    """Return the name inside a reference value when it can be one (it need not exist)."""
    if len(_split(full).segments) < 1:
        raise InvalidArgument(f'reference "{full}" names no document')
    return full


def database_of(full: str) -> str:
    """Return the database of a document's or parent's name."""
    return _split(full).database


def sort_key(full: str) -> tuple[tuple[int, int, str], ...]:
    """Return what names sort by: segment by segment, numeric ids before all others."""
    return tuple(_segment_key(segment) for segment in full.split("/"))


def _segment_key(segment: str) -> tuple[int, int, str]:
    if segment.startswith("__id") and (numeric := _NUMERIC.fullmatch(segment)):
        return (0, int(numeric.group(1)), "")
    return (1, 0, segment)


def _split(full: str) -> DocumentName:
    parts = full.split("/")
    if len(parts) < 5 or parts[0] != "projects" or parts[2] != "databases":
        raise InvalidArgument(
            f'resource name "{full}" does not start with '
            "projects/PROJECT/databases/DATABASE/documents"
        )
    if parts[4] != "documents" or not all(parts):
        raise InvalidArgument(f'resource name "{full}" is invalid')
    return DocumentName(full, "/".join(parts[:4]), tuple(parts[5:]))
