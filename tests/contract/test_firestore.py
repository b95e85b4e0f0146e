"""What every Firestore does: the local cloud's, and Google's emulator wherever it is found."""

from __future__ import annotations

import datetime
import math
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore_v1 import FieldFilter, Or, types
from google.cloud.firestore_v1.vector import Vector

from tests.contract.firestore_backends import (
    available_backends,
    connected,
    describe_backends,
    served,
)

TIMEOUT_S = 30
UTC = datetime.UTC


@pytest.fixture(scope="module", params=available_backends())
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with served(request.param, tmp_path_factory.mktemp("firestore")) as found:
        yield found


@pytest.fixture
def db(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[firestore.Client]:
    # A project of its own for each test: nothing has to be cleaned up in between.
    with connected(address, f"test-{uuid.uuid4().hex[:8]}", monkeypatch) as client:
        yield client


def test_backends_are_described_in_one_line() -> None:
    assert "local cloud" in describe_backends()
    assert "\n" not in describe_backends()


# Documents


def test_document_set_is_read_back_with_all_its_types(db: firestore.Client) -> None:
    content = {
        "null": None,
        "boolean": True,
        "integer": -(2**63),
        "double": 1.5,
        "timestamp": datetime.datetime(2026, 11, 24, 14, 0, 0, 123456, tzinfo=UTC),
        "text": "żółć \U0001f600",
        "bytes": b"\x00\xff",
        "reference": db.document("models/movies"),
        "point": firestore.GeoPoint(52.2, 21.0),
        "list": [1, {"a": [2]}],
        "map": {"a.b": {"c": None}, "empty": {}},
        "vector": Vector([1.0, 2.0]),
    }
    db.document("runs/1").set(content)
    assert db.document("runs/1").get().to_dict() == content


def test_missing_document_does_not_exist_and_has_a_read_time(db: firestore.Client) -> None:
    snapshot = db.document("runs/none").get()
    assert not snapshot.exists
    assert snapshot.read_time is not None


def test_many_documents_are_read_at_once_with_only_the_fields_asked_for(
    db: firestore.Client,
) -> None:
    db.document("runs/1").set({"a": {"x": 1, "y": 2}, "b": 2})
    snapshots = db.get_all([db.document("runs/1"), db.document("runs/none")], ["a.x"])
    found = {snapshot.id: snapshot.to_dict() for snapshot in snapshots}
    assert found == {"1": {"a": {"x": 1}}, "none": None}


def test_create_of_an_existing_document_is_refused(db: firestore.Client) -> None:
    db.document("runs/1").create({"a": 1})
    with pytest.raises(exceptions.AlreadyExists):
        db.document("runs/1").create({"a": 2})
    assert db.document("runs/1").get().to_dict() == {"a": 1}


def test_update_of_a_missing_document_is_refused(db: firestore.Client) -> None:
    with pytest.raises(exceptions.NotFound):
        db.document("runs/1").update({"a": 1})


def test_delete_of_a_missing_document_succeeds_unless_it_must_exist(db: firestore.Client) -> None:
    db.document("runs/1").delete()
    with pytest.raises(exceptions.NotFound):
        db.document("runs/1").delete(option=db.write_option(exists=True))


def test_update_changes_named_fields_and_deletes_marked_ones(db: firestore.Client) -> None:
    run = db.document("runs/1")
    run.set({"a": {"x": 1, "y": 2}, "b": 1, "c": 1})
    run.update({"a.x": 9, "new.deep": 1, "b": firestore.DELETE_FIELD, "`odd.name`": 5})
    assert run.get().to_dict() == {"a": {"x": 9, "y": 2}, "c": 1, "new": {"deep": 1}, "odd.name": 5}


def test_merge_keeps_other_fields_and_set_replaces_them(db: firestore.Client) -> None:
    run = db.document("runs/1")
    run.set({"a": {"x": 1}, "b": 1})
    run.set({"a": {"y": 2}}, merge=True)
    assert run.get().to_dict() == {"a": {"x": 1, "y": 2}, "b": 1}
    run.set({"c": 1})
    assert run.get().to_dict() == {"c": 1}


def test_update_with_the_last_update_time_succeeds_once(db: firestore.Client) -> None:
    run = db.document("runs/1")
    first = run.set({"a": 1}).update_time
    run.update({"a": 2}, option=db.write_option(last_update_time=first))
    with pytest.raises(exceptions.FailedPrecondition):
        run.update({"a": 3}, option=db.write_option(last_update_time=first))
    with pytest.raises(exceptions.FailedPrecondition):
        run.delete(option=db.write_option(last_update_time=first))
    assert run.get().to_dict() == {"a": 2}


def test_last_update_time_of_a_deleted_document_is_refused(db: firestore.Client) -> None:
    run = db.document("runs/1")
    first = run.set({"a": 1}).update_time
    run.delete()
    with pytest.raises(exceptions.FailedPrecondition):
        run.update({"a": 2}, option=db.write_option(last_update_time=first))


def test_write_that_changes_nothing_keeps_the_update_time(db: firestore.Client) -> None:
    run = db.document("runs/1")
    first = run.set({"a": 1}).update_time
    assert run.set({"a": 1}).update_time == first
    assert run.set({"a": 1.0}).update_time > first


def test_rewritten_document_keeps_its_creation_and_a_recreated_one_does_not(
    db: firestore.Client,
) -> None:
    run = db.document("runs/1")
    run.set({"a": 1})
    created = run.get().create_time
    run.set({"a": 2})
    assert run.get().create_time == created
    run.delete()
    run.set({"a": 2})
    assert run.get().create_time > created


def test_commits_in_turn_have_strictly_increasing_times(db: firestore.Client) -> None:
    times = [db.document("runs/1").set({"n": n}).update_time for n in range(20)]
    assert times == sorted(set(times))


def test_batch_with_one_refused_write_changes_nothing(db: firestore.Client) -> None:
    batch = db.batch()
    batch.set(db.document("runs/1"), {"a": 1})
    batch.update(db.document("runs/none"), {"a": 1})
    with pytest.raises(exceptions.NotFound):
        batch.commit()
    assert not db.document("runs/1").get().exists


def test_batch_applies_its_writes_in_order_at_one_time(db: firestore.Client) -> None:
    batch = db.batch()
    batch.set(db.document("runs/1"), {"a": 1})
    batch.update(db.document("runs/1"), {"b": 2})
    batch.set(db.document("runs/2"), {"a": 1})
    assert len({result.update_time for result in batch.commit()}) == 1
    assert db.document("runs/1").get().to_dict() == {"a": 1, "b": 2}


def test_bulk_writes_succeed_and_fail_one_by_one(db: firestore.Client) -> None:
    writes = [
        types.Write(update=_document(db, "runs/1", v=1)),
        types.Write(update=_document(db, "runs/2", v=1), current_document={"exists": True}),
        types.Write(delete=_name(db, "runs/none")),
    ]
    answer = db._firestore_api.batch_write(
        request={"database": db._database_string, "writes": writes}, metadata=db._rpc_metadata
    )
    assert [status.code for status in answer.status] == [0, 5, 0]
    assert db.document("runs/1").get().exists
    assert not db.document("runs/2").get().exists


def test_verify_write_checks_a_document_without_changing_it(db: firestore.Client) -> None:
    db.document("runs/1").set({"a": 1})
    # Field 5 of Write, which Google's Python classes do not have.
    verify = types.Write.pb()()
    name = _name(db, "runs/1").encode()
    verify.ParseFromString(b"\x2a" + bytes([len(name)]) + name)
    verify.current_document.exists = False
    other = types.Write(update=_document(db, "runs/2", v=1))
    with pytest.raises(exceptions.AlreadyExists):
        _commit(db, other, types.Write.wrap(verify))
    assert not db.document("runs/2").get().exists
    verify.current_document.exists = True
    _commit(db, other, types.Write.wrap(verify))
    assert db.document("runs/2").get().exists
    assert db.document("runs/1").get().to_dict() == {"a": 1}


def test_collections_and_documents_are_listed_even_where_only_something_below_exists(
    db: firestore.Client,
) -> None:
    db.document("models/a/events/1").set({})
    db.document("models/b").set({})
    db.document("models/c/old/1/deep/1").set({})
    db.document("other/1").set({})
    assert [c.id for c in db.collections()] == ["models", "other"]
    assert [c.id for c in db.document("models/c").collections()] == ["old"]
    assert [d.id for d in db.collection("models").list_documents(page_size=2)] == ["a", "b", "c"]


def test_recursive_delete_removes_a_collection_with_all_below_it(db: firestore.Client) -> None:
    for path in ("models/A", "models/b/events/1", "models/b/events/1/x/1", "modelsx/1", "a/1"):
        db.document(path).set({})
    assert db.recursive_delete(db.collection("models")) == 3
    assert [c.id for c in db.collections()] == ["a", "modelsx"]


@pytest.mark.parametrize(
    ("before", "transform", "after"),
    [
        pytest.param(1, firestore.Increment(2), 3, id="increment"),
        pytest.param(1, firestore.Increment(0.5), 1.5, id="increment-by-double"),
        pytest.param(None, firestore.Increment(2), 2, id="increment-of-no-number"),
        pytest.param(2**63 - 1, firestore.Increment(5), 2**63 - 1, id="increment-overflows"),
        pytest.param(3, firestore.Maximum(4.5), 4.5, id="maximum-of-the-larger"),
        pytest.param(3, firestore.Maximum(3.0), 3, id="maximum-of-equals-keeps-the-stored"),
        pytest.param(3, firestore.Minimum(2), 2, id="minimum"),
        pytest.param("x", firestore.Minimum(2), 2, id="minimum-of-no-number"),
        pytest.param([1, 1], firestore.ArrayUnion([1.0, 5, 5]), [1, 1, 5], id="union"),
        pytest.param(7, firestore.ArrayUnion([1]), [1], id="union-with-no-list"),
        pytest.param([1, 2, 1.0, "a"], firestore.ArrayRemove([1]), [2, "a"], id="remove"),
    ],
)
def test_transform_computes_from_the_stored_value(
    db: firestore.Client, before: Any, transform: Any, after: Any
) -> None:
    run = db.document("runs/1")
    run.set({"deep": {"v": before}})
    run.update({"deep.v": transform})
    found = run.get().get("deep.v")
    assert (found, type(found)) == (after, type(after))


def test_server_timestamps_of_one_commit_are_equal(db: firestore.Client) -> None:
    batch = db.batch()
    batch.set(db.document("runs/1"), {"at": firestore.SERVER_TIMESTAMP})
    batch.set(db.document("runs/2"), {"at": firestore.SERVER_TIMESTAMP, "b": {"at": None}})
    batch.update(db.document("runs/2"), {"b.at": firestore.SERVER_TIMESTAMP})
    committed = batch.commit()[0].update_time
    second = db.document("runs/2").get().to_dict()
    assert db.document("runs/1").get().get("at") == second["at"] == second["b"]["at"]
    assert abs(committed - second["at"]) < datetime.timedelta(seconds=1)


def _nested(depth: int) -> types.Value:
    value = types.Value(integer_value=1)
    for _ in range(depth):
        value = types.Value(map_value={"fields": {"a": value}})
    return value


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        pytest.param("runs/__x__", {}, id="reserved-document-id"),
        pytest.param("__c__/1", {}, id="reserved-collection-id"),
        pytest.param("runs/.", {}, id="dot"),
        pytest.param("runs/..", {}, id="two-dots"),
        pytest.param("runs//x/y", {}, id="empty-id"),
        pytest.param("runs", {}, id="a-collection"),
        pytest.param("runs/" + "x" * 1501, {}, id="long-id"),
        pytest.param("runs/1", {"__x__": 1}, id="reserved-field"),
        pytest.param("runs/1", {"": 1}, id="empty-field"),
        pytest.param("runs/1", {"f" * 1501: 1}, id="long-field"),
        pytest.param("runs/1", {"a": types.Value(string_value="x" * 2**20)}, id="too-large"),
        pytest.param("runs/1", {"a": _nested(21)}, id="too-deep"),
        pytest.param("runs/1", {"a": types.Value()}, id="no-type"),
        pytest.param(
            "runs/1",
            {"a": types.Value(array_value={"values": [{"array_value": {}}]})},
            id="list-in-a-list",
        ),
        pytest.param(
            "runs/1",
            {"a": types.Value(geo_point_value={"latitude": 91})},
            id="latitude-91",
        ),
        pytest.param("runs/1", {"a": types.Value(reference_value="x")}, id="bad-reference"),
    ],
)
def test_write_that_can_never_succeed_is_refused(
    db: firestore.Client, path: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        _commit(db, types.Write(update=_document(db, path, **fields)))


# Transactions


@firestore.transactional
def _add_one(transaction: firestore.Transaction, counter: firestore.DocumentReference) -> int:
    value = int(counter.get(transaction=transaction).get("n"))
    transaction.update(counter, {"n": value + 1})
    return value + 1


def _persistently(db: firestore.Client, body: Callable[..., Any], *arguments: Any) -> Any:
    """Run a transaction as production code must: again, when all of the client's tries lost."""
    while True:
        try:
            return body(db.transaction(), *arguments)
        except (exceptions.Aborted, exceptions.RetryError):
            continue
        except ValueError as gave_up:
            if "Failed to commit transaction" not in str(gave_up):
                raise


def test_concurrent_increments_are_never_lost(db: firestore.Client) -> None:
    counter = db.document("counters/1")
    counter.set({"n": 0})
    threads, times = 2, 3
    with ThreadPoolExecutor(threads) as pool:
        seen = pool.map(
            lambda _: [_persistently(db, _add_one, counter) for _ in range(times)], range(threads)
        )
        answers = sorted(value for part in seen for value in part)
    assert counter.get().get("n") == threads * times
    assert answers == list(range(1, threads * times + 1))


def test_racing_creates_have_exactly_one_winner(db: firestore.Client) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> int | None:
        barrier.wait(TIMEOUT_S)
        try:
            db.document("locks/1").create({"owner": number})
        except exceptions.AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert len(winners) == 1
    assert db.document("locks/1").get().to_dict() == {"owner": winners[0]}


def test_racing_transactions_that_query_before_they_insert_insert_once(
    db: firestore.Client,
) -> None:
    @firestore.transactional
    def claim(transaction: firestore.Transaction, number: int) -> bool:
        held = db.collection("claims").where(filter=FieldFilter("lock", "==", "movies"))
        if list(held.stream(transaction=transaction)):
            return False
        transaction.create(db.document(f"claims/{number}"), {"lock": "movies"})
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda number: _persistently(db, claim, number), range(4)))
    assert won.count(True) == 1
    assert len(list(db.collection("claims").stream())) == 1


def test_transaction_that_raises_writes_nothing(db: firestore.Client) -> None:
    @firestore.transactional
    def fail(transaction: firestore.Transaction) -> None:
        transaction.set(db.document("runs/1"), {"a": 1})
        raise LookupError

    with pytest.raises(LookupError):
        fail(db.transaction())
    assert not db.document("runs/1").get().exists


def test_transaction_with_a_failing_precondition_writes_nothing(db: firestore.Client) -> None:
    db.document("runs/1").set({"a": 1})

    @firestore.transactional
    def create_both(transaction: firestore.Transaction) -> None:
        transaction.create(db.document("runs/2"), {"a": 1})
        transaction.create(db.document("runs/1"), {"a": 2})

    with pytest.raises(exceptions.AlreadyExists):
        create_both(db.transaction())
    assert not db.document("runs/2").get().exists


def test_read_only_transaction_reads_one_moment(db: firestore.Client) -> None:
    db.document("runs/1").set({"n": 1})
    db.document("runs/2").set({"n": 1})

    @firestore.transactional
    def read_both(transaction: firestore.Transaction) -> list[int]:
        first = db.document("runs/1").get(transaction=transaction).get("n")
        batch = db.batch()
        batch.update(db.document("runs/1"), {"n": 2})
        batch.update(db.document("runs/2"), {"n": 2})
        batch.commit()
        return [first, db.document("runs/2").get(transaction=transaction).get("n")]

    assert read_both(db.transaction(read_only=True)) == [1, 1]


def test_ended_transaction_cannot_be_used_again(db: firestore.Client) -> None:
    transaction = db.transaction()
    transaction._begin()
    ended = transaction.id
    transaction._rollback()
    api, metadata = db._firestore_api, db._rpc_metadata
    request = {"database": db._database_string, "transaction": ended}
    api.rollback(request=request, metadata=metadata)  # ending it twice is harmless
    with pytest.raises(exceptions.InvalidArgument):
        api.commit(request=request, metadata=metadata)
    with pytest.raises(exceptions.InvalidArgument):
        api.commit(request={**request, "transaction": b"unknown"}, metadata=metadata)


# Queries


def _fill(db: firestore.Client, values: dict[str, Any], collection: str = "o") -> None:
    batch = db.batch()
    for name, value in values.items():
        batch.set(db.document(f"{collection}/{name}"), {} if value is ... else {"v": value})
    batch.commit()


def _ids(query: Any) -> list[str]:
    return [snapshot.id for snapshot in query.stream()]


def test_results_are_ordered_by_type_then_value_then_name(db: firestore.Client) -> None:
    values = {
        "null": None,
        "false": False,
        "true": True,
        "nan": math.nan,
        "neg-inf": -math.inf,
        "one-a": 1.0,
        "one-b": 1,
        "two": 2,
        "2^53": 2.0**53,
        "2^53+1": 2**53 + 1,
        "time": datetime.datetime(2026, 1, 1, tzinfo=UTC),
        "empty-text": "",
        "B": "B",
        "a": "a",
        "ffff": "\uffff",
        "emoji": "\U0001f600",
        "bytes": b"a",
        "ref": db.document("a/b"),
        "ref-below": db.document("a/b/c/d"),
        "point": firestore.GeoPoint(1, 2),
        "empty-list": [],
        "list": [1, "x"],
        "vector": Vector([1.0, 2.0]),
        "empty-map": {},
        "map": {"a": 1},
        "longer-map": {"a": 1, "b": 0},
        "later-map": {"b": -1},
    }
    _fill(db, {**values, "absent": ...})
    assert _ids(db.collection("o").order_by("v")) == list(values)
    descending = db.collection("o").order_by("v", direction="DESCENDING")
    assert _ids(descending) == list(values)[::-1]


@pytest.mark.parametrize(
    ("op", "operand", "expected"),
    [
        ("==", 1, "d1 i1"),
        ("==", None, "null"),
        ("==", math.nan, "nan"),
        ("==", {"a": 1}, "map"),
        ("!=", 1, "t nan i2 sa sb l1 l2 map"),
        ("!=", None, "t nan d1 i1 i2 sa sb l1 l2 map"),
        ("!=", math.nan, "t d1 i1 i2 sa sb l1 l2 map"),
        ("<", 2, "d1 i1"),
        ("<=", 2, "d1 i1 i2"),
        (">", 1, "i2"),
        (">=", 1, "d1 i1 i2"),
        (">", "a", "sb"),
        ("<", [2], "l1"),
        ("in", [1, "a", None], "d1 i1 sa"),
        ("not-in", [1, "a"], "t nan i2 sb l1 l2 map"),
        ("not-in", [1, None], ""),
        ("array_contains", 1.0, "l1"),
        ("array_contains_any", ["x", 3], "l1 l2"),
    ],
)
def test_filter_keeps_what_it_means(
    db: firestore.Client, op: str, operand: Any, expected: str
) -> None:
    numbers = {"d1": 1.0, "i1": 1, "i2": 2, "nan": math.nan}
    others = {"null": None, "t": True, "sa": "a", "sb": "b", "map": {"a": 1}}
    lists = {"l1": [1, "x"], "l2": [3]}
    _fill(db, {**numbers, **others, **lists, "absent": ...})
    found = _ids(db.collection("o").where(filter=FieldFilter("v", op, operand)).order_by("v"))
    assert sorted(found) == sorted(expected.split())


def test_filters_combine_with_and_and_or(db: firestore.Client) -> None:
    for name, content in {
        "1": {"a": 1, "b": 1},
        "2": {"a": 1, "b": 2},
        "3": {"a": 2, "b": 3},
        "4": {"b": 4},
    }.items():
        db.document(f"o/{name}").set(content)
    everything = db.collection("o")
    a1, b2, b4 = (FieldFilter(*f) for f in (("a", "==", 1), ("b", ">=", 2), ("b", "==", 4)))
    assert _ids(everything.where(filter=a1).where(filter=b2)) == ["2"]
    assert _ids(everything.where(filter=Or([a1, b4]))) == ["1", "2", "4"]
    assert _ids(everything.where(filter=Or([a1, b4])).order_by("b", direction="DESCENDING")) == [
        "4",
        "2",
        "1",
    ]


def test_inequalities_order_the_results_by_their_fields(db: firestore.Client) -> None:
    for name, (a, b) in {"1": (3, 1), "2": (1, 2), "3": (1, 1), "4": (0, 9)}.items():
        db.document(f"o/{name}").set({"a": a, "b": b})
    query = db.collection("o").where(filter=FieldFilter("b", "<", 5))
    assert _ids(query) == ["1", "3", "2"]
    assert _ids(query.where(filter=FieldFilter("a", ">", 0))) == ["3", "2", "1"]


def test_cursors_limits_and_offsets_cut_the_results(db: firestore.Client) -> None:
    _fill(db, {"a": 1, "b": 2, "c": 2, "d": 3, "e": 4})
    query = db.collection("o").order_by("v")
    assert _ids(query.start_at({"v": 2})) == ["b", "c", "d", "e"]
    assert _ids(query.start_after({"v": 2})) == ["d", "e"]
    assert _ids(query.end_at({"v": 2})) == ["a", "b", "c"]
    assert _ids(query.end_before({"v": 2})) == ["a"]
    after_b = query.start_after(db.document("o/b").get())
    assert _ids(after_b.limit(2)) == ["c", "d"]
    assert _ids(query.offset(1).limit(2)) == ["b", "c"]
    assert [snapshot.id for snapshot in query.limit_to_last(2).get()] == ["d", "e"]
    assert _ids(query.limit(0)) == []


def test_projection_returns_only_the_selected_fields(db: firestore.Client) -> None:
    db.document("o/1").set({"a": {"x": 1, "y": 2}, "b": 1})
    found = next(db.collection("o").select(["a.x"]).stream())
    assert found.to_dict() == {"a": {"x": 1}}
    assert next(db.collection("o").select([]).stream()).to_dict() == {}


def test_collection_group_finds_documents_at_every_depth(db: firestore.Client) -> None:
    for path, value in {"g/1/x/1": 1, "g/2/x/2": 2, "x/3": 3, "g/1/x/1/x/9": 0, "y/1": 5}.items():
        db.document(path).set({"v": value})
    group = db.collection_group("x")
    assert [snapshot.reference.path for snapshot in group.stream()] == [
        "g/1/x/1",
        "g/1/x/1/x/9",
        "g/2/x/2",
        "x/3",
    ]
    assert _ids(group.order_by("v", direction="DESCENDING").limit(2)) == ["3", "2"]


def test_documents_are_filtered_and_ordered_by_name(db: firestore.Client) -> None:
    _fill(db, {"a": 3, "b": 2, "c": 1})
    b = db.document("o/b")
    by_name = db.collection("o").where(filter=FieldFilter("__name__", ">=", b))
    assert _ids(by_name) == ["b", "c"]
    listed = db.collection("o").where(filter=FieldFilter("__name__", "in", [b]))
    assert _ids(listed) == ["b"]
    with pytest.raises(exceptions.FailedPrecondition):
        _ids(db.collection("o").order_by("__name__", direction="DESCENDING"))


def test_aggregations_count_sum_and_average(db: firestore.Client) -> None:
    _fill(db, {"a": 1, "b": 2.5, "c": "text", "d": None, "e": ...})
    everything = db.collection("o")
    assert _aggregated(everything.count(alias="n")) == {"n": 5}
    assert _aggregated(everything.sum("v", alias="s").avg("v", alias="a")) == {"s": 3.5, "a": 1.75}
    assert _aggregated(everything.limit(2).count(alias="n")) == {"n": 2}
    nothing = db.collection("none")
    assert _aggregated(nothing.sum("v", alias="s").count(alias="n")) == {"s": 0, "n": 0}


def _aggregated(query: Any) -> dict[str, Any]:
    return {result.alias: result.value for row in query.get() for result in row}


def test_query_in_a_transaction_sees_the_collection(db: firestore.Client) -> None:
    _fill(db, {"a": 1, "b": 2})

    @firestore.transactional
    def total(transaction: firestore.Transaction) -> int:
        found = db.collection("o").stream(transaction=transaction)
        transaction.set(db.document("sums/1"), {"n": sum(s.get("v") for s in found)})
        return 0

    total(db.transaction())
    assert db.document("sums/1").get().get("n") == 3


@pytest.mark.parametrize(
    "query",
    [
        pytest.param({"limit": -1}, id="negative-limit"),
        pytest.param({"offset": -1}, id="negative-offset"),
        pytest.param({"where": ("v", "IN", [])}, id="empty-in"),
        pytest.param({"where": ("v", "IN", list(range(31)))}, id="31-values-in"),
        pytest.param({"where": ("v", "NOT_IN", list(range(11)))}, id="11-values-not-in"),
        pytest.param({"where": ("v", "IN", 1)}, id="in-no-list"),
        pytest.param({"where": ("v", "OPERATOR_UNSPECIFIED", 1)}, id="no-operator"),
        pytest.param({"where": ("a..b", "EQUAL", 1)}, id="bad-path"),
        pytest.param({"where": ("__name__", "EQUAL", 1)}, id="name-equals-number"),
        pytest.param({"order_by": ["v", "v"]}, id="twice-the-same-order"),
        pytest.param({"order_by": ["__name__", "v"]}, id="order-after-the-name"),
        pytest.param({"order_by": ["v"], "start_at": [1, 2]}, id="long-cursor"),
    ],
)
def test_query_that_makes_no_sense_is_refused(db: firestore.Client, query: dict[str, Any]) -> None:
    message: dict[str, Any] = {"from_": [{"collection_id": "o"}]}
    message |= {key: query[key] for key in ("limit", "offset") if key in query}
    if "where" in query:
        path, op, operand = query["where"]
        value = (
            {"array_value": {"values": [{"integer_value": n} for n in operand]}}
            if isinstance(operand, list)
            else {"integer_value": operand}
        )
        message["where"] = {"field_filter": {"field": {"field_path": path}, "op": op}}
        message["where"]["field_filter"]["value"] = value
    if "order_by" in query:
        message["order_by"] = [{"field": {"field_path": path}} for path in query["order_by"]]
    if "start_at" in query:
        message["start_at"] = {"values": [{"integer_value": n} for n in query["start_at"]]}
    request = {"parent": f"{db._database_string}/documents", "structured_query": message}
    with pytest.raises(exceptions.InvalidArgument):
        list(db._firestore_api.run_query(request=request, metadata=db._rpc_metadata))


# Listeners


class Snapshots:
    """What a listener was told, one item a snapshot: the results and the kinds of change."""

    def __init__(self, watched: Any) -> None:
        self._told: queue.Queue[tuple[dict[str, Any], list[str]]] = queue.Queue()
        self._watch = watched.on_snapshot(self._note)

    def _note(self, documents: Any, changes: Any, _: Any) -> None:
        found = {document.id: document.to_dict() for document in documents}
        kinds = [f"{change.type.name} {change.document.id}" for change in changes]
        self._told.put((found, kinds))

    def next(self) -> tuple[dict[str, Any], list[str]]:
        return self._told.get(timeout=TIMEOUT_S)

    def close(self) -> None:
        self._watch.unsubscribe()


def test_listener_of_a_document_is_told_of_every_change(db: firestore.Client) -> None:
    run = db.document("runs/1")
    snapshots = Snapshots(run)
    try:
        assert snapshots.next() == ({}, [])
        run.set({"v": 1})
        assert snapshots.next() == ({"1": {"v": 1}}, ["ADDED 1"])
        run.set({"v": 2})
        assert snapshots.next() == ({"1": {"v": 2}}, ["MODIFIED 1"])
        run.delete()
        assert snapshots.next() == ({}, ["REMOVED 1"])
    finally:
        snapshots.close()


def test_listener_of_a_query_is_told_what_enters_changes_and_leaves(db: firestore.Client) -> None:
    _fill(db, {"a": 1, "b": 5})
    snapshots = Snapshots(db.collection("o").where(filter=FieldFilter("v", ">", 1)).order_by("v"))
    try:
        assert snapshots.next() == ({"b": {"v": 5}}, ["ADDED b"])
        _fill(db, {"c": 3, "x": 0})
        found, changes = snapshots.next()
        assert (list(found), changes) == (["c", "b"], ["ADDED c"])
        db.document("o/b").set({"v": 2})
        found, changes = snapshots.next()
        assert (list(found), changes) == (["b", "c"], ["MODIFIED b"])
        db.document("o/c").set({"v": 1})
        assert snapshots.next() == ({"b": {"v": 2}}, ["REMOVED c"])
        db.document("o/b").delete()
        assert snapshots.next() == ({}, ["REMOVED b"])
    finally:
        snapshots.close()


def _name(db: firestore.Client, path: str) -> str:
    return f"{db._database_string}/documents/{path}"


def _document(db: firestore.Client, path: str, **fields: Any) -> types.Document:
    values = {
        name: value if isinstance(value, types.Value) else types.Value(integer_value=value)
        for name, value in fields.items()
    }
    return types.Document(name=_name(db, path), fields=values)


def _commit(db: firestore.Client, *writes: types.Write) -> None:
    request = {"database": db._database_string, "writes": list(writes)}
    db._firestore_api.commit(request=request, metadata=db._rpc_metadata)
