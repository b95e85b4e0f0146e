"""Loading real SavedModels: the good ones answer, each broken one says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.errors import LoadError, ModelContractError, ModelError, ModelWarmUpError
from serving.predictor import (
    RetrievingRecommender,
    SavedModelRecommender,
    load_recommender,
)
from serving.warm_up import warm_up
from tests import models

Loaded = SavedModelRecommender | RetrievingRecommender


def load(folder: Path, known: frozenset[str] | None = None) -> Loaded:
    import tensorflow as tf

    return load_recommender(tf, folder, known, models.CUSTOMERS)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("good")
    models.write_good(folder)
    return load(folder)


@pytest.fixture(scope="module")
def by_signature(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("signature")
    models.write_only_serving_default(folder)
    return load(folder, frozenset(models.CUSTOMERS))


def test_both_forms_of_one_model_give_the_same_answers(good: Loaded, by_signature: Loaded) -> None:
    asked = [*models.CUSTOMERS, "nobody"]
    first, second = good.answer(asked, 7), by_signature.answer(asked, 7)
    np.testing.assert_allclose(first.scores, second.scores, rtol=1e-6)
    assert first.product_ids.tolist() == second.product_ids.tolist()
    assert first.known is not None
    assert second.known is not None
    assert first.known.tolist() == second.known.tolist() == [True] * 20 + [False]


def test_model_with_candidates_is_searched_and_any_other_asked(
    good: Loaded, by_signature: Loaded
) -> None:
    assert (good.kind, by_signature.kind) == ("exact", "model")


@pytest.mark.parametrize("k", [1, 2, 20, len(models.PRODUCTS)])
def test_search_finds_what_the_models_own_index_finds(
    good: Loaded, by_signature: Loaded, k: int
) -> None:
    asked = [*models.CUSTOMERS, "nobody"]
    found, own = good.answer(asked, k), by_signature.answer(asked, k)
    np.testing.assert_allclose(found.scores, own.scores, rtol=1e-6, atol=1e-6)
    assert found.product_ids.tolist() == own.product_ids.tolist()


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (models.write_biased_index, "other scores than the index"),
        (models.write_misplaced_candidates, "not those of the index"),
    ],
)
def test_candidates_that_are_not_what_the_index_searches_are_left_alone(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    write: models.Callable[[Path], None],
    says: str,
) -> None:
    write(tmp_path)
    model = load(tmp_path)
    assert model.kind == "model"
    assert says in caplog.records[0].fields["reason"]  # type: ignore[attr-defined]
    warm_up(model, models.CUSTOMERS)


def test_batch_gives_each_customer_what_it_gets_alone(good: Loaded) -> None:
    batch = good.answer(models.CUSTOMERS, 5)
    for row, customer_id in enumerate(models.CUSTOMERS):
        alone = good.answer([customer_id], 5)
        assert batch.product_ids[row].tolist() == alone.product_ids[0].tolist()


@pytest.mark.parametrize("write", [models.write_without_extras, models.write_only_serving_default])
def test_products_are_counted_where_the_model_does_not_tell(
    tmp_path: Path, write: models.Callable[[Path], None]
) -> None:
    write(tmp_path)
    assert load(tmp_path).products == len(models.PRODUCTS)


def test_model_that_cannot_tell_who_is_known_says_nothing(tmp_path: Path) -> None:
    models.write_without_extras(tmp_path)
    model = load(tmp_path)
    assert model.answer(["nobody"], 1).known is None
    assert model.customers is None


def test_good_models_pass_the_warm_up(good: Loaded, by_signature: Loaded) -> None:
    warm_up(good, models.CUSTOMERS)
    warm_up(by_signature, [])


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("without_saved_model", ModelContractError, "not a SavedModel: there is no"),
        ("corrupt_saved_model", ModelContractError, "cannot be loaded"),
        ("no_known_signature", ModelContractError, "offers embed, predict and the signatures none"),
        ("foreign_signature", ModelContractError, "takes x and returns"),
        ("fixed_k", ModelContractError, "k scalar int32"),
        ("wrong_dtype", ModelContractError, "product_ids are int64"),
        ("flat_candidates", ModelContractError, "expected .m. and .m, d. float32"),
        ("nan_scores", ModelWarmUpError, "not a finite number"),
        ("unordered_scores", ModelWarmUpError, "not in descending order"),
    ],
)
def test_broken_model_is_refused_with_the_reason(
    tmp_path: Path, kind: str, error: type[LoadError], says: str
) -> None:
    models.BROKEN[kind](tmp_path)
    with pytest.raises(error, match=says):
        warm_up(load(tmp_path), models.CUSTOMERS)


def test_every_broken_kind_is_covered_here() -> None:
    [mark] = test_broken_model_is_refused_with_the_reason.pytestmark
    assert {kind for kind, _, _ in mark.args[1]} == set(models.BROKEN)


def test_customer_whose_scores_are_nan_is_an_error_not_an_answer(tmp_path: Path) -> None:
    models.write_nan_for_one_customer(tmp_path, "C-NAN")
    model = load(tmp_path)
    warm_up(model, models.CUSTOMERS)
    assert model.answer(["C001"], 3).scores.shape == (1, 3)
    with pytest.raises(ModelError, match="finite"):
        model.answer(["C001", "C-NAN"], 3)
