"""What arrives from outside: what is taken, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.pubsub_v1.types import Encoding, Schema
from pydantic import ValidationError

from localcloud.pubsub.schemas import check_message, compile_schema
from shared import messages
from shared.domain.deployment import PrepareConfig, RetrievalConfig, RetrievalKind
from shared.errors import InvalidRequest
from shared.messages import (
    AbortDeployment,
    ClaimDeployment,
    Dataset,
    Deploy,
    FeatureConfig,
    ModelDeclaration,
    Policy,
    RollBack,
    ShiftTraffic,
    TrainingCompleted,
    check_plan,
    parse,
)

WHOLE: dict[str, Any] = {
    "schema_version": 1,
    "model_id": "retail-recs",
    "run_number": 47,
    "artifact_uri": "gs://shop-training/retail-recs/run-47",
    "feature_config": {"id": "config-042", "name": "Large embeddings"},
    "dataset": {"name": "Q4 2024 Training Data", "version": 3},
    "metrics": {"recall_at_10": 0.192, "recall_at_100": 0.472},
    "completed_at": "2026-11-24T14:00:00Z",
    "deploy": {
        "when": "always",
        "strategy": "gradual",
        "steps_percent": [10, 50, 100],
        "over": "1h",
        "requested_by": "ops@example.com",
        "request_id": "7f3a",
    },
}
SHORT = {
    name: WHOLE[name]
    for name in ("schema_version", "model_id", "run_number", "artifact_uri", "completed_at")
}


def test_whole_message_is_read() -> None:
    found = parse(TrainingCompleted, WHOLE)
    assert found.deployment_id == "retail-recs-47-7f3a"
    assert found.bucket == "shop-training"
    assert found.deploy
    assert found.deploy.steps_percent == (10, 50, 100)


def test_shortest_message_is_read_and_asks_for_the_automatic_request() -> None:
    found = parse(TrainingCompleted, SHORT)
    assert found.deployment_id == "retail-recs-47-auto"
    assert found.metrics == {}
    assert found.deploy is None


def test_trailing_slash_of_the_folder_does_not_matter() -> None:
    found = parse(TrainingCompleted, {**SHORT, "artifact_uri": "gs://bucket/a/b/"})
    assert found.artifact_uri == "gs://bucket/a/b"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        pytest.param({"schema_version": 2}, "schema version 2 is unknown; send 1", id="version"),
        pytest.param({"model_id": "Retail"}, "model_id", id="capital"),
        pytest.param({"model_id": "-retail"}, "model_id", id="leading hyphen"),
        pytest.param({"model_id": "a" * 25}, "model_id", id="too long"),
        pytest.param({"run_number": 0}, "run_number", id="run 0"),
        pytest.param({"run_number": 2**31}, "run_number", id="too large"),
        pytest.param({"artifact_uri": "s3://bucket/a"}, "gs://BUCKET/FOLDER", id="not gs"),
        pytest.param({"artifact_uri": "gs://bucket"}, "gs://BUCKET/FOLDER", id="no folder"),
        pytest.param({"artifact_uri": "gs://bucket/../a"}, "'..'", id="up"),
        pytest.param({"artifact_uri": "gs://bucket/a/../../b"}, "'..'", id="up inside"),
        pytest.param({"artifact_uri": "gs://bucket/a//b"}, "empty parts", id="empty part"),
        pytest.param({"artifact_uri": "gs://bucket/./a"}, "'.'", id="dot"),
        pytest.param({"artifact_uri": "gs://bucket/a\nb"}, "gs://BUCKET", id="line break"),
        pytest.param({"metrics": {"Recall@100": 0.4}}, "lower case", id="metric's name"),
        pytest.param({"metrics": {"recall": float("nan")}}, "finite", id="NaN"),
        pytest.param({"metrics": {"recall": float("inf")}}, "finite", id="infinite"),
        pytest.param({"completed_at": "2026-11-24T14:00:00"}, "time zone", id="no zone"),
        pytest.param({"completed_at": "yesterday"}, "completed_at", id="no time"),
        pytest.param({"deploy": {"when": "now"}}, "deploy.when", id="when"),
        pytest.param({"deploy": {"strategy": "blue"}}, "deploy.strategy", id="strategy"),
        pytest.param({"deploy": {"over": "1d"}}, "1h30m", id="duration"),
        pytest.param({"deploy": {"request_id": "A b"}}, "deploy.request_id", id="request id"),
        pytest.param({"deploy": {"requested_by": "a\nb"}}, "requested_by", id="two lines"),
        pytest.param({"surprise": 1}, "surprise", id="unknown field"),
        pytest.param({"deploy": {"surprise": 1}}, "deploy.surprise", id="unknown field inside"),
    ],
)
def test_message_that_cannot_be_right_is_refused_with_the_field(
    changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(TrainingCompleted, {**SHORT, **changes})
    assert what in str(refusal.value)


@pytest.mark.parametrize("name", list(SHORT))
def test_missing_field_is_named(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        parse(TrainingCompleted, {k: v for k, v in SHORT.items() if k != name})


def test_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(RollBack, {"model_id": "movies", "password": "hunter2", "version": "hunter2"})
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("body", [None, [], "text", 1])
def test_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidRequest):
        parse(ClaimDeployment, body)


@pytest.mark.parametrize("percent", [0, 101, "many"])
def test_percent_outside_1_to_100_is_refused(percent: object) -> None:
    with pytest.raises(InvalidRequest, match="percent"):
        parse(ShiftTraffic, {"deployment_id": "a-1", "execution": "e", "percent": percent})


def test_abort_takes_whatever_the_workflow_caught() -> None:
    for error in ("text", {"code": 500}, None, 3):
        found = parse(AbortDeployment, {"deployment_id": "a-1", "execution": "e", "error": error})
        assert found.error == error


def test_declaration_that_leaves_preparation_and_retrieval_out_gets_their_defaults() -> None:
    found = ModelDeclaration(model_id="movies", image="i", service_account="s").config
    assert found.prepare == PrepareConfig(top_k=10, customers=None, tasks=1)
    assert found.retrieval == RetrievalConfig(RetrievalKind.EXACT, minimum_recall=0.95)


@pytest.mark.parametrize(
    "fields",
    [
        {"prepare": {"top_k": -1}},
        {"prepare": {"top_k": 101}},
        {"prepare": {"customers": 0}},
        {"prepare": {"tasks": 0}},
        {"prepare": {"tasks": 101}},
        {"prepare": {"shards": 2}},
        {"retrieval": {"kind": "nearest"}},
        {"retrieval": {"minimum_recall": 1.1}},
    ],
)
def test_preparation_that_cannot_be_is_found_when_it_is_declared(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelDeclaration.model_validate(
            {"model_id": "movies", "image": "i", "service_account": "s", **fields}
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"strategy": "gradual", "steps_percent": [100]},
        {"strategy": "gradual", "steps_percent": [50, 10]},
        {"strategy": "gradual", "over": "1000h"},
    ],
)
def test_policy_that_makes_no_rollout_is_found_when_it_is_declared(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rollout"):
        check_plan(Policy.model_validate(fields))


def test_topics_schema_and_the_functions_types_know_the_same_fields() -> None:
    definition = (Path(messages.__file__).parent / "training_completed.proto").read_text()
    compiled = compile_schema(
        Schema.pb(Schema(type_=Schema.Type.PROTOCOL_BUFFER, definition=definition))
    )
    check_message(compiled, Encoding.JSON, json.dumps(WHOLE).encode())
    [message] = descriptor_pb2.FileDescriptorProto.FromString(compiled).message_type
    inner = {found.name: {field.name for field in found.field} for found in message.nested_type}
    assert {field.name for field in message.field} == set(TrainingCompleted.model_fields)
    assert inner["Deploy"] == set(Deploy.model_fields)
    assert inner["Dataset"] == set(Dataset.model_fields)
    assert inner["FeatureConfig"] == set(FeatureConfig.model_fields)
