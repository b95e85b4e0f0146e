"""At which moment a read looks, and noting it down when a transaction reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from localcloud.firestore.messages import microseconds
from localcloud.firestore.query import Scope
from localcloud.firestore.store import Store
from localcloud.firestore.transactions import QueryRead, Transaction, Transactions


@dataclass(frozen=True)
class Reading:
    """A moment to read at, for a transaction or for nobody in particular."""

    store: Store
    at_us: int
    transaction: Transaction | None = None
    is_new: bool = False

    def document(self, name: str) -> Any | None:
        """Return a document; its absence is something read, too."""
        if self.transaction is not None:
            self.transaction.documents.add(name)
        return self.store.get(name, self.at_us)

    def query(
        self, scope: Scope, run: Callable[[int], Any], fingerprint: Callable[[Any], Any]
    ) -> Any:
        """Return `run(moment)`; at a transaction's commit its `fingerprint` must be the same."""
        found = run(self.at_us)
        if self.transaction is not None:
            self.transaction.queries.append(
                QueryRead(scope, lambda at_us: fingerprint(run(at_us)), fingerprint(found))
            )
        return found


def reading(
    store: Store, transactions: Transactions, database: str, request: Any, keys: Iterable[str]
) -> Reading:
    """Return where a request with a consistency_selector reads; `keys` say what (see claims)."""
    which = request.WhichOneof("consistency_selector")
    if which == "read_time":
        return Reading(store, store.check_read_time(microseconds(request.read_time)))
    if which == "transaction":
        transaction = transactions.find(database, request.transaction)
    elif which == "new_transaction":
        transaction = transactions.begin(database, request.new_transaction, default="read_only")
    else:
        return Reading(store, store.now())
    at_us = transactions.snapshot(transaction, keys)
    return Reading(store, at_us, transaction, is_new=which == "new_transaction")
