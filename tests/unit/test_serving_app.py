"""The HTTP application, with a model and keys written by hand.

Every request is sent both ways, the short one and Flask's, and the answers must be the same.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from serving.app import MAX_BODY_BYTES, create_app
from serving.errors import KeyStoreAway, ModelBusy
from serving.express import Express
from serving.keys import ApiKeys, StoredKey
from serving.model_slot import EMPTY, STARTING, ModelSlot, NoModel
from serving.service import Service
from serving.settings import Artifact, Settings
from serving.table import Table, Tables, TableWriter
from serving.usage import Usage
from tests.recommenders import Alphabet, Direct, ready
from tests.serving_answers import COMPARED_HEADERS, assert_documented

KEY = "the-key-of-this-test"
SETTINGS = Settings(
    model_id="movies",
    model_version="v3",
    training_run=47,
    artifact=Artifact("bucket", "models/movies/v3/", "sha256:" + "0" * 64),
    host="127.0.0.1",
    port=8080,
    project="turnout-test",
)


class OneKey:
    """A key store with KEY in it."""

    def __init__(self) -> None:
        self.away = False

    def find(self, key_hash: str) -> StoredKey | None:
        if self.away:
            raise KeyStoreAway("nobody answers")
        good = hashlib.sha256(KEY.encode()).hexdigest()
        return StoredKey(good, "movies", True, None) if key_hash == good else None

    def take(self, key_hash: str, minute: int, requests: int) -> int:
        raise AssertionError(f"{requests} requests of minute {minute} were counted for {key_hash}")


class NoUsage:
    """A usage store that is never asked: these tests write nothing."""

    def save_sketch(self, hour: datetime, sketch: bytes) -> None:
        raise AssertionError(f"{len(sketch)} bytes were written for {hour}")

    def save_key_use(self, key_hash: str, at: datetime) -> None:
        raise AssertionError(f"{key_hash} was written at {at}")


class Busy:
    """A way to a model that has too much to do."""

    def ask(self, *_: object) -> list[bytes]:
        raise ModelBusy


class Api:
    """A client that checks every JSON answer against the served document."""

    def __init__(self, short: Client, flask: Client) -> None:
        self._short = short
        self._flask = flask
        self._document = json.loads(flask.get("/openapi.json").data)

    def send(self, method: str, path: str, **arguments: Any) -> Any:
        answer, other = (
            client.open(path, method=method, **arguments) for client in (self._short, self._flask)
        )
        assert (answer.status, answer.data) == (other.status, other.data)
        for name in COMPARED_HEADERS:
            assert answer.headers.getlist(name) == other.headers.getlist(name), name
        body = json.loads(answer.data, parse_constant=_no_constant)
        assert_documented(self._document, path, method, answer.status_code, answer.mimetype, body)
        return answer

    def post(self, path: str, body: object, **headers: str) -> Any:
        headers.setdefault("Authorization", f"Bearer {KEY}")
        return self.send("POST", path, json=body, headers=headers)


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def store() -> OneKey:
    return OneKey()


def start(slot: ModelSlot, store: OneKey, draining: bool = False) -> Api:
    service = Service("v3", slot, ApiKeys("movies", store), Usage(NoUsage()))
    app = create_app(SETTINGS, slot, service, lambda: draining)
    return Api(Client(Express(service, app, lambda: draining)), Client(app))


def loaded(model: Alphabet) -> ModelSlot:
    slot = ModelSlot(STARTING)
    slot.follow(Direct(model))
    slot.set_model(ready(model))
    return slot


def prepared(folder: Path) -> Tables:
    """Return the prepared answers of two customers, with up to 3 products."""
    assert SETTINGS.artifact is not None
    table = TableWriter(folder / "table", SETTINGS.artifact.digest, 0, 1, 3, 2)
    for customer_id in ("C1", "C2"):
        items = [b'{"product_id":"%b","score":%d.5}' % (name, 9) for name in (b"X", b"Y", b"Z")]
        table.add(customer_id, items)
    table.close()
    return Tables([Table(folder / "table")], SETTINGS.artifact.digest)


@pytest.fixture
def api(store: OneKey) -> Api:
    return start(loaded(Alphabet()), store)


HEALTHY = {
    "status": "healthy",
    "paths": {"prepared": "none", "model": "ready"},
    "model_id": "movies",
    "model_version": "v3",
    "training_run": 47,
    "artifact_digest": "sha256:" + "0" * 64,
    "products": 20,
    "customers": 7,
    "prepared_customers": 0,
    "prepared_top_k": 0,
    "retrieval": "exact",
}


def test_model_ready_health_tells_which_one(api: Api) -> None:
    answer = api.send("GET", "/health")
    assert answer.status_code == 200
    assert answer.json == HEALTHY


def test_model_loading_health_says_that_prepared_answers_are_served(
    store: OneKey, tmp_path: Path
) -> None:
    slot = ModelSlot(STARTING)
    api = start(slot, store)
    slot.set_prepared(prepared(tmp_path), 20)
    answer = api.send("GET", "/health")
    assert answer.status_code == 200
    with_tables = {"prepared_customers": 2, "prepared_top_k": 3}
    assert answer.json == {
        **HEALTHY,
        **with_tables,
        "status": "loading",
        "paths": {"prepared": "ready", "model": "loading"},
        "customers": None,
        "retrieval": None,
    }
    slot.set_model(ready(Alphabet()))
    assert api.send("GET", "/health").json == {
        **HEALTHY,
        **with_tables,
        "paths": {"prepared": "ready", "model": "ready"},
    }


def test_prepared_and_computed_answers_are_mixed_in_the_order_of_the_batch(
    store: OneKey, tmp_path: Path
) -> None:
    slot = loaded(Alphabet())
    slot.set_prepared(prepared(tmp_path), 20)
    api = start(slot, store)
    asked = ["nobody", "C2", "C3", "C1", "C2"]
    answer = api.post("/recommend-batch", {"customer_ids": asked, "top_k": 2})
    results = answer.json["results"]
    assert [result["customer_id"] for result in results] == asked
    first = [result["recommendations"][0]["product_id"] for result in results]
    assert first == ["P0", "X", "P0", "X", "X"]
    assert [result.get("known") for result in results] == [False, None, None, None, None]


def test_more_products_than_prepared_come_from_the_model(store: OneKey, tmp_path: Path) -> None:
    slot = loaded(Alphabet())
    slot.set_prepared(prepared(tmp_path), 20)
    api = start(slot, store)
    assert api.post("/recommend", {"customer_id": "C1", "top_k": 3}).json["recommendations"] == [
        {"product_id": name, "score": 9.5} for name in ("X", "Y", "Z")
    ]
    four = api.post("/recommend", {"customer_id": "C1", "top_k": 4}).json["recommendations"]
    assert [item["product_id"] for item in four] == ["P0", "P1", "P2", "P3"]


def test_model_that_is_busy_is_a_503_that_says_when_to_come_back(store: OneKey) -> None:
    slot = ModelSlot(STARTING)
    slot.follow(Busy())
    slot.set_model(ready(Alphabet()))
    answer = start(slot, store).post("/recommend", {"customer_id": "C1"})
    assert (answer.status_code, answer.json["code"]) == (503, "model_busy")
    assert int(answer.headers["Retry-After"]) > 0


def test_known_customer_gets_the_specified_body(api: Api) -> None:
    answer = api.post("/recommend", {"customer_id": "C001234", "top_k": 2})
    assert answer.status_code == 200
    assert answer.json["customer_id"] == "C001234"
    assert [item["product_id"] for item in answer.json["recommendations"]] == ["P0", "P1"]
    assert answer.json["model_version"] == "v3"
    assert "known" not in answer.json


def test_scores_are_written_with_the_digits_of_a_float32(api: Api) -> None:
    answer = api.post("/recommend", {"customer_id": "~~~~~~~~\n", "top_k": 1})  # 8 * 126 + 10
    assert b'"score":18.92}' in answer.data


def test_top_k_left_out_means_ten(api: Api) -> None:
    answer = api.post("/recommend", {"customer_id": "C1"})
    assert len(answer.json["recommendations"]) == 10


def test_unknown_customer_is_answered_and_marked(api: Api) -> None:
    answer = api.post("/recommend", {"customer_id": "somebody", "top_k": 3})
    assert answer.json["known"] is False
    assert len(answer.json["recommendations"]) == 3


def test_batch_keeps_the_order_and_duplicates_of_the_request(api: Api) -> None:
    asked = ["C3", "nobody", "C1", "C3"]
    answer = api.post("/recommend-batch", {"customer_ids": asked, "top_k": 1})
    assert [result["customer_id"] for result in answer.json["results"]] == asked
    assert ["known" in result for result in answer.json["results"]] == [False, True, False, False]
    assert answer.json["model_version"] == "v3"


def test_batch_of_the_limit_is_answered(api: Api) -> None:
    answer = api.post("/recommend-batch", {"customer_ids": ["C1"] * 1_000, "top_k": 2})
    assert len(answer.json["results"]) == 1_000


@pytest.mark.parametrize("top_k", [0, -1, 21, 2**31, 10**30])
def test_top_k_outside_the_products_is_refused_with_the_bound(api: Api, top_k: int) -> None:
    answer = api.post("/recommend", {"customer_id": "C1", "top_k": top_k})
    assert (answer.status_code, answer.json["code"]) == (400, "top_k_out_of_range")
    assert "1 to 20" in answer.json["detail"]


@pytest.mark.parametrize(
    ("path", "body", "code", "names"),
    [
        pytest.param("/recommend", {}, "missing_field", "customer_id", id="missing"),
        pytest.param("/recommend", {"customer_id": 5}, "invalid_field", "customer_id", id="number"),
        pytest.param("/recommend", {"customer_id": ""}, "invalid_field", "customer_id", id="empty"),
        pytest.param(
            "/recommend", {"customer_id": "C1", "topk": 5}, "unknown_field", "topk", id="unknown"
        ),
        pytest.param(
            "/recommend", {"customer_id": "C1", "top_k": "5"}, "invalid_field", "top_k", id="text"
        ),
        pytest.param(
            "/recommend", {"customer_id": "C1", "top_k": True}, "invalid_field", "top_k", id="bool"
        ),
        pytest.param(
            "/recommend", {"customer_id": "C1", "top_k": None}, "invalid_field", "top_k", id="null"
        ),
        pytest.param(
            "/recommend-batch", {"customer_ids": "C1"}, "invalid_field", "customer_ids", id="string"
        ),
        pytest.param(
            "/recommend-batch",
            {"customer_ids": ["C1", None]},
            "invalid_field",
            "customer_ids[1]",
            id="element",
        ),
        pytest.param(
            "/recommend-batch",
            {"customer_ids": ["C1"] * 1_001},
            "too_many_customers",
            "1001",
            id="too many",
        ),
        pytest.param(
            "/recommend-batch", {"customer_ids": []}, "no_customers", "customer_ids", id="none"
        ),
        pytest.param("/recommend", ["C1"], "invalid_field", "body", id="list"),
    ],
)
def test_body_that_is_not_a_request_is_refused_naming_the_field(
    api: Api, path: str, body: object, code: str, names: str
) -> None:
    answer = api.post(path, body)
    assert (answer.status_code, answer.json["code"]) == (400, code)
    assert names in answer.json["detail"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"customer_id": "C1"', id="cut off"),
        pytest.param(b'{"customer_id": "\xff"}', id="not UTF-8"),
        pytest.param(b'{"customer_id": "\\ud800"}', id="half a character"),
    ],
)
def test_body_that_is_not_json_is_refused(api: Api, data: bytes) -> None:
    answer = api.send(
        "POST",
        "/recommend",
        data=data,
        content_type="application/json",
        headers={"Authorization": f"Bearer {KEY}"},
    )
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_json")


def test_body_of_another_content_type_is_refused(api: Api) -> None:
    answer = api.send(
        "POST",
        "/recommend",
        data='{"customer_id": "C1"}',
        content_type="text/plain",
        headers={"Authorization": f"Bearer {KEY}"},
    )
    assert (answer.status_code, answer.json["code"]) == (415, "unsupported_media_type")


def test_body_over_the_limit_is_refused(api: Api) -> None:
    answer = api.post("/recommend", {"customer_id": "C" * MAX_BODY_BYTES})
    assert (answer.status_code, answer.json["code"]) == (413, "request_entity_too_large")


def test_answer_that_cannot_be_returned_is_refused(store: OneKey) -> None:
    api = start(loaded(Alphabet(9_066)), store)
    answer = api.post("/recommend-batch", {"customer_ids": ["C1"] * 1_000, "top_k": 9_066})
    assert (answer.status_code, answer.json["code"]) == (400, "answer_too_large")


def test_path_that_is_not_there_is_a_problem(api: Api) -> None:
    answer = api.send("GET", "/predict")
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_method_that_is_not_there_is_a_problem_with_the_allowed_ones(api: Api) -> None:
    answer = api.send("GET", "/recommend")
    assert (answer.status_code, answer.json["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic abc", KEY, "Bearer two words"], ids=repr
)
def test_missing_key_is_asked_for(api: Api, header: str) -> None:
    answer = api.post("/recommend", {"customer_id": "C1"}, Authorization=header)
    assert (answer.status_code, answer.json["code"]) == (401, "missing_api_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_wrong_key_is_refused_before_the_body_is_read(api: Api) -> None:
    answer = api.post("/recommend-batch", {"nonsense": 1}, Authorization="Bearer wrong")
    assert (answer.status_code, answer.json["code"]) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_key_scheme_may_be_written_in_any_case(api: Api) -> None:
    answer = api.post("/recommend", {"customer_id": "C1"}, Authorization=f"bearer {KEY}")
    assert answer.status_code == 200


def test_key_store_away_is_not_the_callers_fault(api: Api, store: OneKey) -> None:
    store.away = True
    answer = api.post("/recommend", {"customer_id": "C1"})
    assert (answer.status_code, answer.json["code"]) == (503, "keys_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("current", "status", "reason"),
    [
        pytest.param(EMPTY, "unhealthy", "no model is deployed yet", id="v0"),
        pytest.param(STARTING, "starting", "downloaded", id="starting"),
        pytest.param(NoModel("unhealthy", "scores are NaN"), "unhealthy", "NaN", id="failed"),
    ],
)
def test_without_a_model_everything_answers_503_with_the_reason(
    store: OneKey, current: NoModel, status: str, reason: str
) -> None:
    api = start(ModelSlot(current), store)
    health = api.send("GET", "/health")
    assert (health.status_code, health.json["status"]) == (503, status)
    assert reason in health.json["reason"]
    for path in ("/recommend", "/recommend-batch"):
        answer = api.post(path, {"customer_id": "C1"})
        assert (answer.status_code, answer.json["code"]) == (503, "model_not_ready")
        assert reason in answer.json["detail"]
        assert int(answer.headers["Retry-After"]) > 0


def test_model_that_fails_is_a_500_with_its_reason(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    answer = api.post("/recommend", {"customer_id": "broken"})
    assert (answer.status_code, answer.json["code"]) == (500, "model_error")
    assert "finite" in answer.json["detail"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2  # Once each way.


def test_unexpected_error_tells_the_caller_nothing(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    answer = api.post("/recommend", {"customer_id": "bug"})
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert "ZeroDivision" not in answer.text
    assert caplog.records[0].exc_info is not None


def test_draining_asks_callers_to_reconnect(store: OneKey) -> None:
    api = start(loaded(Alphabet()), store, draining=True)
    answer = api.post("/recommend", {"customer_id": "C1"})
    assert answer.headers["Connection"] == "close"


def test_document_has_the_paths_and_limits(store: OneKey) -> None:
    document = start(ModelSlot(EMPTY), store).send("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {"/health", "/recommend", "/recommend-batch", "/openapi.json"}
    batch = document["components"]["schemas"]["RecommendBatchRequest"]["properties"]
    assert batch["customer_ids"]["maxItems"] == 1_000
    assert batch["top_k"]["minimum"] == 1
    assert batch["top_k"]["default"] == 10
