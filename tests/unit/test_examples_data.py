"""The MovieLens frame, its split by time, and the training examples cut out of histories."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from examples.movielens import data
from examples.movielens.histories import Histories, cut_examples
from examples.movielens.settings import SMALL


@pytest.fixture(scope="module")
def interactions() -> pd.DataFrame:
    return data.load_interactions()


@pytest.fixture(scope="module")
def split(interactions: pd.DataFrame) -> data.Split:
    return data.split_by_customer(interactions)


def made(*rows: tuple[str, str, int]) -> pd.DataFrame:
    """Return interactions of customer, product and second."""
    frame = pd.DataFrame(rows, columns=["customer_id", "product_id", "second"])
    return frame.assign(
        taken_at=pd.to_datetime(frame.pop("second"), unit="s", utc=True), genres="Drama", year=1999
    )


def test_loaded_ratings_are_the_whole_data_set_with_types(interactions: pd.DataFrame) -> None:
    assert tuple(interactions.columns) == data.COLUMNS
    assert len(interactions) == 100_004
    assert interactions["customer_id"].nunique() == 671
    assert interactions["product_id"].nunique() == 9_066
    assert {type(value) for value in interactions["customer_id"].head()} == {str}
    assert {type(value) for value in interactions["product_id"].head()} == {str}
    assert interactions["taken_at"].dt.tz is not None
    assert interactions["taken_at"].is_monotonic_increasing


def test_held_out_interactions_are_later_than_all_of_the_customers_training(
    split: data.Split,
) -> None:
    last_trained = split.train.groupby("customer_id")["taken_at"].max()
    first_held_out = split.held_out.groupby("customer_id")["taken_at"].min()
    assert (first_held_out > last_trained[first_held_out.index]).all()


def test_split_loses_no_interaction_and_repeats_none(
    interactions: pd.DataFrame, split: data.Split
) -> None:
    together = sorted([*split.train.index, *split.held_out.index])
    assert together == list(interactions.index)


def test_evaluation_customers_are_nearly_all_and_all_were_trained_on(split: data.Split) -> None:
    evaluated = set(split.held_out["customer_id"])
    assert len(evaluated) == 666
    assert evaluated <= set(split.train["customer_id"])
    assert len(split.held_out) == 19_467


def test_one_moment_for_all_leaves_too_few_customers_to_measure_on(
    interactions: pd.DataFrame,
) -> None:
    assert data.customers_left_by_global_cut(interactions) == 23


def test_ratings_of_the_same_second_stay_together() -> None:
    # The last fifth would begin within second 4, whose two ratings have no order.
    rows = [("1", str(product), second) for product, second in enumerate([1, 2, 3, 4, 4])]
    split = data.split_by_customer(made(*rows))
    assert len(split.train) == 5
    assert split.held_out.empty


def test_customer_with_one_rating_is_trained_on_and_not_evaluated() -> None:
    split = data.split_by_customer(made(("1", "A", 1)))
    assert len(split.train) == 1
    assert split.held_out.empty


def test_catalogue_lists_products_in_numeric_order_whoever_took_them() -> None:
    frame = made(("1", "10", 2), ("2", "9", 1), ("2", "10", 3))
    frame["genres"] = ["Drama|Comedy", "Drama", "Drama|Comedy"]
    frame["year"] = [1994.0, np.nan, 1994.0]
    catalogue = data.build_catalogue(frame)
    assert catalogue.product_ids == ("9", "10")
    # Comedy, Drama; unknown year, 1990-1994.
    assert catalogue.features.tolist() == [[0, 1, 1, 0], [0.5, 0.5, 0, 1]]


def test_histories_follow_each_customers_own_time() -> None:
    frame = made(("2", "B", 5), ("10", "A", 3), ("2", "A", 1), ("2", "C", 9))
    histories = Histories.of(frame, ("A", "B", "C"))
    assert histories.customer_ids == ("2", "10")
    assert histories.product.tolist() == [0, 1, 2, 0]
    assert histories.position.tolist() == [0, 1, 2, 0]
    assert histories.last(2).tolist() == [[False, True, True], [True, False, False]]


def test_training_examples_predict_only_what_came_after_what_they_show() -> None:
    products = tuple(str(number) for number in range(40))
    frame = made(*[("1", product, second) for second, product in enumerate(products)])
    histories = Histories.of(frame, products)
    for seed in range(20):
        examples = cut_examples(histories, SMALL, np.random.default_rng(seed))
        shown, asked = examples.history[0].nonzero()[0], examples.following[0].nonzero()[0]
        assert len(asked) > 0
        assert shown.max() < asked.min()
        assert set(examples.recent[0].nonzero()[0]) <= set(shown)


def test_training_examples_never_contain_held_out_interactions(split: data.Split) -> None:
    products = data.build_catalogue(pd.concat([split.train, split.held_out])).product_ids
    histories = Histories.of(split.train, products)
    examples = cut_examples(histories, SMALL, np.random.default_rng(0))
    taken = histories.taken()
    assert not (examples.history & ~taken).any()
    assert not (examples.following & ~taken).any()
    column = {product: index for index, product in enumerate(products)}
    row = {customer: index for index, customer in enumerate(histories.customer_ids)}
    held = split.held_out
    rows, columns = held["customer_id"].map(row), held["product_id"].map(column)
    assert not taken[rows, columns].any()
