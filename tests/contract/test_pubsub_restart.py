"""Nothing that was acknowledged is lost when the process dies."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.contract.pubsub_backends import local_process, local_pubsub
from tests.contract.pubsub_cloud import connected
from tests.contract.push_endpoint import push_endpoint

PROJECT = "restarted"
SCHEMA = 'syntax = "proto3"; message M { string a = 1; }'


def test_killed_process_loses_no_published_message_and_no_acknowledgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        local_process(tmp_path) as (address, process),
        connected(address, PROJECT, monkeypatch) as cloud,
    ):
        cloud.make_topic()
        cloud.make_subscription()
        ids = cloud.publish(*(f"{number}".encode() for number in range(20)))
        leased = cloud.pull(count=20)
        done, held, returned = leased[:5], leased[5:10], leased[10:]
        cloud.acknowledge(*done)
        cloud.extend(*held, deadline_s=600)
        cloud.extend(*returned, deadline_s=1)
        process.send_signal(signal.SIGKILL)
        process.wait()

    with local_process(tmp_path) as (address, _), connected(address, PROJECT, monkeypatch) as cloud:
        again = cloud.pull(count=10)
        # What ran out is delivered again; what is still held is not, and its holder, who
        # outlived the server, may acknowledge it now.
        assert {entry.message.message_id for entry in again} == {
            entry.message.message_id for entry in returned
        }
        cloud.acknowledge(*held, *again)
        assert cloud.pull_now() == []
        (newer,) = cloud.publish(b"after")
        assert newer not in ids


def test_killed_process_pushes_again_what_was_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_process(tmp_path) as (address, process):

        def die_first(_body: object) -> int:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
            return 204

        with push_endpoint(die_first) as endpoint:
            with connected(address, PROJECT, monkeypatch) as cloud:
                cloud.make_topic()
                cloud.make_subscription(push_config={"push_endpoint": endpoint.url})
                cloud.publish(b"interrupted")
                endpoint.wait_for(1)
                process.wait()
            with local_process(tmp_path):
                bodies = endpoint.wait_for(2)
    assert bodies[0]["message"] == bodies[1]["message"]


def test_stopped_and_started_again_everything_is_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_pubsub(tmp_path) as address, connected(address, PROJECT, monkeypatch) as cloud:
        schema = cloud.schemas.create_schema(
            parent=f"projects/{PROJECT}",
            schema={"type_": "PROTOCOL_BUFFER", "definition": SCHEMA},
            schema_id="checked",
        )
        cloud.make_topic(schema_settings={"schema": schema.name, "encoding": "JSON"})
        before = cloud.subscriber.get_subscription(
            subscription=cloud.make_subscription(filter="attributes:model")
        )
        cloud.publish(b'{"a": "kept"}', model="movies")

    with local_pubsub(tmp_path) as address, connected(address, PROJECT, monkeypatch) as cloud:
        assert cloud.subscriber.get_subscription(subscription=before.name) == before
        assert cloud.schemas.get_schema(name=schema.name) == schema
        assert [entry.message.data for entry in cloud.pull()] == [b'{"a": "kept"}']
