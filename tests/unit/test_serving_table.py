"""Prepared answers: what is written is found again, and nothing else is ever taken for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.errors import ArtifactMismatch
from serving.table import LONGEST_ID_BYTES, MAGIC, Table, Tables, TableWriter, shard_of

DIGEST, OTHER_DIGEST = "sha256:" + "a1" * 32, "sha256:" + "b2" * 32
Items = Sequence[tuple[str, float]]

ids = st.text(st.characters(codec="utf-8"), max_size=12)


def write(
    folder: Path, answers: Mapping[str, Items], top_k: int, shards: int = 1, digest: str = DIGEST
) -> list[Path]:
    """Write each customer's items into the table of its shard; returns the tables' paths."""
    paths = [folder / f"{shard}-of-{shards}" for shard in range(shards)]
    for shard, path in enumerate(paths):
        mine = {id_: items for id_, items in answers.items() if shard_of(id_, shards) == shard}
        table = TableWriter(path, digest, shard, shards, top_k, len(mine))
        for customer_id, items in mine.items():
            table.add(
                customer_id,
                [orjson.dumps({"product_id": name, "score": score}) for name, score in items],
            )
        table.close()
    return paths


def find(tables: Tables, customer_id: str, k: int) -> bytes | None:
    """Return what is prepared for one customer."""
    [answer] = tables.find([customer_id], k)
    return answer


def read(paths: Sequence[Path], digest: str = DIGEST) -> Tables:
    return Tables(map(Table, paths), digest)


@given(
    shards=st.integers(1, 5),
    answers=st.integers(1, 4).flatmap(
        lambda top_k: st.dictionaries(
            ids,
            st.lists(
                st.tuples(st.text(max_size=4), st.floats(width=32, allow_infinity=False)),
                min_size=top_k,
                max_size=top_k,
            ),
            min_size=1,
            max_size=40,
        )
    ),
    strangers=st.lists(st.text(), max_size=9),
)
@example(shards=1, answers={"": [("P", 1.0)], '"\\\n\x00\u2028': [('"', 0.5)]}, strangers=["\\"])
@example(
    shards=2,
    answers={"é" * (LONGEST_ID_BYTES // 2): [("P", 1.0)], "C" * LONGEST_ID_BYTES: [("Q", 1.0)]},
    strangers=["é" * (LONGEST_ID_BYTES // 2) + "e", "C" * (LONGEST_ID_BYTES + 1), "C" * 99_999],
)
def test_every_customer_gets_its_answer_at_every_k_and_nobody_else_does(
    shards: int, answers: dict[str, Items], strangers: list[str]
) -> None:
    top_k = len(next(iter(answers.values())))
    with TemporaryDirectory() as folder:
        tables = read(write(Path(folder), answers, top_k, shards))
        assert (tables.customers, tables.top_k) == (len(answers), top_k)
        for customer_id, items in answers.items():
            for k in range(1, top_k + 1):
                found = find(tables, customer_id, k)
                assert found is not None
                assert found + b"}" == orjson.dumps(
                    {
                        "customer_id": customer_id,
                        "recommendations": [
                            {"product_id": name, "score": score} for name, score in items[:k]
                        ],
                    }
                )
            assert find(tables, customer_id, top_k + 1) is None
        for stranger in set(strangers) - set(answers):
            assert find(tables, stranger, 1) is None


def test_batch_is_found_in_its_order_with_gaps_where_nothing_is_prepared(tmp_path: Path) -> None:
    answers = {f"C{n}": [(f"P{n}", 1.0), ("Q", 0.5)] for n in range(30)}
    tables = read(write(tmp_path, answers, 2, shards=3))
    asked = ["C7", "nobody", "C3", "", "C29", "C7"]
    assert tables.find(asked, 2) == [find(tables, customer_id, 2) for customer_id in asked]
    assert [answer is None for answer in tables.find(asked, 1)] == [False, True] * 2 + [False] * 2
    assert tables.find(asked, 3) == [None] * len(asked)


def test_set_of_tables_with_different_numbers_of_products_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first = write(one, {"C1": [("P1", 1.0)]}, 1, shards=2)
    second = write(other, {"C1": [("P1", 1.0), ("P2", 0.5)]}, 2, shards=2)
    with pytest.raises(ArtifactMismatch, match="different top_k"):
        read([first[0], second[1]])


def test_customers_whose_ids_begin_at_the_same_slot_are_told_apart(tmp_path: Path) -> None:
    # With 16 slots and 8 customers, some share a slot; each is found past the others.
    for begin in range(0, 800, 8):
        answers = {f"C{n}": [(f"P{n}", 1.0)] for n in range(begin, begin + 8)}
        tables = read(write(tmp_path, answers, 1))
        for customer_id, [(product, _)] in answers.items():
            found = json.loads((find(tables, customer_id, 1) or b"") + b"}")
            assert found["recommendations"][0]["product_id"] == product
        assert find(tables, f"C{begin + 8}", 1) is None


def test_shard_without_a_customer_is_a_table_too(tmp_path: Path) -> None:
    tables = read(write(tmp_path, {"C1": [("P", 1.0)]}, 1, shards=3))
    assert tables.customers == 1
    assert find(tables, "C1", 1) is not None
    assert [find(tables, f"C{number}", 1) for number in range(2, 30)] == [None] * 28


@given(st.dictionaries(ids, st.just([("P", 1.0)]), max_size=20))
def test_same_answers_give_the_same_bytes(answers: dict[str, Items]) -> None:
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        [one], [other] = (write(Path(folder), answers, 1) for folder in (first, second))
        assert one.read_bytes() == other.read_bytes()


def test_table_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    [path] = write(tmp_path, {"C1": [("P1", 1.0)], "C2": [("P1", 1.0)]}, 1)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactMismatch, match="0-of-1"):
            Table(path)


def test_table_with_more_behind_it_is_refused(tmp_path: Path) -> None:
    [path] = write(tmp_path, {"C1": [("P1", 1.0)]}, 1)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArtifactMismatch, match="its header says"):
        Table(path)


def test_table_whose_writing_was_not_finished_is_refused(tmp_path: Path) -> None:
    table = TableWriter(tmp_path / "torn", DIGEST, 0, 1, 1, 1)
    table.add("C1", [b"{}"])
    del table
    with pytest.raises(ArtifactMismatch):
        Table(tmp_path / "torn")


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: MAGIC + rest))
def test_file_of_another_kind_is_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "foreign"
        path.write_bytes(content)
        with pytest.raises(ArtifactMismatch, match="foreign"):
            Table(path)


def test_table_of_another_model_is_refused(tmp_path: Path) -> None:
    paths = write(tmp_path, {"C1": [("P1", 1.0)]}, 1, digest=OTHER_DIGEST)
    with pytest.raises(ArtifactMismatch, match="another model's"):
        read(paths)


def test_set_with_a_table_of_another_model_is_refused(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    answers = {"C1": [("P1", 1.0)]}
    first = write(mine, answers, 1, shards=2)
    second = write(other, answers, 1, shards=2, digest=OTHER_DIGEST)
    with pytest.raises(ArtifactMismatch, match="another model's"):
        read([first[0], second[1]])


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param([0, 1], id="one missing"),
        pytest.param([0, 1, 1], id="one twice"),
        pytest.param([0, 1, 2, 2], id="one too many"),
        pytest.param([], id="none"),
    ],
)
def test_set_that_is_not_whole_is_refused(tmp_path: Path, chosen: list[int]) -> None:
    paths = write(tmp_path, {"C1": [("P1", 1.0)]}, 1, shards=3)
    with pytest.raises(ArtifactMismatch, match="not one whole set"):
        read([paths[number] for number in chosen])


def test_order_in_which_tables_are_named_does_not_matter(tmp_path: Path) -> None:
    answers = {f"C{n}": [(f"P{n}", 1.0)] for n in range(30)}
    tables = read(write(tmp_path, answers, 1, shards=3)[::-1])
    assert all(find(tables, customer_id, 1) for customer_id in answers)
