"""The exact search finds what sorting the whole catalogue finds, in the same order."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.retrieval import ExactRetrieval

BLOCK, STRIPE = 32, 32 * 128
# A k up to a 256th of the products is found by blocks; around the edges of blocks and stripes.
EDGES = [1, BLOCK, 256, 2 * 256, STRIPE, 2 * STRIPE]
SIZES = sorted({size for edge in EDGES for size in (edge - 1, edge, edge + 1) if size > 0})


def catalogue(seed: int, products: int, distinct: int, width: int = 3) -> Any:
    """Return embeddings [products, width] of small whole numbers: sums are exact, ties common."""
    return np.random.default_rng(seed).integers(
        -distinct, distinct, (products, width), endpoint=True
    )


def sorted_out(embeddings: Any, queries: Any, k: int) -> tuple[Any, Any]:
    """Return the best k by a plain stable sort."""
    scores = queries @ embeddings.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@given(
    seed=st.integers(0, 2**32),
    products=st.sampled_from(SIZES) | st.integers(1, 3 * STRIPE),
    distinct=st.integers(0, 3),
    customers=st.sampled_from([1, 2, 63, 64, 65, 130]),
    cpus=st.integers(1, 2),
    data=st.data(),
)
def test_best_products_are_those_of_a_stable_sort(
    seed: int, products: int, distinct: int, customers: int, cpus: int, data: st.DataObject
) -> None:
    k = data.draw(
        st.integers(1, max(1, products // 256)) | st.sampled_from([1, products]), label="k"
    )
    embeddings = catalogue(seed, products, distinct).astype(np.float32)
    if k > 256:
        customers = min(customers, 3)
    queries = catalogue(seed + 1, customers, 4).astype(np.float32)
    scores, positions = ExactRetrieval(embeddings, cpus).top(queries, k)
    expected_scores, expected = sorted_out(embeddings, queries, k)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(positions, expected)


@pytest.mark.parametrize("products", [513, 543, 2 * 4_096 + 1])
def test_last_product_of_a_block_that_is_not_full_is_found_once(products: int) -> None:
    embeddings = catalogue(1, products, 3).astype(np.float32)
    embeddings[-1] = 9
    queries = np.ones((2, 3), np.float32)
    _, positions = ExactRetrieval(embeddings).top(queries, 2)
    np.testing.assert_array_equal(positions, sorted_out(embeddings, queries, 2)[1])
    assert (positions[:, 0] == products - 1).all()


@given(seed=st.integers(0, 2**32), products=st.sampled_from(SIZES), data=st.data())
@settings(max_examples=30)
def test_scores_of_real_numbers_are_apart_by_rounding_only(
    seed: int, products: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, max(1, products // 256)), label="k")
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(products, 32)).astype(np.float32)
    queries = random.normal(size=(5, 32)).astype(np.float32)
    scores, positions = ExactRetrieval(embeddings).top(queries, k)
    exact = queries.astype(np.float64) @ embeddings.astype(np.float64).T
    best = -np.sort(-exact, axis=1)[:, :k]
    tolerance = 1e-6 * np.abs(exact).max()
    np.testing.assert_allclose(scores, best, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        np.take_along_axis(exact, positions, axis=1), scores, rtol=0, atol=tolerance
    )
    assert all(len(set(row)) == k for row in positions.tolist())


@pytest.mark.parametrize("products", [20, 256, STRIPE + 1, 8 * STRIPE + 1])
def test_small_and_large_k_agree(products: int) -> None:
    embeddings = catalogue(5, products, 2).astype(np.float32)
    queries = catalogue(6, 3, 4).astype(np.float32)
    search = ExactRetrieval(embeddings, 2)
    _, everything = search.top(queries, products)
    for k in (1, max(1, products // 256), products // 256 + 1):
        np.testing.assert_array_equal(search.top(queries, k)[1], everything[:, :k])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("k", [1, 2, 300])
def test_customer_without_numbers_gets_no_numbers(bad: float, k: int) -> None:
    search = ExactRetrieval(catalogue(1, 600, 3).astype(np.float32) + 0.5)
    queries = np.ones((3, 3), np.float32)
    queries[1, 2] = bad
    with np.errstate(invalid="ignore"):
        scores, _ = search.top(queries, k)
    assert np.isfinite(scores).all(axis=1).tolist() == [True, False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("k", [1, 2, 300, 600])
def test_product_without_a_number_is_not_hidden(bad: float, k: int) -> None:
    for where in (0, 31, 32, 598, 599):
        embeddings = catalogue(1, 600, 3).astype(np.float32)
        embeddings[where] = bad
        with np.errstate(invalid="ignore"):
            scores, _ = ExactRetrieval(embeddings).top(np.ones((2, 3), np.float32), k)
        assert (~np.isfinite(scores)).any(axis=1).all()


@given(seed=st.integers(0, 2**32), products=st.sampled_from(SIZES), data=st.data())
def test_embeddings_come_back_in_the_order_of_the_catalogue(
    seed: int, products: int, data: st.DataObject
) -> None:
    embeddings = catalogue(seed, products, 9).astype(np.float32)
    search = ExactRetrieval(embeddings)
    np.testing.assert_array_equal(search.embeddings(), embeddings)
    some = data.draw(st.lists(st.integers(0, products - 1), min_size=1, max_size=9))
    queries = catalogue(seed + 1, 2, 4).astype(np.float32)
    np.testing.assert_array_equal(
        search.scores(queries, np.array([some, some])), (queries @ embeddings.T)[:, some]
    )


def test_large_k_of_many_customers_takes_little_memory() -> None:
    products, k = 256 * 400, 400
    search = ExactRetrieval(catalogue(1, products, 3, width=8).astype(np.float32))
    queries = catalogue(2, 64, 4, width=8).astype(np.float32)
    tracemalloc.start()
    try:
        search.top(queries, k)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6
