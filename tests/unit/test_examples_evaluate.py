"""Recall and the baselines on cases small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from examples.movielens.baselines import item_knn_scores, popularity_scores
from examples.movielens.evaluate import (
    HeldOut,
    best_products,
    difference_interval,
    mean_recalls,
    recall_at_k,
    recalls,
    without_seen,
)

# Three customers, four products: A and B are taken together, C alone, D by nobody.
TAKEN = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]], bool)
PRODUCTS = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("answer", "taken", "k", "expected"),
    [
        pytest.param(["A", "B", "C"], ["A", "B"], 3, 1.0, id="all of them"),
        pytest.param(["A", "B", "C"], ["D", "E"], 3, 0.0, id="none of them"),
        pytest.param(["A", "B", "C"], ["C", "D", "E", "A"], 3, 0.5, id="half of them"),
        pytest.param(["A", "B", "C"], ["C"], 2, 0.0, id="only behind the cutoff"),
        pytest.param(["A"], ["A", "B", "C"], 1, 1 / 3, id="more taken than asked for"),
        pytest.param([], ["A"], 10, 0.0, id="an empty answer"),
    ],
)
def test_answer_against_what_was_taken_gives_the_share_found(
    answer: list[str], taken: list[str], k: int, expected: float
) -> None:
    assert recall_at_k(answer, taken, k) == pytest.approx(expected)


def test_customer_who_took_nothing_has_no_recall() -> None:
    with pytest.raises(ValueError, match="at least one product"):
        recall_at_k(["A"], [], 10)


def test_customers_count_alike_however_much_they_took() -> None:
    held_out = HeldOut(("1", "2"), (("A",), ("B", "C", "D", "E")))
    answers = [["A"], ["B"]]
    assert recalls(answers, held_out, 10).tolist() == [1.0, 0.25]
    assert mean_recalls(answers, held_out)["recall_at_10"] == 0.625


def test_held_out_interactions_are_gathered_by_customer_in_numeric_order() -> None:
    frame = pd.DataFrame({"customer_id": ["10", "9", "10"], "product_id": ["A", "B", "C"]})
    assert HeldOut.of(frame) == HeldOut(("9", "10"), (("B",), ("A", "C")))


def test_popular_products_rank_first_for_everybody() -> None:
    assert best_products(popularity_scores(TAKEN), PRODUCTS, 3) == [["A", "B", "C"]] * 3


def test_what_was_seen_ranks_last_when_it_is_left_out() -> None:
    scores = without_seen(popularity_scores(TAKEN), TAKEN)
    assert [row[0] for row in best_products(scores, PRODUCTS, 1)] == ["C", "C", "B"]


def test_item_knn_scores_are_the_summed_cosines_of_what_was_taken() -> None:
    scores = item_knn_scores(TAKEN, neighbours=4, shrinkage=0)
    # cos(A, B) = 2 / sqrt(3 * 2), cos(A, C) = 1 / sqrt(3 * 1), cos(B, C) = 0.
    to_b, to_c = 2 / np.sqrt(6), 1 / np.sqrt(3)
    assert scores[2] == pytest.approx([to_c, to_b, to_c, 0])
    assert scores[0] == pytest.approx([to_b, to_b, to_c, 0])


def test_item_knn_with_one_neighbour_forgets_the_weaker_ones() -> None:
    scores = item_knn_scores(TAKEN, neighbours=1, shrinkage=0)
    # A's only neighbour is B, so having taken C says nothing about A any more.
    assert scores[2][0] == 0


def test_equal_figures_differ_by_nothing_and_clear_ones_by_an_interval_above_zero() -> None:
    figures = np.linspace(0, 1, 50)
    assert difference_interval(figures, figures) == {"mean": 0, "low": 0, "high": 0}
    better = difference_interval(figures + 0.1, figures)
    assert better["low"] == pytest.approx(0.1)
    assert better["high"] == pytest.approx(0.1)
