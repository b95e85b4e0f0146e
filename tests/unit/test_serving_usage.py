"""Usage: what is written when, what is kept while the store is away, how true the counts are."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from serving.usage import KEPT_HOURS, LG_K, NOTED_AT_MOST, Usage, UsageStoreAway
from shared.sketches import LG_K as LG_K_READ
from shared.sketches import count_distinct

HOUR = datetime(2026, 11, 24, 14, tzinfo=UTC)


class Clock:
    """Time that moves only when told to."""

    def __init__(self) -> None:
        self.at = HOUR + timedelta(minutes=20)

    def __call__(self) -> float:
        return self.at.timestamp()


class Store:
    """Usage in memory; counts what is written and can be away."""

    def __init__(self) -> None:
        self.sketches: dict[datetime, bytes] = {}
        self.keys: dict[str, datetime] = {}
        self.writes = 0
        self.away = False

    def save_sketch(self, hour: datetime, sketch: bytes) -> None:
        self._write()
        self.sketches[hour] = sketch

    def save_key_use(self, key_hash: str, at: datetime) -> None:
        self._write()
        self.keys[key_hash] = at

    def customers(self, hour: datetime = HOUR) -> int:
        return count_distinct([self.sketches[hour]])

    def _write(self) -> None:
        if self.away:
            raise UsageStoreAway("nobody answers")
        self.writes += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def usage(store: Store, clock: Clock) -> Usage:
    return Usage(store, now=clock)


def named(numbers: Iterable[int]) -> list[str]:
    return [f"C{number:06d}" for number in numbers]


def test_noting_writes_nothing_by_itself(usage: Usage, store: Store) -> None:
    usage.note_key("k")
    usage.note_customers(["C1"])
    assert store.writes == 0


def test_flush_writes_the_hours_customers_and_the_keys_last_use(
    usage: Usage, store: Store, clock: Clock
) -> None:
    usage.note_key("k")
    usage.note_customers(["C1", "C2"])
    clock.at += timedelta(seconds=30)
    usage.note_key("k")
    usage.note_customers(["C2", "C3"])
    usage.flush()
    assert store.customers() == 3
    assert store.keys == {"k": clock.at}


def test_flush_without_anything_new_writes_nothing(usage: Usage, store: Store) -> None:
    usage.note_key("k")
    usage.note_customers(["C1"])
    usage.flush()
    usage.note_customers(["C1"])
    usage.flush()
    assert store.writes == 2


def test_more_customers_than_are_noted_at_a_time_are_all_counted(
    usage: Usage, store: Store
) -> None:
    customers = named(range(3 * NOTED_AT_MOST))
    for begin in range(0, len(customers), 1_000):
        usage.note_customers(customers[begin : begin + 1_000])
    usage.flush()
    # Three standard errors of one sketch; the hashes are fixed, so it holds always or never.
    assert store.customers() == pytest.approx(len(customers), rel=3 * 0.013)


def test_customers_noted_before_the_hour_ended_belong_to_it(
    usage: Usage, store: Store, clock: Clock
) -> None:
    usage.note_customers(["C1", "C2"])
    clock.at += timedelta(hours=1)
    usage.flush()
    assert list(store.sketches) == [HOUR]
    assert store.customers(HOUR) == 2


def test_next_hour_has_a_sketch_of_its_own(usage: Usage, store: Store, clock: Clock) -> None:
    usage.note_customers(["C1", "C2"])
    clock.at += timedelta(hours=1)
    usage.note_customers(["C2"])
    usage.flush()
    assert store.customers(HOUR) == 2
    assert store.customers(HOUR + timedelta(hours=1)) == 1


def test_clock_set_back_over_the_hour_overwrites_no_customer(
    usage: Usage, store: Store, clock: Clock
) -> None:
    usage.note_customers(["C1", "C2"])
    clock.at += timedelta(hours=1)
    usage.note_customers(["C3"])
    usage.flush()
    clock.at -= timedelta(hours=1)
    usage.note_customers(["C4"])
    usage.flush()
    assert store.customers(HOUR) == 3


def test_store_away_everything_is_written_once_it_is_back(
    usage: Usage, store: Store, clock: Clock
) -> None:
    store.away = True
    usage.note_key("used before")
    usage.note_customers(["C1"])
    usage.flush()
    clock.at += timedelta(hours=2)
    usage.note_key("used after")
    usage.note_customers(["C2"])
    usage.flush()
    store.away = False
    usage.flush()
    assert store.customers(HOUR) == store.customers(HOUR + timedelta(hours=2)) == 1
    assert store.keys == {
        "used before": clock.at - timedelta(hours=2),
        "used after": clock.at,
    }


def test_store_away_a_key_used_again_is_not_set_back(
    usage: Usage, store: Store, clock: Clock
) -> None:
    store.away = True
    usage.note_key("k")
    usage.flush()
    clock.at += timedelta(minutes=1)
    usage.note_key("k")
    store.away = False
    usage.flush()
    assert store.keys == {"k": clock.at}


def test_store_away_for_days_the_oldest_hours_are_given_up_and_said(
    usage: Usage, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.away = True
    usage.note_customers(["C1"])
    usage.flush()
    clock.at += timedelta(hours=KEPT_HOURS + 1)
    usage.note_customers(["C2"])
    usage.flush()
    store.away = False
    usage.flush()
    assert list(store.sketches) == [HOUR + timedelta(hours=KEPT_HOURS + 1)]
    assert "customers of an hour are lost" in caplog.messages


def test_killed_process_loses_only_what_came_after_the_last_flush(
    store: Store, clock: Clock
) -> None:
    killed = Usage(store, now=clock)
    killed.note_customers(named(range(10)))
    killed.flush()
    killed.note_customers(named(range(10, 15)))
    del killed
    assert store.customers() == 10


def test_two_instances_customers_in_common_count_once(clock: Clock) -> None:
    stores = [Store(), Store()]
    for store, numbers in zip(stores, (range(6_000), range(4_000, 10_000)), strict=True):
        instance = Usage(store, now=clock)
        instance.note_customers(named(numbers))
        instance.flush()
    found = count_distinct([store.sketches[HOUR] for store in stores])
    # Three standard errors of a union; the hashes are fixed, so it holds always or never.
    assert found == pytest.approx(10_000, rel=3 * 0.0162)


def test_restarted_instance_counts_nobody_twice(clock: Clock) -> None:
    stores = [Store(), Store()]
    for store in stores:
        instance = Usage(store, now=clock)
        instance.note_customers(named(range(100)))
        instance.flush()
    assert count_distinct([store.sketches[HOUR] for store in stores]) == 100


@pytest.mark.parametrize("customers", [1, 10, 380])
def test_few_customers_are_counted_exactly(usage: Usage, store: Store, customers: int) -> None:
    usage.note_customers(named(range(customers)))
    usage.flush()
    assert store.customers() == customers


def test_sketch_that_cannot_be_read_is_left_out_and_said(
    usage: Usage, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    usage.note_customers(["C1"])
    usage.flush()
    assert count_distinct([b"torn", store.sketches[HOUR], store.sketches[HOUR][:5]]) == 1
    assert capsys.readouterr().out.count("sketch is unreadable") == 2


def test_reader_is_as_precise_as_the_writer() -> None:
    assert LG_K_READ >= LG_K


def test_stored_sketch_contains_no_customer_id(usage: Usage, store: Store) -> None:
    usage.note_customers(["customer-4711"])
    usage.flush()
    assert b"4711" not in store.sketches[HOUR]


def test_threads_noting_while_it_is_flushed_lose_nothing(usage: Usage, store: Store) -> None:
    began = threading.Barrier(5)

    def note(thread: int) -> None:
        began.wait()
        for number in range(60):
            usage.note_key(f"key-{thread}-{number}")
            usage.note_customers([f"C{thread}-{number}"])

    threads = [threading.Thread(target=note, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    began.wait()
    while any(thread.is_alive() for thread in threads):
        usage.flush()
    usage.flush()
    assert store.customers() == 240
    assert len(store.keys) == 240


def test_run_writes_at_its_interval_and_close_writes_the_rest(clock: Clock) -> None:
    written = threading.Event()

    class Telling(Store):
        def save_sketch(self, hour: datetime, sketch: bytes) -> None:
            super().save_sketch(hour, sketch)
            written.set()

    telling = Telling()
    usage = Usage(telling, flush_s=0.01, now=clock)
    usage.note_customers(["C1"])
    thread = threading.Thread(target=usage.run)
    thread.start()
    assert written.wait(10)
    usage.note_customers(["C2"])
    usage.close()
    thread.join(10)
    assert not thread.is_alive()
    assert telling.customers() == 2
