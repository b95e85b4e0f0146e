"""The first answers of a model, before anybody else asks: they warm it and prove it sane."""

from __future__ import annotations

from collections.abc import Sequence

from serving.errors import ModelError, ModelWarmUpError
from serving.messages import MAX_CUSTOMERS
from serving.recommender import Answer, Recommender

# An id that nobody has, and one that is no id: unknown customers must be answered too.
UNKNOWN_CUSTOMERS = ("", "warm-up")
_SAMPLE = 64
_TOP_K = 10


def warm_up(recommender: Recommender, customers: Sequence[str]) -> None:
    """Ask for unknown customers and a sample of `customers`; raises ModelWarmUpError.

    The sizes asked are those that requests have: one customer, some, and a full batch.
    """
    some = [*UNKNOWN_CUSTOMERS, *sample(customers)]
    k = min(_TOP_K, recommender.products)
    full_batch = (some * MAX_CUSTOMERS)[:MAX_CUSTOMERS]
    for asked, products in ((some[:1], k), (some, k), (some[:2], 1), (full_batch, k)):
        try:
            _check(asked, recommender.answer(asked, products))
        except ModelError as error:
            raise ModelWarmUpError(
                f"{error} (asked for {products} products of {len(asked)} sample customers)"
            ) from error
    try:
        _check(some[:2], recommender.answer(some[:2], recommender.products))
    except ModelError as error:
        raise ModelWarmUpError(f"{error} (asked for all products)") from error


def sample(customers: Sequence[str], most: int = _SAMPLE) -> Sequence[str]:
    """Return at most so many customers, spread over the list."""
    return customers[:: max(1, len(customers) // most)][:most]


def _check(asked: Sequence[str], answer: Answer) -> None:
    """Raise ModelWarmUpError unless scores descend and product ids are texts."""
    ascending = (answer.scores[:, 1:] > answer.scores[:, :-1]).any(axis=1)
    if ascending.any():
        raise ModelWarmUpError(
            f"the scores of {_name(asked, int(ascending.argmax()))} are not in descending order; "
            "the index must return the best product first"
        )
    for row, product_ids in enumerate(answer.product_ids.tolist()):
        for product_id in product_ids:
            try:
                empty = not product_id.decode()
            except UnicodeDecodeError as error:
                raise ModelWarmUpError(
                    f"a product id of {_name(asked, row)} is not UTF-8"
                ) from error
            if empty:
                raise ModelWarmUpError(f"a product id of {_name(asked, row)} is empty")


def _name(asked: Sequence[str], row: int) -> str:
    """Return who a sample customer is, without telling the id of a real one."""
    return "an unknown customer" if asked[row] in UNKNOWN_CUSTOMERS else "a customer of the sample"
