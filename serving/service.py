"""The two questions of the prediction API: check the key, read the question, answer it."""

from __future__ import annotations

from serving import rendering
from serving.errors import AnswerTooLarge, TopKOutOfRange
from serving.keys import ApiKeys
from serving.messages import MAX_RECOMMENDATIONS, RecommendBatchRequest, RecommendRequest
from serving.model_slot import ModelSlot
from serving.parsing import parse
from serving.usage import Usage


class Service:
    """Answers requests of one model version; every method may raise a ServingError."""

    def __init__(self, version: str, slot: ModelSlot, keys: ApiKeys, usage: Usage) -> None:
        self._version = version
        self._slot = slot
        self._keys = keys
        self._usage = usage

    def recommend(self, authorization: str | None, content_type: str, body: bytes) -> bytes:
        """Return the body of the answer to POST /recommend."""
        most = self._slot.most_products()
        self._usage.note_key(self._keys.check(authorization))
        asked = parse(RecommendRequest, content_type, body)
        _check_size(1, asked.top_k, most)
        customers = [asked.customer_id]
        [answer] = self._slot.answers(customers, asked.top_k)
        self._usage.note_customers(customers)
        return rendering.one(answer, self._version)

    def recommend_batch(self, authorization: str | None, content_type: str, body: bytes) -> bytes:
        """Return the body of the answer to POST /recommend-batch, in the request's order."""
        most = self._slot.most_products()
        self._usage.note_key(self._keys.check(authorization))
        asked = parse(RecommendBatchRequest, content_type, body)
        _check_size(len(asked.customer_ids), asked.top_k, most)
        answers = self._slot.answers(asked.customer_ids, asked.top_k)
        self._usage.note_customers(asked.customer_ids)
        return rendering.batch(answers, self._version)


def _check_size(customers: int, k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise TopKOutOfRange(k, most)
    if customers * k > MAX_RECOMMENDATIONS:
        raise AnswerTooLarge(customers * k, MAX_RECOMMENDATIONS)
