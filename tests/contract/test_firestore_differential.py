"""The same random operations on every Firestore at hand give the same outcomes.

With Google's emulator found, the local cloud is compared with it; documents are compared
with a plain dictionary in either case.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore_v1 import And, FieldFilter, Or
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.firestore_backends import available_backends, connected, served

_SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[firestore.Client]]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as monkeypatch:
        found = []
        for backend in available_backends():
            address = stack.enter_context(served(backend, tmp_path_factory.mktemp("firestore")))
            found.append(stack.enter_context(connected(address, "test-differ", monkeypatch)))
        yield found


names = st.sampled_from(["a", "b", "c", "B", "é"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([-0.5, 1.0, 2.0, float("inf"), float("nan")]),
    st.sampled_from(["", "a", "ab", "B", "é", "\U0001f600", "\uffff"]),
    st.binary(max_size=2),
)
contents = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.sampled_from(["x", "y"]), scalars, max_size=2),
)
bodies = st.fixed_dictionaries({}, optional={"v": contents, "w": st.integers(0, 2)})

operations = st.one_of(
    st.tuples(st.just("set"), names, bodies),
    st.tuples(st.just("merge"), names, bodies),
    st.tuples(st.just("create"), names, bodies),
    st.tuples(st.just("update"), names, bodies.filter(bool)),
    st.tuples(st.just("delete"), names, st.just({})),
)


def _apply(document: firestore.DocumentReference, verb: str, body: dict[str, Any]) -> str:
    """Do one operation and return how it went."""
    try:
        if verb == "merge":
            document.set(body, merge=True)
        elif verb == "delete":
            document.delete()
        else:
            getattr(document, verb)(body)
    except exceptions.GoogleAPICallError as refused:
        return type(refused).__name__
    return "done"


def _expect(model: dict[str, Any], verb: str, name: str, body: dict[str, Any]) -> str:
    """Do one operation on the dictionary and return how it ought to go."""
    if verb == "create" and name in model:
        return "AlreadyExists"
    if verb == "update" and name not in model:
        return "NotFound"
    if verb == "delete":
        model.pop(name, None)
    elif verb == "update":
        model[name] = {**model[name], **body}
    elif verb == "merge":
        model[name] = _merged(model.get(name, {}), body)
    else:
        model[name] = body
    return "done"


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        # A merged map is merged field by field; an empty one replaces.
        is_map = isinstance(value, dict) and value
        into = merged.get(key) if isinstance(merged.get(key), dict) else {}
        merged[key] = _merged(into or {}, value) if is_map else value
    return merged


@_SETTINGS
@given(steps=st.lists(operations, min_size=1, max_size=12))
def test_random_writes_give_the_expected_outcomes_and_documents(
    clients: list[firestore.Client], steps: list[tuple[str, str, dict[str, Any]]]
) -> None:
    collection = f"c{uuid.uuid4().hex}"
    model: dict[str, Any] = {}
    for verb, name, body in steps:
        expected = _expect(model, verb, name, body)
        for client in clients:
            assert _apply(client.document(f"{collection}/{name}"), verb, body) == expected
    for client in clients:
        found = {s.id: s.to_dict() for s in client.collection(collection).stream()}
        assert repr(_sorted(found)) == repr(_sorted(model))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(element) for element in value] if isinstance(value, list) else value


equalities = st.builds(
    lambda path, value: ("field", path, "==", value),
    st.sampled_from(["v", "w", "v.x"]),
    contents,
)
ranges = st.builds(
    lambda path, op, value: ("field", path, op, value),
    st.sampled_from(["v", "w", "v.x"]),
    st.sampled_from(["<", "<=", ">", ">="]),
    contents.filter(lambda value: value is not None and value == value),
)
others = st.one_of(
    st.builds(lambda value: ("field", "v", "!=", value), contents),
    st.builds(
        lambda op, value: ("field", "v", op, value),
        st.sampled_from(["in", "not-in", "array_contains_any"]),
        st.lists(scalars, min_size=1, max_size=3),
    ),
    st.builds(
        lambda value: ("field", "v", "array_contains", value),
        scalars.filter(lambda value: value is not None and value == value),
    ),
)
filters = st.recursive(
    st.one_of(equalities, ranges, others),
    lambda inner: st.tuples(
        st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)
    ),
    max_leaves=4,
    # Whether the same filter twice counts twice depends, in the emulator, on its nesting.
).filter(lambda tree: repr(tree).count("array_contains'") <= 1)
orders = st.lists(
    st.tuples(st.sampled_from(["v", "w", "v.x"]), st.sampled_from(["ASCENDING", "DESCENDING"])),
    max_size=2,
    unique_by=lambda order: order[0],
)


def _filter(tree: Any) -> Any:
    if tree[0] == "field":
        return FieldFilter(*tree[1:])
    return (And if tree[0] == "and" else Or)([_filter(child) for child in tree[1]])


def _answer(
    client: firestore.Client, collection: str, where: Any, order_by: Any, cursor: Any, limit: Any
) -> Any:
    query: Any = client.collection(collection)
    if where is not None:
        query = query.where(filter=_filter(where))
    for path, direction in order_by:
        query = query.order_by(path, direction=direction)
    if order_by and cursor is not None:
        # A cursor on a nested field is given as the map that holds it.
        path = order_by[0][0]
        position = {"v": {"x": cursor[1]}} if path == "v.x" else {path: cursor[1]}
        query = getattr(query, cursor[0])(position)
    if limit is not None:
        query = query.offset(limit[0]).limit(limit[1])
    try:
        return [snapshot.id for snapshot in query.stream()]
    except exceptions.GoogleAPICallError as refused:
        return type(refused).__name__


@_SETTINGS
@given(
    documents=st.dictionaries(st.text("abcdeAB", min_size=1, max_size=2), bodies, max_size=8),
    queries=st.lists(
        st.tuples(
            st.none() | filters,
            orders,
            st.none()
            | st.tuples(
                st.sampled_from(["start_at", "start_after", "end_at", "end_before"]), scalars
            ),
            st.none() | st.tuples(st.integers(0, 2), st.integers(0, 3)),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_random_queries_give_the_same_answers(
    clients: list[firestore.Client], documents: dict[str, Any], queries: list[Any]
) -> None:
    collection = f"c{uuid.uuid4().hex}"
    for client in clients:
        batch = client.batch()
        for name, body in documents.items():
            batch.set(client.document(f"{collection}/{name}"), body)
        batch.commit()
    for query in queries:
        answers = [_answer(client, collection, *query) for client in clients]
        assert all(answer == answers[0] for answer in answers), (query, answers)
