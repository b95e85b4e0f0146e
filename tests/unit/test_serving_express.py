"""The short way into the application gives what Flask gives, whatever is asked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.test import run_wsgi_app

from serving.app import MAX_BODY_BYTES, create_app
from serving.express import Express
from serving.keys import ApiKeys
from serving.model_slot import EMPTY, STARTING, ModelSlot
from serving.service import Service
from serving.usage import Usage
from tests.recommenders import Alphabet, Direct, ready
from tests.serving_answers import COMPARED_HEADERS
from tests.unit.test_serving_app import KEY, SETTINGS, NoUsage, OneKey

Wsgi = Callable[..., Any]
Both = Callable[[dict[str, Any], bytes], tuple[int, bytes]]


def both_ways(slot: ModelSlot, draining: bool = False) -> Both:
    """Return what sends a request both ways, compares the answers and returns one."""
    service = Service("v3", slot, ApiKeys("movies", OneKey()), Usage(NoUsage()))
    flask = create_app(SETTINGS, slot, service, lambda: draining)
    short = Express(service, flask, lambda: draining)

    def ask(environ: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        (answer, *found), other = (_answer(app, environ, body) for app in (short, flask))
        assert (answer, *found) == other
        return int(answer[:3]), found[0]

    return ask


def _answer(app: Wsgi, environ: dict[str, Any], body: bytes) -> tuple[str, bytes, list[Any]]:
    """Return status line, body and the headers that matter."""
    content, status, headers = run_wsgi_app(
        app,
        {
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8080",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "wsgi.url_scheme": "http",
            "wsgi.errors": io.StringIO(),
            **environ,
            "wsgi.input": io.BytesIO(body),
        },
        buffered=True,
    )
    return status, b"".join(content), [(name, headers.getlist(name)) for name in COMPARED_HEADERS]


def working_slot() -> ModelSlot:
    slot = ModelSlot(STARTING)
    slot.follow(Direct(Alphabet()))
    slot.set_model(ready(Alphabet()))
    return slot


@pytest.fixture(scope="module")
def working() -> Both:
    return both_ways(working_slot())


@pytest.fixture(scope="module")
def stopping() -> Both:
    return both_ways(working_slot(), draining=True)


@pytest.fixture(scope="module")
def empty() -> Both:
    return both_ways(ModelSlot(EMPTY))


def request(body: bytes, **changes: str | None) -> dict[str, Any]:
    """Return a good request's environment with some of it changed, or left out where None."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/recommend",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_AUTHORIZATION": f"Bearer {KEY}",
        **changes,
    }
    return {name: value for name, value in environ.items() if value is not None}


customer_ids = st.text() | st.sampled_from(["C1", "C2", "broken", "bug", "nobody"])
top_ks = st.integers(-1, 25) | st.sampled_from([None, True, 1.0, "3", 2**70])
well_formed = st.fixed_dictionaries(
    {"customer_id": customer_ids}, optional={"top_k": st.integers(1, 20)}
) | st.fixed_dictionaries(
    {"customer_ids": st.lists(customer_ids, max_size=5)}, optional={"top_k": st.integers(1, 20)}
)
ill_formed = st.fixed_dictionaries(
    {},
    optional={
        "customer_id": customer_ids | st.integers() | st.none(),
        "customer_ids": st.lists(customer_ids | st.none(), max_size=3) | st.text(),
        "top_k": top_ks,
        "more": st.just(1),
    },
) | st.recursive(st.none() | st.text(), st.lists)
bodies = (well_formed | ill_formed).map(lambda body: json.dumps(body).encode()) | st.binary()
environs = st.fixed_dictionaries(
    {},
    optional={
        "REQUEST_METHOD": st.sampled_from(["GET", "HEAD", "PUT", "OPTIONS", "POST"]),
        "PATH_INFO": st.sampled_from(
            ["/recommend-batch", "/recommend/", "//recommend", "/RECOMMEND", "/health", "/", ""]
        ),
        "QUERY_STRING": st.sampled_from(["top_k=3", "%", "a=b&a"]),
        "CONTENT_TYPE": st.sampled_from(
            ["application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", "", ";", None]
        ),
        "CONTENT_LENGTH": st.sampled_from(["", "-1", "1e3", "+2", " 2", "\xb2", "9" * 5_000, None]),
        "HTTP_AUTHORIZATION": st.sampled_from(
            ["", "Bearer", "Bearer wrong", f"bearer  {KEY}", f"Basic {KEY}", "\xff", None]
        ),
    },
)


@given(bodies, environs)
@example(b'{"customer_id":"C1"}', {"CONTENT_LENGTH": "9" * 5_000})
@example(b'{"customer_id":"C1"}', {"CONTENT_LENGTH": "0" * 5_000 + "20"})
def test_any_request_gets_the_same_answer_both_ways(
    working: Both, body: bytes, environ: dict[str, Any]
) -> None:
    working(request(body, **environ), body)


@given(well_formed, st.booleans())
def test_question_about_customers_gets_the_same_answer_both_ways(
    working: Both, asked: dict[str, Any], batch: bool
) -> None:
    body = json.dumps(asked).encode()
    working(request(body, PATH_INFO="/recommend-batch" if batch else "/recommend"), body)


@given(bodies, environs)
def test_instance_that_stops_says_so_both_ways(
    stopping: Both, body: bytes, environ: dict[str, Any]
) -> None:
    stopping(request(body, **environ), body)


@given(bodies, environs)
def test_instance_without_a_model_answers_the_same_both_ways(
    empty: Both, body: bytes, environ: dict[str, Any]
) -> None:
    empty(request(body, **environ), body)


@pytest.mark.parametrize(
    ("more", "status"), [pytest.param(0, 400, id="limit"), pytest.param(1, 413, id="over it")]
)
def test_body_around_the_limit_is_refused_the_same_both_ways(
    working: Both, more: int, status: int
) -> None:
    body = b" " * (MAX_BODY_BYTES + more)
    assert working(request(body), body)[0] == status


@pytest.mark.parametrize(
    ("customer_id", "code"), [("broken", "model_error"), ("bug", "internal_error")]
)
def test_failure_is_answered_and_logged_once(
    working: Both, caplog: pytest.LogCaptureFixture, customer_id: str, code: str
) -> None:
    body = json.dumps({"customer_id": customer_id}).encode()
    status, content = working(request(body), body)
    assert (status, json.loads(content)["code"]) == (500, code)
    assert [record.message for record in caplog.records] == ["request failed"] * 2  # Once each way.
