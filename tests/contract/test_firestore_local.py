"""What only the local Firestore shows: limits, refusals by name, indexes, expiry, kill -9."""

from __future__ import annotations

import datetime
import json
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore_v1 import FieldFilter, types
from google.cloud.firestore_v1.base_vector_query import DistanceMeasure
from google.cloud.firestore_v1.query_profile import ExplainOptions
from google.cloud.firestore_v1.vector import Vector

from localcloud.firestore.store import Store
from localcloud.run.process import free_port
from tests.contract.firestore_backends import connected, local_firestore, local_process

TIMEOUT_S = 30
PROJECT = "test-local"


class Clock:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[firestore.Client]:
    with local_firestore(tmp_path) as address, connected(address, PROJECT, monkeypatch) as client:
        yield client


def _write(db: firestore.Client, path: str, **more: Any) -> types.Write:
    name = f"{db._database_string}/documents/{path}"
    return types.Write(update=types.Document(name=name), **more)


def _commit(db: firestore.Client, *writes: types.Write, **more: Any) -> Any:
    request = {"database": db._database_string, "writes": list(writes), **more}
    return db._firestore_api.commit(request=request, metadata=db._rpc_metadata)


# Transactions


def test_many_competing_transactions_all_succeed_within_the_clients_own_attempts(
    db: firestore.Client,
) -> None:
    counter = db.document("counters/1")
    counter.set({"n": 0})

    @firestore.transactional
    def add_one(transaction: firestore.Transaction) -> None:
        value = counter.get(transaction=transaction).get("n")
        transaction.update(counter, {"n": value + 1})

    def add_five(_: int) -> None:
        for _ in range(5):
            add_one(db.transaction())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_five, range(8)))
    assert counter.get().get("n") == 40


def test_transaction_overtaken_between_read_and_commit_runs_again(db: firestore.Client) -> None:
    run = db.document("runs/1")
    run.set({"n": 1})
    attempts = []

    @firestore.transactional
    def double(transaction: firestore.Transaction) -> None:
        attempts.append(run.get(transaction=transaction).get("n"))
        if len(attempts) == 1:
            run.set({"n": 10})
        transaction.update(run, {"n": attempts[-1] * 2})

    double(db.transaction())
    assert attempts == [1, 10]
    assert run.get().get("n") == 20


def test_transaction_whose_query_has_new_results_runs_again(db: firestore.Client) -> None:
    open_runs = db.collection("runs").where(filter=FieldFilter("open", "==", True))
    counts = []

    @firestore.transactional
    def note(transaction: firestore.Transaction) -> None:
        counts.append(len(list(open_runs.stream(transaction=transaction))))
        if len(counts) == 1:
            db.document("runs/1").set({"open": True})
        transaction.set(db.document("notes/1"), {"n": counts[-1]})

    note(db.transaction())
    assert counts == [0, 1]


def test_transaction_unaffected_by_other_commits_runs_once(db: firestore.Client) -> None:
    open_runs = db.collection("runs").where(filter=FieldFilter("open", "==", True))
    attempts = []

    @firestore.transactional
    def note(transaction: firestore.Transaction) -> None:
        attempts.append(len(list(open_runs.stream(transaction=transaction))))
        db.document("runs/1").set({"open": False})
        transaction.set(db.document("notes/1"), {"n": 0})

    note(db.transaction())
    assert attempts == [0]


def test_reads_of_a_transaction_all_look_at_the_moment_of_the_first(db: firestore.Client) -> None:
    db.document("runs/1").set({"n": 1})
    db.document("runs/2").set({"n": 1})
    transaction = db.transaction()
    transaction._begin()
    first = db.document("runs/1").get(transaction=transaction).get("n")
    db.document("runs/2").set({"n": 2})
    second = db.document("runs/2").get(transaction=transaction).get("n")
    assert (first, second) == (1, 1)
    transaction.set(db.document("runs/3"), {"n": second})
    with pytest.raises(exceptions.Aborted):
        transaction._commit()


@pytest.mark.parametrize("steps_s", [[61], [59, 59, 59, 59, 59]], ids=["idle", "too-long"])
def test_transaction_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_s: list[int]
) -> None:
    clock = Clock()
    with (
        local_firestore(tmp_path, monotonic=clock) as address,
        connected(address, PROJECT, monkeypatch) as db,
    ):
        transaction = db.transaction()
        transaction._begin()
        for step_s in steps_s[:-1]:
            clock.now += step_s
            db.document("runs/1").get(transaction=transaction)
        clock.now += steps_s[-1]
        with pytest.raises(exceptions.InvalidArgument, match="expired"):
            transaction._commit()


def test_past_is_readable_for_an_hour(db: firestore.Client) -> None:
    run = db.document("runs/1")
    first = run.set({"n": 1}).update_time
    run.set({"n": 2})
    assert run.get(read_time=first).to_dict() == {"n": 1}
    assert [s.get("n") for s in db.collection("runs").stream(read_time=first)] == [1]
    with pytest.raises(exceptions.InvalidArgument, match="past hour"):
        run.get(read_time=first - datetime.timedelta(hours=2))


# Limits and refusals


def test_more_than_500_transforms_of_a_document_are_refused(db: firestore.Client) -> None:
    transforms = [{"field_path": f"f{n}", "increment": {"integer_value": 1}} for n in range(501)]
    with pytest.raises(exceptions.InvalidArgument, match="500"):
        _commit(db, _write(db, "runs/1", update_transforms=transforms))
    _commit(db, _write(db, "runs/1", update_transforms=transforms[:500]))


def test_document_is_refused_at_the_size_that_firestore_counts(db: firestore.Client) -> None:
    # runs/1: name 5 + 2 + 16, field 2, text + 1, document 32
    largest = 1_048_576 - 58
    db.document("runs/1").set({"v": "x" * largest})
    with pytest.raises(exceptions.InvalidArgument, match="1,048,577"):
        db.document("runs/1").set({"v": "x" * (largest + 1)})


def test_features_left_out_are_refused_by_name(db: firestore.Client) -> None:
    runs = db.collection("runs")
    with pytest.raises(exceptions.MethodNotImplemented, match="find_nearest"):
        runs.find_nearest(
            vector_field="v",
            query_vector=Vector([1.0]),
            distance_measure=DistanceMeasure.COSINE,
            limit=1,
        ).get()
    with pytest.raises(exceptions.MethodNotImplemented, match="explain_options"):
        runs.get(explain_options=ExplainOptions(analyze=True))
    with pytest.raises(exceptions.MethodNotImplemented, match="PartitionQuery"):
        list(db.collection_group("runs").get_partitions(2))
    with pytest.raises(exceptions.MethodNotImplemented, match="PESSIMISTIC"):
        db._firestore_api.begin_transaction(
            request={
                "database": db._database_string,
                "options": {"read_write": {"concurrency_mode": "PESSIMISTIC"}},
            },
            metadata=db._rpc_metadata,
        )


def test_streams_left_out_are_refused_by_name(tmp_path: Path) -> None:
    with local_firestore(tmp_path) as address, grpc.insecure_channel(address) as channel:
        service = "/google.firestore.v1.Firestore"
        pipeline = channel.unary_stream(f"{service}/ExecutePipeline")
        with pytest.raises(grpc.RpcError, match="ExecutePipeline is not supported"):
            list(pipeline(b""))
        write = channel.stream_stream(f"{service}/Write")
        with pytest.raises(grpc.RpcError, match="Write is not supported"):
            list(write(iter([b""])))


def test_request_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    with local_firestore(tmp_path) as address, grpc.insecure_channel(address) as channel:
        commit = channel.unary_unary("/google.firestore.v1.Firestore/Commit")
        request = types.CommitRequest(database=f"projects/{PROJECT}/databases/(default)")
        unknown = b"\xa0\x06\x01"  # field 100, a number
        with pytest.raises(grpc.RpcError, match="field number 100 of CommitRequest"):
            commit(types.CommitRequest.serialize(request) + unknown)


# Indexes


def _index(*parts: tuple[str, str], scope: str = "COLLECTION") -> dict[str, Any]:
    fields = [
        {"fieldPath": path, "arrayConfig" if kind == "CONTAINS" else "order": kind}
        for path, kind in parts
    ]
    return {"collectionGroup": "runs", "queryScope": scope, "fields": fields}


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[firestore.Client]:
    declared = {
        "indexes": [
            _index(("model", "ASCENDING"), ("number", "DESCENDING")),
            _index(("state", "ASCENDING"), ("number", "DESCENDING")),
            _index(("tags", "CONTAINS"), ("number", "ASCENDING")),
            _index(("a", "ASCENDING"), ("b", "DESCENDING")),
            _index(("model", "ASCENDING"), ("a", "ASCENDING"), scope="COLLECTION_GROUP"),
        ],
        "fieldOverrides": [
            {
                "collectionGroup": "runs",
                "fieldPath": "number",
                "indexes": [
                    {"order": "ASCENDING", "queryScope": "COLLECTION"},
                    {"order": "DESCENDING", "queryScope": "COLLECTION_GROUP"},
                ],
            },
            {"collectionGroup": "runs", "fieldPath": "log", "indexes": []},
        ],
    }
    path = tmp_path / "firestore.indexes.json"
    path.write_text(json.dumps(declared))
    with (
        local_firestore(tmp_path / "data", indexes=path) as address,
        connected(address, PROJECT, monkeypatch) as client,
    ):
        yield client


def _query(db: firestore.Client, text: str) -> Any:
    """Build a query from "[group] field op value | … | order field [desc]"."""
    base, _, rest = text.partition(": ")
    query: Any = db.collection_group("runs") if base == "group" else db.collection("runs")
    for clause in filter(None, rest.split(" | ")):
        words = clause.split(" ")
        if words[0] == "order":
            query = query.order_by(words[1], direction=f"{words[2].upper()}ENDING")
        else:
            query = query.where(filter=FieldFilter(words[0], words[1], json.loads(words[2])))
    return query


@pytest.mark.parametrize(
    "text",
    [
        "runs: ",
        "group: ",
        "runs: x == 1",
        "runs: x == 1 | y == 2 | tags array_contains 3",
        "runs: x > 1",
        "runs: x > 1 | x < 5 | order x desc",
        "runs: x in [1,2] | y == 1",
        "runs: number == 1 | order number desc",
        "runs: model == 1 | number > 2 | order number desc",
        "runs: model == 1 | order number desc",
        "runs: model == 1 | number > 2",  # the same index, read backwards
        "runs: model == 1 | state == 2 | order number desc",  # two indexes joined
        "runs: model in [1,2] | order number desc",
        "runs: tags array_contains 1 | order number asc",
        "runs: order a asc | order b desc",
        "runs: order a desc | order b asc",
        "group: number > 1",
        "group: model == 1 | order a desc",
    ],
)
def test_query_that_an_index_serves_is_answered(indexed: firestore.Client, text: str) -> None:
    assert _query(indexed, text).get() == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("runs: x == 1 | order y asc", '"x", "order": "ASCENDING"}, {"fieldPath": "y"'),
        ("runs: x == 1 | y > 1", '"x", "order": "ASCENDING"}, {"fieldPath": "y"'),
        ("runs: x != 1 | y == 1", '"y", "order": "ASCENDING"}, {"fieldPath": "x"'),
        ("runs: order a asc | order b asc", '"b", "order": "ASCENDING"'),
        ("runs: order b desc | order a asc", '"b", "order": "DESCENDING"}, {"fieldPath": "a"'),
        ("runs: model == 1 | x == 2 | order number desc", '"x", "order": "ASCENDING"'),
        ("runs: tags array_contains 1 | order a asc", '"tags", "arrayConfig": "CONTAINS"'),
        ("runs: a > 1 | b > 1", '"a", "order": "ASCENDING"}, {"fieldPath": "b"'),
        ("runs: log == 1", 'fieldOverrides: {"collectionGroup": "runs", "fieldPath": "log"'),
        ("group: x == 1", '"queryScope": "COLLECTION_GROUP", "order": "ASCENDING"'),
        ("group: model == 1 | order number desc", '"queryScope": "COLLECTION_GROUP"'),
    ],
)
def test_query_without_its_index_is_refused_with_what_to_add(
    indexed: firestore.Client, text: str, missing: str
) -> None:
    with pytest.raises(exceptions.FailedPrecondition) as refused:
        _query(indexed, text).get()
    assert missing in str(refused.value)


def test_aggregation_over_a_filter_needs_an_index_with_its_field(
    indexed: firestore.Client,
) -> None:
    assert indexed.collection("runs").sum("x").get()
    assert _query(indexed, "runs: x == 1").count().get()
    with pytest.raises(exceptions.FailedPrecondition, match='"y", "order": "ASCENDING"'):
        _query(indexed, "runs: x == 1").sum("y").get()


@pytest.mark.parametrize(
    "declared",
    [
        {"index": []},
        {"indexes": [{**_index(("a", "ASCENDING"), ("b", "ASCENDING")), "vector": 1}]},
        {"indexes": [_index(("a", "ASCENDING"))]},
        {"indexes": [_index(("a", "UP"), ("b", "ASCENDING"))]},
        {"indexes": [_index(("a", "ASCENDING"), ("b", "ASCENDING"), scope="GALAXY")]},
    ],
    ids=["unknown-key", "unknown-index-key", "one-field", "bad-order", "bad-scope"],
)
def test_index_file_that_is_not_understood_is_refused_at_start(
    tmp_path: Path, declared: dict[str, Any]
) -> None:
    path = tmp_path / "firestore.indexes.json"
    path.write_text(json.dumps(declared))
    with pytest.raises(ValueError, match=r"not supported|fieldOverrides|has an order"):
        local_firestore(tmp_path / "data", indexes=path).__enter__()


# Restarts


def test_commits_survive_kill_9_and_later_ones_have_later_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged: dict[str, int] = {}
    last = None
    with (
        local_process(tmp_path) as (address, process),
        connected(address, PROJECT, monkeypatch) as db,
    ):
        acknowledging = threading.Event()

        def write_until_killed() -> None:
            nonlocal last
            for number in range(100_000):
                name = f"runs/{number % 50}"
                try:
                    result = db.document(name).set({"n": number}, timeout=5, retry=None)
                except exceptions.GoogleAPICallError:
                    return
                acknowledged[name], last = number, result.update_time
                if number == 100:
                    acknowledging.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write_until_killed)
            assert acknowledging.wait(TIMEOUT_S)
            process.kill()
            process.wait()
            writing.result(TIMEOUT_S)
    with local_process(tmp_path) as (address, _), connected(address, PROJECT, monkeypatch) as db:
        found = {s.reference.path: s.get("n") for s in db.collection("runs").stream()}
        # The write in flight may be there though nobody was told.
        assert all(found[name] in (n, n + 50) for name, n in acknowledged.items())
        assert sum(found[name] != n for name, n in acknowledged.items()) <= 1
        assert last is not None
        assert db.document("runs/1").set({"n": -1}).update_time > last


def test_listener_goes_on_after_a_restart_with_what_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: queue.Queue[list[str]] = queue.Queue()
    port = free_port()  # which no outgoing connection takes meanwhile
    with local_firestore(tmp_path, port=port) as address:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
        db = firestore.Client(project=PROJECT)
        db.document("runs/1").set({"n": 1})
        db.document("runs/2").set({"n": 1})
        watch = db.collection("runs").on_snapshot(
            lambda _, changes, __: told.put([f"{c.type.name} {c.document.id}" for c in changes])
        )
        assert told.get(timeout=TIMEOUT_S) == ["ADDED 1", "ADDED 2"]
    # While the listener is away, another client changes things at another address.
    with (
        local_firestore(tmp_path) as elsewhere,
        connected(elsewhere, PROJECT, monkeypatch) as other,
    ):
        other.document("runs/1").delete()
        other.document("runs/3").set({"n": 1})
    with local_firestore(tmp_path, port=port):
        assert told.get(timeout=TIMEOUT_S) == ["REMOVED 1", "ADDED 3"]
        watch.unsubscribe()
        db.close()


def test_targets_of_a_stream_come_resume_and_go(db: firestore.Client) -> None:
    documents = f"{db._database_string}/documents"
    requests: queue.Queue[types.ListenRequest | None] = queue.Queue()

    def send(**change: Any) -> None:
        requests.put(types.ListenRequest(database=db._database_string, **change))

    def until(kind: str) -> list[types.ListenResponse]:
        seen = []
        for response in stream:
            seen.append(response)
            if (
                "target_change" in response
                and response.target_change.target_change_type.name == kind
            ):
                return seen
        raise AssertionError(f"the stream ended before {kind}")

    query = {"parent": documents, "structured_query": {"from_": [{"collection_id": "runs"}]}}
    send(add_target={"query": query, "target_id": 1})
    # The client waits for a first response before it returns, hence the request before it.
    stream = db._firestore_api.listen(requests=iter(requests.get, None), metadata=db._rpc_metadata)
    token = until("NO_CHANGE")[-1].target_change.resume_token
    db.document("runs/1").set({"n": 1})
    assert until("NO_CHANGE")[0].document_change.document.name == f"{documents}/runs/1"
    send(remove_target=1)
    until("REMOVE")
    send(add_target={"query": query, "target_id": 2, "resume_token": token})
    resumed = until("NO_CHANGE")
    assert [r.document_change.target_ids for r in resumed if "document_change" in r] == [[2]]
    send(add_target={"query": query, "target_id": 3, "resume_token": b"not ours"})
    until("RESET")
    until("NO_CHANGE")
    bad = {
        "parent": documents,
        "structured_query": {"from_": [{"collection_id": "r"}], "limit": -1},
    }
    send(add_target={"query": bad, "target_id": 4})
    assert until("REMOVE")[-1].target_change.cause.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    send(
        add_target={
            "documents": {"documents": [f"{documents}/runs/1"]},
            "target_id": 5,
            "once": True,
        }
    )
    assert until("REMOVE")[-1].target_change.target_ids == [5]
    requests.put(None)
    assert list(stream) == []


def test_projects_do_not_see_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_firestore(tmp_path) as address:
        with connected(address, f"p-{uuid.uuid4().hex[:6]}", monkeypatch) as one:
            one.document("runs/1").set({"n": 1})
        with connected(address, f"p-{uuid.uuid4().hex[:6]}", monkeypatch) as other:
            assert list(other.collection_group("runs").stream()) == []


def test_versions_are_forgotten_while_others_commit(tmp_path: Path) -> None:
    store = Store(tmp_path / "firestore.sqlite")

    def repeat(work: Callable[[], object]) -> None:
        for _ in range(500):
            work()

    threads = [
        threading.Thread(target=repeat, args=(work,), daemon=True)
        for work in (store.forget_old_versions, lambda: store.commit([]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert not any(thread.is_alive() for thread in threads), "each waits for the other's lock"
    store.close()
