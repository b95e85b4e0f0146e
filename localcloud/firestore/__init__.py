"""The local Firestore: Google's wire protocol over SQLite.

store          versions of documents on disk, the clock, commits
writes         what a write may be and what it does; transforms its computed fields
transactions   optimistic, serializable; claims keep a retry's place in line
query          checked queries over documents; filters, aggregate, indexes
listen         snapshots of targets as commits go on
service        the RPC methods; transport wraps them in gRPC
"""

from localcloud.firestore.service import Firestore

__all__ = ["Firestore"]
