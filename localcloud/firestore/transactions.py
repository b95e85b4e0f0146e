"""Transactions: optimistic, serializable.

All reads of a transaction look at the moment of its first one. At commit, under the store's
lock, everything it read must still be as it was: documents by their versions, queries by
running them again. Otherwise it is aborted and the client runs it again.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from localcloud.firestore.claims import Claim, Claims, key_of_scope, keys_of_document
from localcloud.firestore.errors import Aborted, InvalidArgument, Unimplemented
from localcloud.firestore.messages import TransactionOptions, microseconds
from localcloud.firestore.query import Scope
from localcloud.firestore.store import Commit, Store
from localcloud.firestore.writes import CheckedWrite

LIFETIME_S = 270.0
IDLE_S = 60.0
_MAGIC = b"txn1"
_REMEMBERED_FAILURES = 1000


@dataclass
class QueryRead:
    """A query that was answered: `answer` runs it at a moment; `seen` is what it said."""

    scope: Scope
    answer: Callable[[int], Any]
    seen: Any


@dataclass
class Transaction:
    """One running transaction; `origin` is the id of the first attempt it repeats."""

    id: bytes
    database: str
    origin: bytes
    age: int
    is_read_only: bool
    began: float
    used: float
    snapshot_us: int | None = None
    documents: set[str] = field(default_factory=set)
    queries: list[QueryRead] = field(default_factory=list)
    claim: Claim | None = None


class Transactions:
    """Running transactions, in memory: those of a process that died cannot be committed."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._claims = Claims(store.lock, monotonic)
        self._running: dict[bytes, Transaction] = {}
        self._ages = itertools.count()
        # What failed attempts touched, by their origin, which clients send with every retry.
        self._failed: OrderedDict[bytes, tuple[int, frozenset[str]]] = OrderedDict()

    def begin(self, database: str, options: Any, default: str = "read_write") -> Transaction:
        """Start a transaction, in the mode `default` unless told; a retry may wait its turn."""
        read_write = options.read_write
        if read_write.concurrency_mode == TransactionOptions.PESSIMISTIC:
            raise Unimplemented("TransactionOptions.ReadWrite.concurrency_mode PESSIMISTIC")
        retried = bytes(read_write.retry_transaction)
        if retried and not _is_id(retried):
            raise InvalidArgument("invalid transaction to retry")
        now = self._monotonic()
        transaction = Transaction(
            id=_MAGIC + secrets.token_bytes(12),
            database=database,
            origin=retried,
            age=next(self._ages),
            is_read_only=(options.WhichOneof("mode") or default) == "read_only",
            began=now,
            used=now,
        )
        transaction.origin = retried or transaction.id
        if transaction.is_read_only and options.read_only.HasField("read_time"):
            at_us = microseconds(options.read_only.read_time)
            transaction.snapshot_us = self._store.check_read_time(at_us)
        with self._store.lock:
            self._drop_expired()
            if transaction.origin in self._failed:
                transaction.age, keys = self._failed[transaction.origin]
                transaction.claim = self._claims.claim(transaction.age, keys)
            self._running[transaction.id] = transaction
        return transaction

    def find(self, database: str, transaction_id: bytes) -> Transaction:
        """Return a running transaction; InvalidArgument when it ended, expired or never was."""
        with self._store.lock:
            self._drop_expired()
            found = self._running.get(transaction_id)
            if found is None or found.database != database:
                raise InvalidArgument(
                    "transaction is closed, or has expired and is no longer valid"
                    if _is_id(transaction_id)
                    else "invalid transaction"
                )
            found.used = self._monotonic()
            return found

    def snapshot(self, transaction: Transaction, keys: Iterable[str]) -> int:
        """Return the moment that the transaction reads at; the first read fixes it.

        `keys` are what that read touches: where others compete for it, it lines up first.
        """
        with self._store.lock:
            if transaction.snapshot_us is None:
                contended = self._claims.contended(keys)
                if contended and transaction.claim is None and not transaction.is_read_only:
                    transaction.claim = self._claims.claim(transaction.age, contended)
                transaction.snapshot_us = self._store.now()
            return transaction.snapshot_us

    def roll_back(self, database: str, transaction_id: bytes) -> None:
        """End a transaction without writing; one that has ended already stays ended."""
        if not _is_id(transaction_id):
            raise InvalidArgument("invalid transaction")
        with self._store.lock:
            found = self._running.get(transaction_id)
            if found is not None and found.database == database:
                self._end(found)

    def commit(
        self, database: str, transaction_id: bytes, writes: Sequence[CheckedWrite]
    ) -> Commit:
        """Apply the writes if what the transaction read still holds; Aborted otherwise.

        The transaction has ended either way, so a repeated call changes nothing.
        """
        with self._store.lock:
            transaction = self.find(database, transaction_id)
            try:
                if transaction.is_read_only and writes:
                    raise InvalidArgument("cannot write in a read-only transaction")
                touched = _touched(writes)
                self._claims.wait_for_others(touched, transaction.claim)
                if not transaction.is_read_only and self._is_overtaken(transaction):
                    self._remember(transaction, touched)
                    raise Aborted("what the transaction read has changed since; run it again")
                return self._store.commit(writes)
            finally:
                self._end(transaction)

    def commit_alone(self, writes: Sequence[CheckedWrite]) -> Commit:
        """Apply writes outside any transaction."""
        with self._store.lock:
            self._claims.wait_for_others(_touched(writes), None)
            return self._store.commit(writes)

    def _is_overtaken(self, transaction: Transaction) -> bool:
        at_us = transaction.snapshot_us
        if at_us is None or not self._store.changed_since(at_us):
            return False
        if any(self._store.changed_after(name, at_us) for name in transaction.documents):
            return True
        now_us = self._store.now()
        return any(query.answer(now_us) != query.seen for query in transaction.queries)

    def _remember(self, transaction: Transaction, touched: set[str]) -> None:
        read = transaction.documents | {key_of_scope(query.scope) for query in transaction.queries}
        self._claims.note_loss(read)
        self._failed[transaction.origin] = (transaction.age, frozenset(read | touched))
        while len(self._failed) > _REMEMBERED_FAILURES:
            self._failed.popitem(last=False)

    def _end(self, transaction: Transaction) -> None:
        self._running.pop(transaction.id, None)
        self._claims.release(transaction.claim)

    def _drop_expired(self) -> None:
        now = self._monotonic()
        for transaction in list(self._running.values()):
            if now - transaction.began > LIFETIME_S or now - transaction.used > IDLE_S:
                self._end(transaction)


def _touched(writes: Sequence[CheckedWrite]) -> set[str]:
    return set().union(*(keys_of_document(write.name.full) for write in writes))


def _is_id(candidate: bytes) -> bool:
    return len(candidate) == len(_MAGIC) + 12 and candidate.startswith(_MAGIC)
