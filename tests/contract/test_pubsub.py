"""What every Pub/Sub does: the local cloud's, and Google's emulator wherever it is found."""

from __future__ import annotations

import base64
import queue
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud import pubsub

from localcloud.google_emulators import PUBSUB
from tests.contract.pubsub_backends import (
    LOCAL,
    available_backends,
    describe_backends,
    local_pubsub,
)
from tests.contract.pubsub_cloud import TIMEOUT_S, Cloud, connected, eventually, subscribed
from tests.contract.push_endpoint import push_endpoint


@pytest.fixture(scope="module", params=available_backends())
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    running = (
        local_pubsub(Path(tmp_path_factory.mktemp("pubsub")))
        if request.param == LOCAL
        else PUBSUB.running()
    )
    with running as found:
        yield found


@pytest.fixture
def cloud(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with connected(address, f"test-{uuid.uuid4().hex[:8]}", monkeypatch) as made:
        yield made


def test_backends_are_described_in_one_line() -> None:
    assert "local cloud" in describe_backends()
    assert "\n" not in describe_backends()


def test_topic_created_is_found_listed_and_deleted(cloud: Cloud) -> None:
    topic = cloud.make_topic(labels={"team": "models"})
    assert cloud.publisher.get_topic(topic=topic).labels == {"team": "models"}
    listed = cloud.publisher.list_topics(project=f"projects/{cloud.project}")
    assert [entry.name for entry in listed] == [topic]
    cloud.publisher.delete_topic(topic=topic)
    with pytest.raises(exceptions.NotFound):
        cloud.publisher.get_topic(topic=topic)


def test_topic_created_twice_is_refused(cloud: Cloud) -> None:
    cloud.make_topic()
    with pytest.raises(exceptions.AlreadyExists):
        cloud.make_topic()


@pytest.mark.parametrize("name", ["goog-mine", "ab", "1topic", "with space"])
def test_topic_with_a_bad_name_is_refused(cloud: Cloud, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        cloud.make_topic(name)


def test_publish_without_data_and_attributes_is_refused(cloud: Cloud) -> None:
    cloud.make_topic()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.publish(b"")


def test_publish_to_an_unknown_topic_is_refused(cloud: Cloud) -> None:
    with pytest.raises(exceptions.NotFound):
        cloud.publish(b"lost")


def test_published_messages_are_pulled_with_everything_they_carry(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription()
    ids = cloud.publish(b"one", b"two", source="trainer")
    received = cloud.pull(count=2)
    assert len(set(ids)) == 2
    assert {entry.message.message_id: entry.message.data for entry in received} == {
        ids[0]: b"one",
        ids[1]: b"two",
    }
    for entry in received:
        assert entry.message.attributes == {"source": "trainer"}
        assert entry.message.publish_time.timestamp() > 0
        assert entry.delivery_attempt == 0


def test_message_published_before_the_subscription_is_not_delivered(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.publish(b"early")
    cloud.make_subscription()
    cloud.publish(b"late")
    assert [entry.message.data for entry in cloud.pull()] == [b"late"]


def test_every_subscription_gets_its_own_copy(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription("first")
    cloud.make_subscription("second")
    cloud.publish(b"both")
    cloud.acknowledge(*cloud.pull("first"), name="first")
    assert [entry.message.data for entry in cloud.pull("second")] == [b"both"]


def test_acknowledged_message_is_not_delivered_again(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription()
    cloud.publish(b"done")
    received = cloud.pull()
    cloud.acknowledge(*received)
    cloud.acknowledge(*received)  # A repeat is no error.
    cloud.publish(b"next")
    assert [entry.message.data for entry in cloud.pull()] == [b"next"]


def test_message_given_back_is_delivered_again(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription()
    (number,) = cloud.publish(b"again")
    cloud.extend(*cloud.pull(), deadline_s=0)
    assert [entry.message.message_id for entry in cloud.pull()] == [number]


def test_message_is_hidden_while_somebody_works_on_it(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription()
    cloud.publish(b"mine")
    cloud.extend(*cloud.pull(), deadline_s=600)
    assert cloud.pull_now() == []


def test_message_whose_deadline_passed_is_delivered_again(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription()
    (number,) = cloud.publish(b"forgotten")
    cloud.extend(*cloud.pull(), deadline_s=1)
    assert [entry.message.message_id for entry in cloud.pull()] == [number]


@pytest.mark.parametrize("ack_id", ["nonsense", "projects/p/subscriptions/other:1"])
def test_malformed_ack_id_is_refused(cloud: Cloud, ack_id: str) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.subscriber.acknowledge(subscription=subscription, ack_ids=[ack_id])


def test_pull_without_max_messages_is_refused(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.subscriber.pull(subscription=subscription, max_messages=0)


def test_pull_waits_for_a_message_published_meanwhile(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription()
    threading.Timer(0.5, cloud.publish, args=(b"soon",)).start()
    assert [entry.message.data for entry in cloud.pull()] == [b"soon"]


def test_subscribe_receives_every_message_of_batched_publishes(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    received: queue.Queue[bytes] = queue.Queue()

    def work(message: pubsub.subscriber.message.Message) -> None:
        message.ack()
        received.put(message.data)

    sent = {f"message {number}".encode() for number in range(200)}
    with subscribed(cloud, subscription, work):
        cloud.publish(*sent)
        got = set()
        while got != sent:
            got.add(received.get(timeout=TIMEOUT_S))
    assert cloud.pull_now() == []


def test_subscribe_gets_a_message_that_it_gave_back(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    seen: queue.Queue[str] = queue.Queue()

    def work(message: pubsub.subscriber.message.Message) -> None:
        first = seen.empty()
        seen.put(message.message_id)
        if first:
            message.nack()
        else:
            message.ack()

    with subscribed(cloud, subscription, work):
        (number,) = cloud.publish(b"twice")
        eventually(lambda: seen.qsize() >= 2, "two deliveries")
    assert {seen.get(), seen.get()} == {number}


def test_messages_of_one_key_come_in_order(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_subscription(enable_message_ordering=True)
    sent = [f"{number}".encode() for number in range(6)]
    futures = [cloud.publisher.publish(cloud.topic(), data, ordering_key="model") for data in sent]
    for future in futures:
        future.result(TIMEOUT_S)
    done: list[bytes] = []
    while len(done) < len(sent):
        for entry in cloud.pull(most=1):
            assert entry.message.ordering_key == "model"
            done.append(entry.message.data)
            cloud.acknowledge(entry)
    assert done == sent


def test_message_that_fails_too_often_goes_to_the_dead_letter_topic(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_topic("dead")
    cloud.make_subscription("graveyard", topic="dead")
    cloud.make_subscription(
        dead_letter_policy={"dead_letter_topic": cloud.topic("dead"), "max_delivery_attempts": 5}
    )
    cloud.publish(b"poison", model="movies")
    attempts = []
    for _ in range(5):
        (entry,) = cloud.pull()
        attempts.append(entry.delivery_attempt)
        cloud.extend(entry, deadline_s=0)
    assert attempts == [1, 2, 3, 4, 5]
    # The emulator forwards only when somebody asks for the message once more.
    dead = eventually(lambda: not cloud.pull_now() and cloud.pull_now("graveyard"), "a dead letter")
    assert [entry.message.data for entry in dead] == [b"poison"]
    assert dead[0].message.attributes["model"] == "movies"


def test_push_posts_the_wrapped_message(cloud: Cloud) -> None:
    cloud.make_topic()
    with push_endpoint() as endpoint:
        subscription = cloud.make_subscription(push_config={"push_endpoint": endpoint.url})
        (number,) = cloud.publish(b'{"run": 7}', model="movies")
        (body,) = endpoint.wait_for(1)
        cloud.subscriber.delete_subscription(subscription=subscription)
    assert body["subscription"] == subscription
    message = body["message"]
    assert base64.b64decode(message["data"]) == b'{"run": 7}'
    assert message["attributes"] == {"model": "movies"}
    assert message["messageId"] == message["message_id"] == number
    assert message["publishTime"] == message["publish_time"]
    assert "deliveryAttempt" not in body
    assert endpoint.headers[0]["Content-Type"] == "application/json"


def test_push_that_is_refused_is_repeated_until_accepted(cloud: Cloud) -> None:
    cloud.make_topic()
    answers = iter([500, 404, 204])
    with push_endpoint(lambda _body: next(answers, 204)) as endpoint:
        subscription = cloud.make_subscription(push_config={"push_endpoint": endpoint.url})
        (number,) = cloud.publish(b"stubborn")
        bodies = endpoint.wait_for(3)
        cloud.subscriber.delete_subscription(subscription=subscription)
    assert {body["message"]["messageId"] for body in bodies} == {number}


def test_subscription_turned_from_pull_to_push_pushes_its_backlog(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    (number,) = cloud.publish(b"waiting")
    with push_endpoint() as endpoint:
        cloud.subscriber.modify_push_config(
            subscription=subscription, push_config={"push_endpoint": endpoint.url}
        )
        (body,) = endpoint.wait_for(1)
        cloud.subscriber.delete_subscription(subscription=subscription)
    assert body["message"]["messageId"] == number


def test_subscription_update_changes_only_what_the_mask_names(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription(labels={"team": "models"})
    updated = cloud.subscriber.update_subscription(
        subscription={"name": subscription, "ack_deadline_seconds": 30},
        update_mask={"paths": ["ack_deadline_seconds"]},
    )
    assert updated.ack_deadline_seconds == 30
    assert cloud.subscriber.get_subscription(subscription=subscription).labels == {"team": "models"}


@pytest.mark.parametrize("path", ["topic", "enable_message_ordering", "filter", "bogus"])
def test_subscription_update_of_a_fixed_field_is_refused(cloud: Cloud, path: str) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.subscriber.update_subscription(
            subscription={"name": subscription}, update_mask={"paths": [path]}
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"ack_deadline_seconds": 601},
        {"ack_deadline_seconds": -1},
        {"retry_policy": {"maximum_backoff": {"seconds": 601}}},
        {"push_config": {"push_endpoint": "no url"}},
    ],
    ids=["deadline too long", "deadline negative", "backoff too long", "endpoint no URL"],
)
def test_subscription_out_of_bounds_is_refused(cloud: Cloud, fields: dict[str, object]) -> None:
    cloud.make_topic()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.make_subscription(**fields)


def test_too_few_delivery_attempts_are_refused(cloud: Cloud) -> None:
    cloud.make_topic()
    cloud.make_topic("dead")
    with pytest.raises(exceptions.OutOfRange):
        cloud.make_subscription(
            dead_letter_policy={
                "dead_letter_topic": cloud.topic("dead"),
                "max_delivery_attempts": 4,
            }
        )


def test_unknown_dead_letter_topic_is_refused(cloud: Cloud) -> None:
    cloud.make_topic()
    with pytest.raises(exceptions.NotFound):
        cloud.make_subscription(dead_letter_policy={"dead_letter_topic": cloud.topic("none")})


def test_subscription_to_an_unknown_topic_is_refused(cloud: Cloud) -> None:
    with pytest.raises(exceptions.NotFound):
        cloud.make_subscription()


def test_subscriptions_of_a_topic_are_listed_page_by_page(cloud: Cloud) -> None:
    cloud.make_topic()
    names = [cloud.make_subscription(f"worker-{number}") for number in range(5)]
    listed = cloud.publisher.list_topic_subscriptions(
        request={"topic": cloud.topic(), "page_size": 2}
    )
    assert sorted(listed) == names


def test_subscription_outlives_its_topic(cloud: Cloud) -> None:
    topic = cloud.make_topic()
    subscription = cloud.make_subscription()
    cloud.publish(b"kept")
    cloud.publisher.delete_topic(topic=topic)
    orphan = cloud.subscriber.get_subscription(subscription=subscription)
    assert orphan.topic == "_deleted-topic_"
    assert [entry.message.data for entry in cloud.pull()] == [b"kept"]


def test_deleted_subscription_is_not_found(cloud: Cloud) -> None:
    cloud.make_topic()
    subscription = cloud.make_subscription()
    cloud.subscriber.delete_subscription(subscription=subscription)
    with pytest.raises(exceptions.NotFound):
        cloud.subscriber.pull(subscription=subscription, max_messages=1)
