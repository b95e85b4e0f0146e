"""API keys: what opens, how long a verdict is kept, and what happens while the store is away."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from serving.errors import InvalidApiKey, KeyStoreAway, KeysUnavailable, MissingApiKey
from serving.keys import (
    AWAY_PAUSE_S,
    CACHE_SIZE,
    NEGATIVE_TTL_S,
    POSITIVE_TTL_S,
    STALE_LIMIT_S,
    ApiKeys,
    StoredKey,
)

GOOD = "good-key"
START = datetime(2026, 11, 24, tzinfo=UTC)


class Clock:
    """Time that moves only when told to."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def monotonic(self) -> float:
        return self.s

    def now(self) -> datetime:
        return START + timedelta(seconds=self.s - 1_000.0)


class Store:
    """Keys in memory; counts how often it was asked and can be away."""

    def __init__(self) -> None:
        self.keys: dict[str, StoredKey] = {}
        self.taken: Counter[tuple[str, int]] = Counter()
        self.asked = 0
        self.away = False
        self.before_answer: Callable[[], None] = lambda: None

    def add(self, key: str, **changes: object) -> None:
        key_hash = hashlib.sha256(key.encode()).hexdigest()
        stored = StoredKey(key_hash, "movies", True, None)
        self.keys[key_hash] = replace(stored, **changes)  # type: ignore[arg-type]

    def find(self, key_hash: str) -> StoredKey | None:
        self.asked += 1
        self.before_answer()
        if self.away:
            raise KeyStoreAway("nobody answers")
        return self.keys.get(key_hash)

    def take(self, key_hash: str, minute: int, requests: int) -> int:
        if self.away:
            raise KeyStoreAway("nobody answers")
        self.taken[key_hash, minute] += requests
        return self.taken[key_hash, minute]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    store = Store()
    store.add(GOOD)
    return store


@pytest.fixture
def keys(store: Store, clock: Clock) -> ApiKeys:
    return ApiKeys("movies", store, clock.monotonic, clock.now)


def check(keys: ApiKeys, key: str = GOOD) -> None:
    keys.check(f"Bearer {key}")


def test_good_key_opens_and_is_looked_up_once(keys: ApiKeys, store: Store) -> None:
    for _ in range(5):
        check(keys)
    assert store.asked == 1


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"is_active": False}, id="revoked"),
        pytest.param({"model_id": "books"}, id="another model's"),
        pytest.param({"expires_at": START}, id="expired"),
        pytest.param({"key_hash": "0" * 64}, id="another key's hash"),
    ],
)
def test_key_that_must_not_open_is_refused(
    keys: ApiKeys, store: Store, changes: dict[str, object]
) -> None:
    store.add("bad-key", **changes)
    with pytest.raises(InvalidApiKey):
        check(keys, "bad-key")


def test_revoked_key_works_no_longer_than_the_stated_time(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    check(keys)
    store.add(GOOD, is_active=False)
    clock.s += POSITIVE_TTL_S - 0.1
    check(keys)
    clock.s += 0.1
    with pytest.raises(InvalidApiKey):
        check(keys)


def test_key_that_expires_while_it_is_cached_is_refused(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    store.add(GOOD, expires_at=START + timedelta(seconds=10))
    check(keys)
    clock.s += 10
    with pytest.raises(InvalidApiKey):
        check(keys)


def test_unknown_key_is_not_looked_up_at_every_request(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    for _ in range(3):
        with pytest.raises(InvalidApiKey):
            check(keys, "new-key")
    assert store.asked == 1
    store.add("new-key")
    clock.s += NEGATIVE_TTL_S
    check(keys, "new-key")


def test_store_away_key_seen_within_the_hour_still_opens(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    check(keys)
    store.away = True
    clock.s += STALE_LIMIT_S
    check(keys)
    clock.s += 1
    with pytest.raises(KeysUnavailable):
        check(keys)


def test_store_away_key_not_seen_is_neither_let_in_nor_refused(keys: ApiKeys, store: Store) -> None:
    store.away = True
    with pytest.raises(KeysUnavailable):
        check(keys, "never-seen")


def test_store_away_key_refused_before_is_not_let_in(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    with pytest.raises(InvalidApiKey):
        check(keys, "wrong")
    store.away = True
    clock.s += NEGATIVE_TTL_S
    with pytest.raises(KeysUnavailable):
        check(keys, "wrong")


def test_store_away_is_asked_once_a_second_not_at_every_request(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    store.away = True
    for number in range(20):
        with pytest.raises(KeysUnavailable):
            check(keys, f"key-{number}")
    assert store.asked == 1
    store.away = False
    clock.s += AWAY_PAUSE_S
    check(keys)


def test_store_back_after_an_outage_refuses_what_was_revoked_meanwhile(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    check(keys)
    store.away = True
    clock.s += POSITIVE_TTL_S
    check(keys)
    store.away = False
    store.add(GOOD, is_active=False)
    clock.s += AWAY_PAUSE_S
    with pytest.raises(InvalidApiKey):
        check(keys)


def test_key_whose_document_vanished_opens_for_an_hour_after_the_store_had_it(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    check(keys)
    store.keys.clear()
    for _ in range(int(STALE_LIMIT_S / POSITIVE_TTL_S)):
        clock.s += POSITIVE_TTL_S
        check(keys)
    clock.s += POSITIVE_TTL_S
    with pytest.raises(InvalidApiKey):
        check(keys)


def test_store_that_lost_everything_is_not_asked_at_every_request(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    check(keys)
    store.keys.clear()
    clock.s += POSITIVE_TTL_S
    for _ in range(3):
        check(keys)
    assert store.asked == 2


def test_key_that_comes_back_revoked_after_it_had_vanished_is_refused(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    check(keys)
    store.keys.clear()
    clock.s += POSITIVE_TTL_S
    check(keys)
    store.add(GOOD, is_active=False)
    clock.s += POSITIVE_TTL_S
    with pytest.raises(InvalidApiKey):
        check(keys)


def test_key_of_another_store_that_never_opened_here_gains_nothing_by_vanishing(
    keys: ApiKeys, store: Store, clock: Clock
) -> None:
    store.add("bad-key", is_active=False)
    with pytest.raises(InvalidApiKey):
        check(keys, "bad-key")
    store.keys.clear()
    clock.s += NEGATIVE_TTL_S
    with pytest.raises(InvalidApiKey):
        check(keys, "bad-key")


def test_made_up_keys_do_not_fill_the_memory(keys: ApiKeys, store: Store) -> None:
    for number in range(CACHE_SIZE + 1):
        with pytest.raises(InvalidApiKey):
            check(keys, f"key-{number}")
    asked = store.asked
    with pytest.raises(InvalidApiKey):
        check(keys, f"key-{CACHE_SIZE}")
    assert store.asked == asked
    with pytest.raises(InvalidApiKey):
        check(keys, "key-0")
    assert store.asked == asked + 1


def test_requests_with_one_key_share_one_look_up(keys: ApiKeys, store: Store) -> None:
    release = threading.Event()
    store.before_answer = lambda: release.wait(10) and None
    threads = [threading.Thread(target=check, args=(keys,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(10)
    assert store.asked == 1


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic x", "Bearer a b"], ids=repr)
def test_header_without_a_key_is_not_looked_up(
    keys: ApiKeys, store: Store, header: str | None
) -> None:
    with pytest.raises(MissingApiKey):
        keys.check(header)
    assert store.asked == 0


def test_connect_while_the_store_is_away_raises_nothing(keys: ApiKeys, store: Store) -> None:
    store.away = True
    keys.connect()
    assert store.asked == 1
