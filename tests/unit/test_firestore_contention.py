"""A transaction that was lost to others runs again, whatever the client makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore

from shared.errors import Conflict
from shared.gcp.firestore import in_transaction


class Client:
    """A Firestore whose calls meet what a test says, each once: begin, commit, rollback."""

    _database_string = "projects/p/databases/(default)"
    _rpc_metadata = ()

    def __init__(self, **meets: list[Exception]) -> None:
        self._meets = meets
        self._firestore_api = self
        self.committed = 0

    def transaction(self) -> firestore.Transaction:
        return firestore.Transaction(self)

    def begin_transaction(self, **_: Any) -> SimpleNamespace:
        self._meet("begin")
        return SimpleNamespace(transaction=b"one")

    def commit(self, **_: Any) -> SimpleNamespace:
        self._meet("commit")
        self.committed += 1
        return SimpleNamespace(write_results=[], commit_time=None)

    def rollback(self, **_: Any) -> None:
        self._meet("rollback")

    def _meet(self, call: str) -> None:
        if found := self._meets.get(call):
            raise found.pop(0)


def expired() -> list[Exception]:
    words = "The referenced transaction has expired or is no longer valid."
    return [exceptions.InvalidArgument(words)]


def aborted(times: int = 1) -> list[Exception]:
    return [exceptions.Aborted("Too much contention on these documents") for _ in range(times)]


LOST: dict[str, Callable[[], dict[str, list[Exception]]]] = {
    "at commit": lambda: {"commit": aborted(5)},
    "and no rollback is possible": lambda: {"begin": aborted()},
    "and the rollback finds it gone": lambda: {"commit": aborted(5), "rollback": expired()},
    "and the rollback is not answered": lambda: {
        "commit": aborted(5),
        "rollback": [exceptions.ServiceUnavailable("connection reset")],
    },
    "by its age": lambda: {"commit": expired()},
}


@pytest.mark.parametrize("meets", LOST.values(), ids=LOST)
def test_lost_transaction_runs_again(meets: Callable[[], dict[str, list[Exception]]]) -> None:
    client = Client(**meets())
    assert in_transaction(client, lambda _: "done") == "done"  # type: ignore[arg-type]
    assert client.committed == 1


def test_transaction_that_lost_its_locks_at_a_read_runs_again() -> None:
    client = Client(rollback=expired())
    reads: Iterator[Exception | None] = iter([*aborted(), None])

    def attempt(_: firestore.Transaction) -> str:
        if error := next(reads):
            raise error
        return "done"

    assert in_transaction(client, attempt) == "done"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        exceptions.InvalidArgument("a document has an invalid name"),
        exceptions.PermissionDenied("datastore.entities.update"),
        ValueError("a surprise"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_contention_is_raised_at_once(error: Exception) -> None:
    client = Client(commit=[error])
    with pytest.raises(type(error), match=str(error.args[0])):
        in_transaction(client, lambda _: "done")  # type: ignore[arg-type]
    assert client.committed == 0


def test_refusal_of_the_attempt_stands_even_after_a_contention_elsewhere() -> None:
    tried = 0

    def attempt(_: firestore.Transaction) -> None:
        nonlocal tried
        tried += 1
        try:
            raise exceptions.Aborted("of another service")
        except exceptions.Aborted as error:
            raise Conflict("it has ended") from error

    with pytest.raises(Conflict, match="it has ended"):
        in_transaction(Client(), attempt)  # type: ignore[arg-type]
    assert tried == 1
