"""The search by rough scores finds what the exact one finds, whatever the scores are like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.retrieval import ExactRetrieval
from serving.rough import RoughScores, are_near, lower_bits, numbers

tf: Any = pytest.importorskip("tensorflow")
WIDTH = 16


class Counted(RoughScores):
    """Rough scores that tell how often they were asked for."""

    asked = 0

    def bits(self, queries: Any) -> Iterator[Any]:
        self.asked += 1
        return super().bits(queries)


def roughly(embeddings: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[ExactRetrieval, Counted]:
    """Return a search by rough scores, which this CPU may not be faster with, and those."""
    made: list[Counted] = []

    def make(*args: Any) -> Counted:
        made.append(Counted(*args))
        return made[-1]

    monkeypatch.setattr("serving.retrieval.RoughScores", make)
    monkeypatch.setattr("serving.retrieval._WORTH", np.inf)
    search = ExactRetrieval(embeddings)
    assert search.try_rough(tf)
    made[0].asked = 0
    return search, made[0]


@given(
    seed=st.integers(0, 2**32),
    products=st.sampled_from([2_560, 4_096, 4_097, 60_000]),
    scale=st.sampled_from([1e-20, 1.0, 1e12]),
    spread=st.sampled_from([0.0, 2.0]),
    shift=st.sampled_from([0.0, 1.0]),
    customers=st.sampled_from([8, 64, 65]),
    k=st.integers(1, 10),
)
@settings(max_examples=30, deadline=None)
def test_rough_search_finds_what_sorting_finds(
    seed: int, products: int, scale: float, spread: float, shift: float, customers: int, k: int
) -> None:
    random = np.random.default_rng(seed)
    # Products of many lengths, and scores so near that bfloat16 cannot tell them apart.
    embeddings = random.normal(shift, 1, (products, WIDTH)) * scale
    embeddings *= np.exp(random.normal(0, spread, (products, 1)))
    embeddings[1::7] = embeddings[: len(embeddings[1::7])] * (1 + 1e-5)
    embeddings = embeddings.astype(np.float32)
    queries = random.normal(shift, 1, (customers, WIDTH)).astype(np.float32)
    with pytest.MonkeyPatch.context() as monkeypatch:
        search, rough = roughly(embeddings, monkeypatch)
        scores, positions = search.top(queries, k)
    assert rough.asked
    exact = queries.astype(np.float64) @ embeddings.astype(np.float64).T
    best = -np.sort(-exact, axis=1)[:, :k]
    tolerance = 1e-6 * np.abs(best).max(axis=1, keepdims=True) + 1e-6 * np.abs(exact).mean()
    assert (np.abs(scores - best) <= tolerance).all()
    assert (np.abs(np.take_along_axis(exact, positions, axis=1) - best) <= tolerance).all()
    assert all(len(set(row)) == k for row in positions.tolist())


def test_equal_scores_stay_in_the_order_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    embeddings = random.integers(-300, 300, (8_192, WIDTH)).astype(np.float32)
    embeddings[5_000:5_003] = embeddings[7:10] = 400
    queries = np.ones((8, WIDTH), np.float32)
    search, rough = roughly(embeddings, monkeypatch)
    _, positions = search.top(queries, 8)
    expected = np.argsort(-(queries @ embeddings.T), axis=1, kind="stable")[:, :8]
    np.testing.assert_array_equal(positions, expected)
    assert rough.asked


@pytest.mark.parametrize("k", [1, 127, 128, 129, 234])
def test_more_products_than_a_part_has_blocks_are_found(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.rough._ROWS_AT_ONCE", 4_096)
    random = np.random.default_rng(6)
    embeddings = random.normal(size=(60_000, WIDTH)).astype(np.float32)
    queries = random.normal(size=(8, WIDTH)).astype(np.float32)
    search, rough = roughly(embeddings, monkeypatch)
    _, positions = search.top(queries, k)
    _, expected = ExactRetrieval(embeddings).top(queries, k)
    np.testing.assert_array_equal(positions, expected)
    assert rough.asked


@pytest.mark.parametrize(
    "embeddings",
    [
        pytest.param(-np.ones((4_096, WIDTH)), id="no score above zero"),
        pytest.param(np.ones((4_096, WIDTH)), id="all scores equal"),
    ],
)
def test_scores_that_rough_ones_cannot_tell_apart_are_found_exactly(
    embeddings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, rough = roughly(embeddings.astype(np.float32), monkeypatch)
    _, positions = search.top(np.ones((8, WIDTH), np.float32), 5)
    np.testing.assert_array_equal(positions, np.tile(np.arange(5), (8, 1)))
    assert rough.asked


def test_scores_that_are_too_large_are_left_to_the_exact_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embeddings = np.random.default_rng(2).normal(size=(4_096, WIDTH)).astype(np.float32)
    search, _ = roughly(embeddings, monkeypatch)
    queries = np.full((8, WIDTH), 1e38, np.float32)
    with np.errstate(all="ignore"):
        scores, _ = search.top(queries, 5)
        expected = -np.sort(-(queries @ embeddings.T), axis=1)[:, :5]
    np.testing.assert_array_equal(scores, expected)


def test_errors_hold_for_every_product_and_are_no_wider_than_needed() -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(4_096, WIDTH)).astype(np.float32)
    queries = random.normal(size=(32, WIDTH)).astype(np.float32)
    rough = RoughScores(tf, rows)
    assert are_near(rough, rows, queries)
    [bits] = rough.bits(queries)
    off = np.abs(numbers(bits) - rows @ queries.T).max(axis=0)
    assert (rough.errors(queries) < 20 * off).all()


def test_scores_that_are_off_by_more_are_noticed() -> None:
    random = np.random.default_rng(4)
    rows = random.normal(size=(4_096, WIDTH)).astype(np.float32)
    changed = rows.copy()
    changed[4_000] *= 1.2
    assert not are_near(RoughScores(tf, changed), rows, rows[3_990:4_010])


def test_catalogue_too_small_for_blocks_has_no_rough_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.retrieval._WORTH", np.inf)
    assert not ExactRetrieval(np.ones((500, WIDTH), np.float32)).try_rough(tf)


def test_lower_bits_are_at_or_below_the_number() -> None:
    values = np.abs(np.random.default_rng(5).normal(size=1_000)).astype(np.float32)
    lowered = numbers(lower_bits(values))
    assert ((lowered <= values) & (lowered >= values * (1 - 2.0**-7))).all()
