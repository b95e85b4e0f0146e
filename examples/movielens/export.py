"""The trained model as a SavedModel that needs nothing of this package to be served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from examples.movielens.histories import Histories, Matrix
from examples.movielens.model import TwoTower


class Recommender(tf.Module):  # type: ignore[misc]
    """Known customers' and all products' vectors, and the search for the best products.

    A customer's history is fixed when training ends, and so is what the customer tower makes of
    it: its output is kept rather than the tower, which gives the same answers in one lookup.
    Row 0 answers for customers nobody knows: the mean of all customers' vectors.
    """

    def __init__(
        self,
        customer_ids: Sequence[str],
        customers: Matrix,
        product_ids: Sequence[str],
        products: Matrix,
    ) -> None:
        super().__init__(name="recommender")
        width = customers.shape[1]
        self._row = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(list(customer_ids), tf.string),
                tf.range(1, len(customer_ids) + 1, dtype=tf.int32),
            ),
            default_value=0,
        )
        unknown = customers.mean(axis=0, keepdims=True)
        self._customers = tf.Variable(np.concatenate([unknown, customers]), trainable=False)
        self._product_ids = tf.Variable(tf.constant(list(product_ids), tf.string), trainable=False)
        self._products = tf.Variable(products, trainable=False)

        ids = tf.TensorSpec([None], tf.string, "user_id")
        # k is a tensor: a Python number would be traced, and kept, once for each value.
        k = tf.TensorSpec([], tf.int32, "k")
        embedding = tf.TensorSpec([None, width], tf.float32, "embedding")
        self.query_model = tf.function(self._query, input_signature=[{"user_id": ids}])
        self.brute_force_index = tf.function(self._search, input_signature=[embedding, k])
        self.known = tf.function(self._is_known, input_signature=[ids])
        self.candidates = tf.function(self._candidates, input_signature=[])
        self.serving_default = tf.function(self._serve, input_signature=[ids, k])

    def _query(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.gather(self._customers, self._row.lookup(features["user_id"]))

    def _search(self, embedding: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        k = tf.clip_by_value(k, 1, self._products.shape[0])
        scores, rows = tf.math.top_k(tf.matmul(embedding, self._products, transpose_b=True), k)
        return scores, tf.gather(self._product_ids, rows)

    def _is_known(self, user_id: tf.Tensor) -> tf.Tensor:
        return self._row.lookup(user_id) > 0

    def _candidates(self) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.identity(self._product_ids), tf.identity(self._products)

    def _serve(self, user_id: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, product_ids = self._search(self._query({"user_id": user_id}), k)
        return {"scores": scores, "product_ids": product_ids}


def build_recommender(model: TwoTower, histories: Histories, recent: int) -> Recommender:
    """Run both towers once over everything; `recent` as in the settings trained with."""
    customers = model.customer_tower(
        tf.constant(histories.taken()), tf.constant(histories.last(recent))
    ).numpy()
    products = model.product_tower.vectors().numpy()
    return Recommender(histories.customer_ids, customers, histories.product_ids, products)


def save_recommender(recommender: Recommender, folder: Path) -> None:
    """Write the SavedModel into `folder`, which must not hold another one."""
    tf.saved_model.save(
        recommender,
        str(folder),
        signatures={"serving_default": recommender.serving_default},
    )


class Exported:
    """A SavedModel loaded back from disk, asked as the serving container asks it."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = tf.saved_model.load(str(folder))

    def answer(self, customer_ids: Sequence[str], k: int) -> list[list[str]]:
        """Return the best `k` product ids of each customer, over all products."""
        _, ids = self._model.brute_force_index(self._embed(customer_ids), tf.constant(k, tf.int32))
        return [[id_.decode() for id_ in row] for row in ids.numpy()]

    def scores(self, customer_ids: Sequence[str]) -> Matrix:
        """Return every product's score for each customer, [c, m], in catalogue order."""
        _, products = self._model.candidates()
        scores: Matrix = tf.matmul(self._embed(customer_ids), products, transpose_b=True).numpy()
        return scores

    def _embed(self, customer_ids: Sequence[str]) -> tf.Tensor:
        return self._model.query_model({"user_id": tf.constant(list(customer_ids), tf.string)})
