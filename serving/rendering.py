"""Recommendations as the JSON that callers get; a product's text is rendered once.

A customer's answer is `{"customer_id":"C1","recommendations":[ITEM,ITEM,...]`, still open at its
end: whoever sends it adds what belongs to the whole answer, and closes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from serving.errors import ModelError
from serving.recommender import Answer


class Renderer:
    """Renders one model's answers; keeps the text of each product that it has met."""

    def __init__(self) -> None:
        self._begins: dict[bytes, bytes] = {}

    def items(self, answer: Answer) -> list[list[bytes]]:
        """Return each customer's items, best first; ModelError where an id is not UTF-8."""
        # NumPy's own numbers: a float32 is written with the digits that it has (0.92), a Python
        # float would show 0.9200000166893005. In arrays of numbers no other "," or "]" occurs.
        numbers = orjson.dumps(answer.scores, option=orjson.OPT_SERIALIZE_NUMPY)
        scores = [row.split(b",") for row in numbers[2:-2].split(b"],[")]
        try:
            return [
                self._row(*row) for row in zip(answer.product_ids.tolist(), scores, strict=True)
            ]
        except KeyError:
            self._learn(answer)
            return [
                self._row(*row) for row in zip(answer.product_ids.tolist(), scores, strict=True)
            ]

    def answers(self, customer_ids: Sequence[str], answer: Answer) -> list[bytes]:
        """Return each customer's whole answer, still open; ModelError as above."""
        rendered = [
            b"%b%b]" % (opened(customer_id), b",".join(items))
            for customer_id, items in zip(customer_ids, self.items(answer), strict=True)
        ]
        if answer.known is None:
            return rendered
        return [
            text if known else text + b',"known":false'
            for text, known in zip(rendered, answer.known.tolist(), strict=True)
        ]

    def _row(self, product_ids: Sequence[bytes], scores: Sequence[bytes]) -> list[bytes]:
        begins = self._begins
        return [
            b"%b%b}" % (begins[product_id], score)
            for product_id, score in zip(product_ids, scores, strict=True)
        ]

    def _learn(self, answer: Answer) -> None:
        try:
            for product_id in {id_ for row in answer.product_ids.tolist() for id_ in row}:
                text = orjson.dumps(product_id.decode())
                self._begins[product_id] = b'{"product_id":%b,"score":' % text
        except UnicodeDecodeError as error:
            raise ModelError("the model gave a product id that is not UTF-8") from error


def opened(customer_id: str) -> bytes:
    """Return the begin of a customer's answer, up to the first item."""
    return b'{"customer_id":%b,"recommendations":[' % orjson.dumps(customer_id)


def one(answer: bytes, version: str) -> bytes:
    """Return the body of the answer to /recommend."""
    return b'%b,"model_version":"%b"}' % (answer, version.encode())


def batch(answers: Sequence[bytes], version: str) -> bytes:
    """Return the body of the answer to /recommend-batch."""
    return b'{"results":[%b}],"model_version":"%b"}' % (b"},".join(answers), version.encode())
