"""The model as one TensorFlow call for any number of customers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def load() -> Callable[[Sequence[str], int], list[dict[str, Any]]]:
    """Return `(customer_ids, k) -> results`, from the SavedModel in MODEL_FOLDER."""
    import tensorflow as tf

    model = tf.saved_model.load(str(Path(os.environ["MODEL_FOLDER"]) / "saved_model"))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32)])
    def best(user_id: Any, k: Any) -> Any:
        return model.brute_force_index(model.query_model({"user_id": user_id}), k)

    def answer(customer_ids: Sequence[str], k: int) -> list[dict[str, Any]]:
        scores, product_ids = best(tf.constant(customer_ids), tf.constant(k))
        return [
            {
                "customer_id": customer_id,
                "recommendations": [
                    {"product_id": product_id.decode(), "score": score}
                    for product_id, score in zip(products, row, strict=True)
                ],
            }
            for customer_id, products, row in zip(
                customer_ids, product_ids.numpy().tolist(), scores.numpy().tolist(), strict=True
            )
        ]

    answer(["C000000"], 1)  # traced before the first request
    return answer
