"""The stand-in container's faults: each strikes those it names and leaves all others alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from benchmarks.faults import CANDIDATES, Load
from benchmarks.faulty_serving import BATCH, FAULTS, ONE, Faulty, one_in

CUSTOMERS = [str(number) for number in range(1, 672)]


def _real(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer as the container does, one product for each customer."""
    content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    asked = json.loads(content or "{}")

    def result(customer: str) -> dict[str, Any]:
        return {"customer_id": customer, "recommendations": [{"product_id": "P1", "score": 1.0}]}

    if environ["PATH_INFO"] == ONE:
        body = {**result(asked["customer_id"]), "model_version": "v2"}
    else:
        results = [result(customer) for customer in asked.get("customer_ids", [])]
        body = {"results": results, "model_version": "v2"}
    text = json.dumps(body).encode()
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]


def _ask(app: Faulty, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    content = json.dumps(body).encode()
    answered: list[Any] = []
    environ = {
        "PATH_INFO": path,
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.input": io.BytesIO(content),
    }
    text = b"".join(app(environ, lambda status, headers: answered.extend((status, headers))))
    assert dict(answered[1])["Content-Length"] == str(len(text))
    return int(answered[0].split()[0]), json.loads(text)


def _faulty(kind: str, **settings: Any) -> Faulty:
    return Faulty(_real, FAULTS[kind](settings))


def _one(app: Faulty, customer: str) -> tuple[int, dict[str, Any]]:
    return _ask(app, ONE, {"customer_id": customer})


def _batch(app: Faulty, customers: list[str]) -> tuple[int, dict[str, Any]]:
    return _ask(app, BATCH, {"customer_ids": customers})


def test_errors_strike_two_percent_of_the_customers_when_they_ask_alone() -> None:
    app = _faulty("errors", one_in=50)
    failed = {customer for customer in CUSTOMERS if _one(app, customer)[0] == 500}
    assert failed == {customer for customer in CUSTOMERS if one_in(customer, 50)}
    assert 0.01 < len(failed) / len(CUSTOMERS) < 0.03
    assert _batch(app, CUSTOMERS)[0] == 200


def test_a_region_fails_on_both_paths_and_nobody_else_does() -> None:
    app = _faulty("region", prefix="6")
    assert [_one(app, customer)[0] for customer in ("6", "66", "56", "1")] == [500, 500, 200, 200]
    assert _batch(app, ["1", "6"])[0] == 500
    assert _batch(app, ["1", "5"])[0] == 200


def test_empty_answers_are_told_apart_by_nothing_but_their_products() -> None:
    app = _faulty("empty", one_in=10)
    status, body = _batch(app, CUSTOMERS)
    assert status == 200
    empty = {one["customer_id"] for one in body["results"] if not one["recommendations"]}
    assert empty == {customer for customer in CUSTOMERS if one_in(customer, 10)}
    assert 0.05 < len(empty) / len(CUSTOMERS) < 0.15
    for customer in (min(empty), min(set(CUSTOMERS) - empty)):
        status, body = _one(app, customer)
        assert (status, body["model_version"]) == (200, "v2")
        assert bool(body["recommendations"]) == (customer not in empty)


def test_what_fails_later_waits_for_its_first_user() -> None:
    app = _faulty("later", after_s=3600)
    assert _batch(app, ["1"])[0] == 200
    assert _one(app, "1")[0] == 200
    app = _faulty("later", after_s=0)
    assert _batch(app, ["1"])[0] == 200
    assert _one(app, "1")[0] == 500
    assert _batch(app, ["1"])[0] == 500


@pytest.mark.parametrize("kind", ["slow", "leak", "crash"])
def test_what_only_gets_worse_in_time_still_answers_rightly(kind: str) -> None:
    settings = {"one_in": 1, "delay_ms": 0, "bytes": 10, "requests": 10**6, "within_s": 1}
    app = _faulty(kind, **settings)
    assert _one(app, "1")[1]["recommendations"]
    assert _batch(app, ["1", "2"])[0] == 200


def test_other_requests_pass_untouched() -> None:
    app = _faulty("region", prefix="")
    assert _ask(app, "/health", {})[0] == 200
    assert _ask(app, BATCH, {"not": "a question"})[0] == 200


def test_twelve_candidates_have_faults_that_exist() -> None:
    load = Load(rate=150, bake_s=75, later_s=112, p95_ms=10)
    kinds = {one.settings(load).get("kind", "") for one in CANDIDATES}
    assert len(CANDIDATES) == len({one.name for one in CANDIDATES}) == 12
    assert kinds == {"", "version", "start", *FAULTS}
