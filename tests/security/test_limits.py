"""A key's requests a minute: never more than its limit, whichever instances they reach."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import flask
import pytest
from google.cloud import firestore
from hypothesis import given
from hypothesis import strategies as st

from serving.app import create_app
from serving.errors import KeyStoreAway, TooManyRequests
from serving.firestore_keys import FirestoreKeys
from serving.keys import ApiKeys
from serving.limits import AWAY_PARTS, SMALLEST_PART, Limits
from serving.openapi import openapi_document
from serving.service import Service
from serving.usage import Usage
from shared.gcp.firestore import FirestoreKeys as KeyRecords
from tests.contract.firestore_backends import connected, local_firestore
from tests.unit.test_serving_app import SETTINGS, NoUsage
from tests.unit.test_serving_express import working_slot

PROJECT = "turnout-test"
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Sum:
    """The store: sums by key and minute; how often it was asked; it can be away."""

    def __init__(self) -> None:
        self.taken: Counter[tuple[str, int]] = Counter()
        self.asked = 0
        self.away = False

    def take(self, key_hash: str, minute: int, requests: int) -> int:
        self.asked += 1
        if self.away:
            raise KeyStoreAway("nobody answers")
        self.taken[key_hash, minute] += requests
        return self.taken[key_hash, minute]


def passed(limits: Limits, per_minute: int, requests: int = 1) -> int:
    """Send so many requests to an instance; return how many it lets through."""
    through = 0
    for _ in range(requests):
        try:
            limits.spend("key", per_minute)
        except TooManyRequests:
            continue
        through += 1
    return through


@given(
    per_minute=st.integers(1, 200),
    instances=st.integers(1, 8),
    sent=st.lists(
        st.tuples(st.integers(0, 7), st.floats(0, 20), st.booleans()), min_size=1, max_size=400
    ),
)
def test_no_clock_minute_gets_more_than_the_limit_and_each_instance_away_from_the_store_its_part(
    per_minute: int, instances: int, sent: list[tuple[int, float, bool]]
) -> None:
    store, now = Sum(), [NOON.timestamp()]
    fleet = [Limits(store.take, lambda: now[0]) for _ in range(instances)]
    through: Counter[int] = Counter()
    alone: dict[int, set[int]] = {}
    for which, later_s, away in sent:
        now[0] += later_s
        minute, which = int(now[0] // 60), which % instances
        store.away = away
        asked = store.asked
        through[minute] += passed(fleet[which], per_minute)
        if away and store.asked > asked:
            alone.setdefault(minute, set()).add(which)
    for minute, count in through.items():
        slack = len(alone.get(minute, ())) * max(per_minute // AWAY_PARTS, 1)
        assert count <= per_minute + slack


@given(per_minute=st.integers(1, 1_000), instances=st.integers(1, 10))
def test_evenly_loaded_fleet_gets_nearly_all_of_the_limit_for_few_questions(
    per_minute: int, instances: int
) -> None:
    store = Sum()
    fleet = [Limits(store.take, lambda: NOON.timestamp()) for _ in range(instances)]
    through = sum(passed(fleet[n % instances], per_minute) for n in range(2 * per_minute + 20))
    assert through == per_minute
    # Not one for each request: the smallest part bounds them, and one says that nothing is left.
    assert store.asked <= SMALLEST_PART + instances + 1


def test_share_that_an_instance_keeps_for_itself_is_no_more_than_an_eighth() -> None:
    store = Sum()
    idle, busy = (Limits(store.take, lambda: NOON.timestamp()) for _ in range(2))
    assert passed(idle, 800) == 1
    assert passed(busy, 800, 2_000) == 800 - 100


def test_next_minute_begins_anew() -> None:
    store, now = Sum(), [NOON.timestamp()]
    limits = Limits(store.take, lambda: now[0])
    assert passed(limits, 5, 9) == 5
    now[0] += 60
    assert passed(limits, 5, 9) == 5


def test_store_that_is_away_is_asked_once_a_minute_and_a_tenth_passes() -> None:
    store, now = Sum(), [NOON.timestamp()]
    store.away = True
    limits = Limits(store.take, lambda: now[0])
    assert passed(limits, 100, 500) == 100 // AWAY_PARTS
    assert store.asked == 1
    now[0] += 60
    store.away = False
    assert passed(limits, 100, 500) == 100


# Two instances of the real application on one Firestore.


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[firestore.Client]:
    with (
        pytest.MonkeyPatch.context() as patch,
        local_firestore(tmp_path_factory.mktemp("firestore")) as address,
        connected(address, PROJECT, patch) as client,
    ):
        yield client


def instance() -> flask.testing.FlaskClient:
    """Return a client of a serving instance; its clock stands still, its Firestore is real."""
    keys = ApiKeys("movies", FirestoreKeys(PROJECT), now=lambda: NOON)
    slot = working_slot()
    service = Service("v3", slot, keys, Usage(NoUsage()))
    return create_app(SETTINGS, slot, service, lambda: False).test_client()


def ask(client: flask.testing.FlaskClient, key: str, **batch: Any) -> Any:
    path, body = ("/recommend-batch", batch) if batch else ("/recommend", {"customer_id": "C1"})
    return client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})


def test_two_instances_on_one_firestore_let_the_limit_through_and_no_more(
    records: firestore.Client,
) -> None:
    _, key = KeyRecords(records).create("movies", "a shop", "ops@example.com", None, 30)
    fleet = [instance(), instance()]
    answers = [ask(fleet[number % 2], key) for number in range(50)]
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {200: 30, 429: 20}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json["code"] == "too_many_requests"
    assert "30 requests a minute" in refused.json["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert "429" in openapi_document("x")["paths"]["/recommend"]["post"]["responses"]


def test_batch_counts_as_one_request(records: firestore.Client) -> None:
    _, key = KeyRecords(records).create("movies", "a job", "ops@example.com", None, 2)
    client = instance()
    statuses = [ask(client, key, customer_ids=["C1"] * 100).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_key_without_a_limit_is_not_counted_and_one_with_nonsense_opens_nothing(
    records: firestore.Client,
) -> None:
    key_id, key = KeyRecords(records).create("movies", "a shop", "ops@example.com", None)
    client = instance()
    assert {ask(client, key).status_code for _ in range(20)} == {200}
    counted = [one.id for one in records.collection("rate_limits").stream() if key_id in one.id]
    assert counted == []
    records.collection("api_keys").document(key_id).update({"requests_per_minute": 0})
    assert ask(instance(), key).status_code == 401


def test_what_is_counted_holds_no_key_and_is_deleted_in_the_end(
    records: firestore.Client,
) -> None:
    _, key = KeyRecords(records).create("movies", "a shop", "ops@example.com", None, 60)
    assert ask(instance(), key).status_code == 200
    [counted] = [
        one
        for one in records.collection("rate_limits").stream()
        if hashlib.sha256(key.encode()).hexdigest() in one.id
    ]
    assert key not in counted.id
    fields = counted.to_dict() or {}
    assert fields["count"] == 7  # an eighth of sixty
    assert (fields["expires_at"] - NOON).total_seconds() == 3_600
