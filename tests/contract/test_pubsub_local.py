"""What Google's Pub/Sub does and its emulator does not: the local cloud's only."""

from __future__ import annotations

import base64
import queue
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import pubsub
from google.cloud.pubsub_v1.subscriber.message import Message
from google.protobuf import field_mask_pb2
from google.pubsub_v1 import types
from hypothesis import given
from hypothesis import strategies as st

from localcloud.identity import Identity
from localcloud.pubsub.backoff import RetryPolicy, backoff_us
from tests.contract.pubsub_backends import local_pubsub
from tests.contract.pubsub_cloud import TIMEOUT_S, Cloud, connected, eventually, subscribed
from tests.contract.push_endpoint import push_endpoint

SCHEMA = """
syntax = "proto3";
message TrainingCompleted {
  string model_id = 1;
  int32 run_number = 2;
  message Dataset { string name = 1; }
  Dataset dataset = 3;
}
"""
PUSHER = "pusher@test.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tmp_path_factory.mktemp("pubsub"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with local_pubsub(folder) as found:
        yield found


@pytest.fixture
def cloud(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with connected(address, f"test-{uuid.uuid4().hex[:8]}", monkeypatch) as made:
        yield made


def make_schema(cloud: Cloud, definition: str = SCHEMA, type_: int = 1) -> str:
    made = cloud.schemas.create_schema(
        parent=f"projects/{cloud.project}",
        schema={"type_": type_, "definition": definition},
        schema_id="training",
    )
    return str(made.name)


# --- publishing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"data": b"x", "attributes": {"google-mine": "1"}},
        {"data": b"x", "attributes": {"": "1"}},
        {"data": b"x", "attributes": {"k" * 257: "1"}},
        {"data": b"x", "attributes": {"k": "v" * 1025}},
        {"data": b"x", "attributes": {f"k{number}": "v" for number in range(101)}},
        {"data": b"x", "ordering_key": "k" * 1025},
    ],
    ids=["reserved key", "empty key", "long key", "long value", "many", "ordering key"],
)
def test_message_beyond_the_limits_is_refused(cloud: Cloud, message: dict[str, Any]) -> None:
    cloud.make_topic()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.publisher.publish(
            cloud.topic(),
            message["data"],
            ordering_key=message.get("ordering_key", ""),
            **message.get("attributes", {}),
        ).result(TIMEOUT_S)


def test_request_larger_than_ten_megabytes_is_refused(cloud: Cloud) -> None:
    topic = cloud.make_topic()
    request = types.PublishRequest(topic=topic, messages=[{"data": b"x" * 10_000_001}])
    # Under the client, which would refuse it by itself.
    with pytest.raises(grpc.RpcError, match="at most 10000000 are allowed") as refused:
        cloud.publisher.transport.publish(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_message_of_nine_megabytes_is_pushed_whole(cloud: Cloud) -> None:
    cloud.make_topic()
    data = bytes(range(256)) * 36_000
    with push_endpoint() as endpoint:
        cloud.make_subscription(push_config={"push_endpoint": endpoint.url})
        cloud.publish(data)
        (body,) = endpoint.wait_for(1)
    assert base64.b64decode(body["message"]["data"]) == data


def test_backlog_larger_than_one_answer_is_pulled_in_parts(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription()
    sent = [bytes([number]) * 1_500_000 for number in range(5)]
    cloud.publish(*sent)
    assert sorted(entry.message.data for entry in cloud.pull(count=5)) == sent


# --- filters ------------------------------------------------------------------------------


def test_filter_keeps_back_what_does_not_match(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription(filter='attributes.model = "movies" AND NOT attributes:test')
    cloud.publish(b"books", model="books")
    cloud.publish(b"test", model="movies", test="1")
    cloud.publish(b"movies", model="movies")
    assert [entry.message.data for entry in cloud.pull()] == [b"movies"]


def test_bad_filter_is_refused_with_the_place(cloud: Cloud) -> None:
    cloud.make_topic()
    with pytest.raises(exceptions.InvalidArgument, match="position 12"):
        cloud.make_subscription(filter="attributes ++")


# --- schemas ------------------------------------------------------------------------------


def test_message_that_follows_the_schema_is_published_and_marked(cloud: Cloud) -> None:
    schema = make_schema(cloud)
    cloud.make_topic(schema_settings={"schema": schema, "encoding": "JSON"})
    cloud.make_subscription()
    cloud.publish(b'{"model_id": "movies", "run_number": 47, "dataset": {"name": "all"}}')
    (entry,) = cloud.pull()
    assert entry.message.attributes == {
        "googclient_schemaname": schema,
        "googclient_schemaencoding": "JSON",
        "googclient_schemarevisionid": cloud.schemas.get_schema(name=schema).revision_id,
    }


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"model_id": "movies", "colour": "red"}', "colour"),
        (b'{"dataset": {"size": 3}}', "size"),
        (b'{"model_id": 7}', "expected string"),
        (b'{"run_number": "many"}', "run_number"),
        (b"not json", "JSON"),
        (b"[]", "JSON object"),
        (b"\xff", "utf-8"),
        (b"{" * 5000, "JSON"),
    ],
    ids=["unknown field", "unknown inner field", "number for string", "string for number",
         "no JSON", "no object", "no text", "too deep"],
)  # fmt: skip
def test_message_that_breaks_the_schema_is_refused_with_the_reason(
    cloud: Cloud, data: bytes, reason: str
) -> None:
    cloud.make_topic(schema_settings={"schema": make_schema(cloud), "encoding": "JSON"})
    cloud.make_subscription()
    with pytest.raises(exceptions.InvalidArgument, match=reason):
        cloud.publish(data)
    assert cloud.pull_now() == []


@pytest.mark.parametrize(("data", "fits"), [(b"\x0a\x06movies", True), (b"\x0a\x10movies", False)])
def test_binary_encoding_is_checked(cloud: Cloud, data: bytes, fits: bool) -> None:
    request = {
        "parent": f"projects/{cloud.project}",
        "name": make_schema(cloud),
        "message": data,
        "encoding": "BINARY",
    }
    if fits:
        cloud.schemas.validate_message(request=request)
    else:
        with pytest.raises(exceptions.InvalidArgument):
            cloud.schemas.validate_message(request=request)


def test_message_is_validated_against_a_schema_given_with_it(cloud: Cloud) -> None:
    request = {
        "parent": f"projects/{cloud.project}",
        "schema": {"type_": "PROTOCOL_BUFFER", "definition": SCHEMA},
        "encoding": "JSON",
    }
    cloud.schemas.validate_message(request={**request, "message": b'{"model_id": "movies"}'})
    with pytest.raises(exceptions.InvalidArgument, match="colour"):
        cloud.schemas.validate_message(request={**request, "message": b'{"colour": "red"}'})


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ('syntax = "proto3"; message M { string a = ; }', "Expected field number"),
        ('syntax = "proto3"; message M { Other a = 1; }', "Other"),
        ('syntax = "proto3"; message M { } message N { }', "2 top-level messages"),
        ("", "0 top-level messages"),
    ],
    ids=["syntax", "unknown type", "two messages", "empty"],
)
def test_bad_schema_definition_is_refused(cloud: Cloud, definition: str, reason: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=reason):
        make_schema(cloud, definition)
    with pytest.raises(exceptions.InvalidArgument, match=reason):
        cloud.schemas.validate_schema(
            parent=f"projects/{cloud.project}",
            schema={"type_": "PROTOCOL_BUFFER", "definition": definition},
        )


def test_schemas_are_listed_with_and_without_their_definition(cloud: Cloud) -> None:
    schema = make_schema(cloud)
    parent = f"projects/{cloud.project}"
    (basic,) = cloud.schemas.list_schemas(parent=parent)
    (full,) = cloud.schemas.list_schemas(request={"parent": parent, "view": "FULL"})
    assert (basic.name, basic.definition) == (schema, "")
    assert full.definition == SCHEMA
    with pytest.raises(exceptions.AlreadyExists):
        make_schema(cloud)


def test_topic_whose_schema_was_deleted_takes_no_messages(cloud: Cloud) -> None:
    schema = make_schema(cloud)
    topic = cloud.make_topic(schema_settings={"schema": schema, "encoding": "JSON"})
    cloud.schemas.delete_schema(name=schema)
    assert cloud.publisher.get_topic(topic=topic).schema_settings.schema == "_deleted-schema_"
    with pytest.raises(exceptions.FailedPrecondition):
        cloud.publish(b"{}")


def test_topic_update_changes_labels_and_removes_the_schema(cloud: Cloud) -> None:
    topic = cloud.make_topic(schema_settings={"schema": make_schema(cloud), "encoding": "JSON"})
    cloud.publisher.update_topic(
        topic={"name": topic, "labels": {"team": "models"}},
        update_mask=field_mask_pb2.FieldMask(paths=["labels", "schema_settings"]),
    )
    assert cloud.publisher.get_topic(topic=topic).labels == {"team": "models"}
    cloud.publish(b"no longer checked")


# --- push ---------------------------------------------------------------------------------


@pytest.mark.parametrize("audience", ["", "https://functions.example.com/deploy"])
def test_push_shows_an_id_token_of_its_service_account(
    cloud: Cloud, folder: Path, audience: str
) -> None:
    cloud.make_topic()
    with push_endpoint() as endpoint:
        cloud.make_subscription(
            push_config={
                "push_endpoint": endpoint.url,
                "oidc_token": {"service_account_email": PUSHER, "audience": audience},
            }
        )
        cloud.publish(b"signed")
        endpoint.wait_for(1)
        kind, token = endpoint.headers[0]["Authorization"].split()
    assert kind == "Bearer"
    claims = Identity(folder / "identity").verify(token, audience or endpoint.url)
    assert claims["email"] == PUSHER


@pytest.mark.parametrize("status", [102, 200, 201, 202, 204])
def test_push_answered_with_an_accepting_status_is_not_repeated(cloud: Cloud, status: int) -> None:
    cloud.make_topic()
    with push_endpoint(lambda _body: status) as endpoint:
        cloud.make_subscription(
            push_config={"push_endpoint": endpoint.url},
            retry_policy={"minimum_backoff": {"seconds": 0}, "maximum_backoff": {"seconds": 0}},
        )
        cloud.publish(b"first")
        endpoint.wait_for(1)
        # Without a rest, a repeat would come before what is published later.
        eventually(lambda: cloud.publish(b"next") and len(endpoint.bodies) >= 4, "more pushes")
        ids = [body["message"]["messageId"] for body in endpoint.bodies]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("status", [203, 206, 302, 400, 500])
def test_push_answered_with_another_status_is_repeated(cloud: Cloud, status: int) -> None:
    cloud.make_topic()
    answers = iter([status])
    with push_endpoint(lambda _body: next(answers, 204)) as endpoint:
        cloud.make_subscription(push_config={"push_endpoint": endpoint.url})
        (number,) = cloud.publish(b"again")
        bodies = endpoint.wait_for(2)
    assert [body["message"]["messageId"] for body in bodies] == [number, number]


def test_push_to_nobody_is_repeated_until_somebody_listens(cloud: Cloud) -> None:
    cloud.make_topic()
    with push_endpoint() as gone:
        pass
    subscription = cloud.make_subscription(push_config={"push_endpoint": gone.url})
    cloud.publish(b"patient")
    with push_endpoint() as endpoint:
        cloud.subscriber.modify_push_config(
            subscription=subscription, push_config={"push_endpoint": endpoint.url}
        )
        endpoint.wait_for(1)


def test_slow_endpoint_does_not_hold_up_another(cloud: Cloud) -> None:
    cloud.make_topic()
    released = threading.Event()

    def slow(_body: dict[str, Any]) -> int:
        released.wait(TIMEOUT_S)
        return 204

    with push_endpoint(slow) as stuck, push_endpoint() as quick:
        cloud.make_subscription("stuck", push_config={"push_endpoint": stuck.url})
        cloud.make_subscription("quick", push_config={"push_endpoint": quick.url})
        cloud.publish(*(f"{number}".encode() for number in range(50)))
        quick.wait_for(50)
        assert 0 < len(stuck.bodies) < 50
        released.set()
        stuck.wait_for(50)


def test_push_that_fails_too_often_is_dead_and_says_how_often(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_topic("dead")
    cloud.make_subscription("graveyard", topic="dead")
    with push_endpoint(lambda _body: 500) as endpoint:
        cloud.make_subscription(
            push_config={"push_endpoint": endpoint.url},
            retry_policy={"minimum_backoff": {"nanos": 1000000}, "maximum_backoff": {"seconds": 1}},
            dead_letter_policy={
                "dead_letter_topic": cloud.topic("dead"),
                "max_delivery_attempts": 5,
            },
        )
        cloud.publish(b"poison", model="movies")
        (dead,) = cloud.pull("graveyard")
        attempts = [body["deliveryAttempt"] for body in endpoint.bodies]
    assert attempts == [1, 2, 3, 4, 5]
    attributes = dict(dead.message.attributes)
    published = datetime.fromisoformat(
        attributes.pop("CloudPubSubDeadLetterSourceTopicPublishTime")
    )
    assert abs(datetime.now(UTC) - published) < timedelta(minutes=5)
    assert attributes == {
        "model": "movies",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "CloudPubSubDeadLetterSourceSubscription": "worker",
        "CloudPubSubDeadLetterSourceSubscriptionProject": cloud.project,
    }


def test_dead_letter_is_forwarded_although_nobody_pulls_any_more(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_topic("dead")
    cloud.make_subscription("graveyard", topic="dead")
    cloud.make_subscription(
        dead_letter_policy={"dead_letter_topic": cloud.topic("dead"), "max_delivery_attempts": 5}
    )
    cloud.publish(b"abandoned")
    for _ in range(4):
        cloud.extend(*cloud.pull(), deadline_s=0)
    cloud.extend(*cloud.pull(), deadline_s=1)
    assert [entry.message.data for entry in cloud.pull("graveyard")] == [b"abandoned"]


def test_message_stays_in_delivery_while_its_dead_letter_topic_is_gone(cloud: Cloud) -> None:
    cloud.make_topic()
    dead = cloud.make_topic("dead")
    cloud.make_subscription(
        dead_letter_policy={"dead_letter_topic": dead, "max_delivery_attempts": 5}
    )
    cloud.publish(b"kept")
    cloud.publisher.delete_topic(topic=dead)
    for attempt in range(1, 8):
        (entry,) = cloud.pull()
        assert entry.delivery_attempt == attempt
        cloud.extend(entry, deadline_s=0)


# --- retries and order --------------------------------------------------------------------


def test_retry_policy_makes_a_message_given_back_rest(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription(retry_policy={"minimum_backoff": {"seconds": 600}})
    cloud.publish(b"rests")
    cloud.extend(*cloud.pull(), deadline_s=0)
    assert cloud.pull_now() == []


@given(st.integers(0, 600_000_000), st.integers(0, 600_000_000), st.integers(1, 10_000))
def test_rest_doubles_between_minimum_and_maximum(one: int, other: int, attempts: int) -> None:
    policy = RetryPolicy(min(one, other), max(one, other))
    rest, following = backoff_us(policy, attempts), backoff_us(policy, attempts + 1)
    assert policy.minimum_us <= rest <= following <= policy.maximum_us
    assert following in (rest * 2, policy.maximum_us)


def test_later_messages_of_a_key_wait_while_an_earlier_one_rests(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription(enable_message_ordering=True)
    for key in ("movies", "books"):
        for number in (1, 2):
            cloud.publisher.publish(
                cloud.topic(), f"{key} {number}".encode(), ordering_key=key
            ).result(TIMEOUT_S)
    first = {entry.message.data: entry for entry in cloud.pull(count=2)}
    assert set(first) == {b"movies 1", b"books 1"}
    assert cloud.pull_now() == []
    cloud.acknowledge(first[b"books 1"])
    cloud.extend(first[b"movies 1"], deadline_s=0)
    assert {entry.message.data for entry in cloud.pull(count=2)} == {b"movies 1", b"books 2"}


def test_subscribe_never_holds_more_than_its_limit(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    cloud.publish(*(f"{number}".encode() for number in range(5)))
    held: queue.Queue[Message] = queue.Queue()
    limits = pubsub.types.FlowControl(max_messages=2)
    with subscribed(cloud, subscription, held.put, limits):
        for _ in range(4):
            eventually(lambda: held.qsize() == 2, "two messages held")
            # Whoever else asks gets those that the stream has no room for.
            held.get().ack()
        eventually(lambda: held.qsize() == 1, "the last message held")
        held.get().ack()
    eventually(lambda: cloud.pull_now() == [], "nothing left")


def test_message_beyond_a_streams_limit_is_free_for_others(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    cloud.publish(*(f"{number}".encode() for number in range(5)))
    held: queue.Queue[Message] = queue.Queue()
    with subscribed(cloud, subscription, held.put, pubsub.types.FlowControl(max_messages=2)):
        eventually(lambda: held.qsize() == 2, "two messages held")
        assert len(cloud.pull(count=3)) == 3


# --- detach, seek, expiry -----------------------------------------------------------------


def test_detached_subscription_delivers_nothing(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    cloud.publish(b"dropped")
    cloud.publisher.detach_subscription(request={"subscription": subscription})
    assert cloud.subscriber.get_subscription(subscription=subscription).detached
    with pytest.raises(exceptions.FailedPrecondition):
        cloud.subscriber.pull(subscription=subscription, max_messages=1)


def test_pull_from_a_push_subscription_is_refused(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription(push_config={"push_endpoint": "http://127.0.0.1:9/"})
    with pytest.raises(exceptions.FailedPrecondition):
        cloud.subscriber.pull(subscription=subscription, max_messages=1)


@pytest.mark.parametrize(
    ("topic_fields", "subscription_fields"),
    [
        ({}, {"retain_acked_messages": True}),
        ({"message_retention_duration": {"seconds": 3600}}, {}),
    ],
    ids=["retained by the subscription", "retained by the topic"],
)
def test_seek_to_the_past_delivers_acknowledged_messages_again(
    cloud: Cloud, topic_fields: dict[str, Any], subscription_fields: dict[str, Any]
) -> None:
    cloud.make_topic(**topic_fields)
    subscription = cloud.make_subscription(**subscription_fields)
    cloud.publish(b"replayed")
    cloud.acknowledge(*cloud.pull())
    assert cloud.pull_now() == []
    past = datetime.now(UTC) - timedelta(minutes=5)
    cloud.subscriber.seek(request={"subscription": subscription, "time": past})
    assert [entry.message.data for entry in cloud.pull()] == [b"replayed"]


def test_seek_to_the_future_acknowledges_the_backlog(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    cloud.publish(b"skipped")
    future = datetime.now(UTC) + timedelta(minutes=5)
    cloud.subscriber.seek(request={"subscription": subscription, "time": future})
    assert cloud.pull_now() == []


# --- what is not supported says so ---------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"enable_exactly_once_delivery": True}, "enable_exactly_once_delivery"),
        ({"bigquery_config": {"table": "p.d.t"}}, "bigquery_config"),
        ({"cloud_storage_config": {"bucket": "b"}}, "cloud_storage_config"),
        ({"message_transforms": [{"disabled": True}]}, "message_transforms"),
        ({"push_config": {"push_endpoint": "http://127.0.0.1:9/", "no_wrapper": {}}}, "no_wrapper"),
        ({"push_config": {"attributes": {"x-goog-version": "v1beta1"}}}, "x-goog-version"),
        ({"tags": {"1/env": "test"}}, "tags"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_subscription_feature_that_is_missing_is_refused_by_name(
    cloud: Cloud, fields: dict[str, Any], named: str
) -> None:
    cloud.make_topic()
    with pytest.raises(exceptions.MethodNotImplemented, match=named):
        cloud.make_subscription(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"kms_key_name": "k"},
        {"message_storage_policy": {"allowed_persistence_regions": ["europe-central2"]}},
        {"ingestion_data_source_settings": {"aws_kinesis": {"stream_arn": "a"}}},
        {"message_transforms": [{"disabled": True}]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_topic_feature_that_is_missing_is_refused_by_name(
    cloud: Cloud, fields: dict[str, Any]
) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match=next(iter(fields))):
        cloud.make_topic(**fields)


def test_avro_schema_is_refused_by_name(cloud: Cloud) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match="AVRO"):
        make_schema(cloud, '{"type": "string"}', type_=2)


def test_imports_in_a_schema_are_refused_by_name(cloud: Cloud) -> None:
    definition = 'syntax = "proto3"; import "google/protobuf/any.proto"; message M { }'
    with pytest.raises(exceptions.MethodNotImplemented, match=r"google/protobuf/any\.proto"):
        make_schema(cloud, definition)


def test_snapshot_is_refused_by_name(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    with pytest.raises(exceptions.MethodNotImplemented, match="snapshots"):
        cloud.subscriber.create_snapshot(
            name=f"projects/{cloud.project}/snapshots/now", subscription=subscription
        )
