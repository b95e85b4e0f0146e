"""What a loaded model answers, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serving.errors import AnswerTooLarge, ModelError, TopKOutOfRange
from serving.messages import MAX_RECOMMENDATIONS, RecommendBatchRequest, RecommendRequest


@dataclass(frozen=True)
class Answer:
    """Recommendations of n customers, best first, as NumPy arrays.

    `scores` [n, k] float32, `product_ids` [n, k] bytes (UTF-8), `known` [n] bool or None where
    the model cannot tell.
    """

    scores: Any
    product_ids: Any
    known: Any | None


class Recommender(Protocol):
    """A model that is ready to answer."""

    @property
    def products(self) -> int:
        """How many products it can recommend: the largest `k`."""

    @property
    def customers(self) -> int | None:
        """How many customers it knows, or None where it cannot tell."""

    def answer(self, customer_ids: Sequence[str], k: int) -> Answer:
        """Return the best `k` products of each customer; raises ModelError."""


def recommend(
    recommender: Recommender, request: RecommendRequest, version: str
) -> dict[str, object]:
    """Return the body of the answer to /recommend."""
    [result] = _results(recommender, [request.customer_id], request.top_k)
    return {**result, "model_version": version}


def recommend_batch(
    recommender: Recommender, request: RecommendBatchRequest, version: str
) -> dict[str, object]:
    """Return the body of the answer to /recommend-batch, in the request's order."""
    results = _results(recommender, request.customer_ids, request.top_k)
    return {"results": results, "model_version": version}


def _results(
    recommender: Recommender, customer_ids: Sequence[str], k: int
) -> list[dict[str, object]]:
    if not 1 <= k <= recommender.products:
        raise TopKOutOfRange(k, recommender.products)
    if len(customer_ids) * k > MAX_RECOMMENDATIONS:
        raise AnswerTooLarge(len(customer_ids) * k, MAX_RECOMMENDATIONS)
    answer = recommender.answer(customer_ids, k)
    try:
        # Rows are iterated as NumPy scalars: orjson writes a float32 with the digits a float32
        # has (0.92), a Python float would show 0.9200000166893005.
        results: list[dict[str, object]] = [
            {
                "customer_id": customer_id,
                "recommendations": [
                    {"product_id": product_id.decode(), "score": score}
                    for product_id, score in zip(product_ids, scores, strict=True)
                ],
            }
            for customer_id, product_ids, scores in zip(
                customer_ids, answer.product_ids.tolist(), answer.scores, strict=True
            )
        ]
    except UnicodeDecodeError as error:
        raise ModelError("the model gave a product id that is not UTF-8") from error
    if answer.known is not None:
        for result, known in zip(results, answer.known.tolist(), strict=True):
            if not known:
                result["known"] = False
    return results
