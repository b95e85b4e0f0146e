"""What answers while the model loads, and how many may wait for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from serving.errors import ModelBusy, ModelNotReady
from serving.model_slot import EMPTY, MAX_WAITERS, STARTING, ModelSlot
from serving.table import Table, Tables, TableWriter
from tests.recommenders import Alphabet, Direct, ready, rendered

DIGEST = "sha256:" + "0" * 64
DEADLINE_S = 30.0
MODEL = Alphabet()


class Recording(Direct):
    """A way to the model that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.asked: list[tuple[list[str], int]] = []

    def ask(self, customer_ids: Sequence[str], k: int) -> list[bytes]:
        self.asked.append((list(customer_ids), k))
        return super().ask(customer_ids, k)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """The prepared answers of C1 and C2, two products each."""
    table = TableWriter(tmp_path / "table", DIGEST, 0, 1, 2, 2)
    table.add("C1", [b'"a"', b'"b"'])
    table.add("C2", [b'"c"', b'"d"'])
    table.close()
    return Tables([Table(tmp_path / "table")], DIGEST)


@pytest.mark.parametrize("nothing", [STARTING, EMPTY])
def test_nothing_known_yet_every_question_gets_the_reason(nothing: object) -> None:
    slot = ModelSlot(nothing)  # type: ignore[arg-type]
    assert slot.nothing is nothing
    with pytest.raises(ModelNotReady, match=r"downloaded|no model is deployed"):
        slot.most_products()


def test_prepared_answers_are_given_while_the_model_loads(tables: Tables) -> None:
    slot, asking = ModelSlot(STARTING), Recording()
    slot.follow(asking)
    slot.set_prepared(tables, 20)
    assert slot.nothing is None
    assert slot.most_products() == 20
    assert slot.answers(["C2", "C1", "C2"], 1) == [
        b'{"customer_id":"%b","recommendations":["%b"]' % pair
        for pair in ((b"C2", b"c"), (b"C1", b"a"), (b"C2", b"c"))
    ]
    assert asking.asked == []


def test_only_what_is_not_prepared_is_asked_of_the_model(tables: Tables) -> None:
    slot, asking = ModelSlot(STARTING), Recording()
    slot.follow(asking)
    slot.set_prepared(tables, 20)
    slot.set_model(ready(MODEL))
    answers = slot.answers(["C3", "C1", "nobody", "C2", "C3"], 2)
    assert asking.asked == [(["C3", "nobody", "C3"], 2)]
    assert [answer[:18] for answer in answers] == [
        b'{"customer_id":"%b' % name for name in (b"C3", b"C1", b"no", b"C2", b"C3")
    ]
    assert slot.answers(["C1"], 3) == rendered(MODEL, ["C1"], 3)


def test_question_for_the_model_waits_for_its_load(tables: Tables) -> None:
    slot = ModelSlot(STARTING, load_wait_s=DEADLINE_S)
    slot.follow(Direct(MODEL))
    slot.set_prepared(tables, 20)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(slot.answers, ["C3", "C1"], 2)
        assert slot.answers(["C1"], 2)  # Meanwhile.
        slot.set_model(ready(MODEL))
        assert asked.result(DEADLINE_S)[0] == rendered(MODEL, ["C3"], 2)[0]


def test_load_that_takes_too_long_is_not_waited_for(tables: Tables) -> None:
    slot = ModelSlot(STARTING, load_wait_s=0.01)
    slot.follow(Direct(MODEL))
    slot.set_prepared(tables, 20)
    began = time.monotonic()
    for _ in range(2 * MAX_WAITERS):
        with pytest.raises(ModelNotReady, match="only prepared answers"):
            slot.answers(["C1", "C3"], 2)
    # More than may wait at a time, and each did wait: whoever gave up has left its place.
    assert time.monotonic() - began > 1.5 * MAX_WAITERS * 0.01
    slot.set_model(ready(MODEL))
    assert slot.answers(["C3"], 2) == rendered(MODEL, ["C3"], 2)


def test_more_than_may_wait_are_refused_at_once_and_the_others_answered(tables: Tables) -> None:
    slot, too_many = ModelSlot(STARTING, load_wait_s=DEADLINE_S), 5
    slot.follow(Direct(MODEL))
    slot.set_prepared(tables, 20)
    with ThreadPoolExecutor(MAX_WAITERS + too_many) as pool:
        asked = [pool.submit(slot.answers, ["C3"], 2) for _ in range(MAX_WAITERS + too_many)]
        refused = first_done(asked, too_many)
        assert all(isinstance(one.exception(), ModelNotReady) for one in refused)
        assert slot.answers(["C1"], 2)
        slot.set_model(ready(MODEL))
        waited = [one for one in asked if one not in refused]
        assert [one.result(DEADLINE_S) for one in waited] == [
            rendered(MODEL, ["C3"], 2)
        ] * MAX_WAITERS


def test_engine_that_ends_while_it_loads_is_not_waited_for(tables: Tables) -> None:
    slot = ModelSlot(STARTING, load_wait_s=DEADLINE_S)
    slot.follow(Direct(MODEL))
    slot.set_prepared(tables, 20)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(slot.answers, ["C3"], 2) for _ in range(5)]
        slot.set_ended()
        for one in asked:
            with pytest.raises(ModelNotReady, match="has ended"):
                one.result(DEADLINE_S / 2)
    assert slot.answers(["C1"], 2)


def first_done(asked: Sequence[Future[list[bytes]]], count: int) -> set[Future[list[bytes]]]:
    """Return the first `count` that end; fails where none does in time."""
    done: set[Future[list[bytes]]] = set()
    while len(done) < count:
        ended, _ = wait(set(asked) - done, DEADLINE_S, FIRST_COMPLETED)
        assert ended, f"only {len(done)} of {count} ended"
        done |= ended
    assert len(done) == count
    return done


def test_model_that_is_busy_refuses_the_whole_question(tables: Tables) -> None:
    class Busy:
        def ask(self, *_: object) -> list[bytes]:
            raise ModelBusy

    slot = ModelSlot(STARTING)
    slot.follow(Busy())
    slot.set_prepared(tables, 20)
    slot.set_model(ready(MODEL))
    with pytest.raises(ModelBusy):
        slot.answers(["C1", "C3"], 2)
    assert slot.answers(["C1", "C2"], 2)
