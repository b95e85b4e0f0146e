"""A SavedModel as a recommender: its contract, found once and traced into one graph.

Two forms are served:
- `query_model({"user_id": [n] string}) -> [n, d] float32` with
  `brute_force_index(embedding [n, d], k int32) -> (scores [n, k] float32, ids [n, k] string)`;
- a `serving_default` signature taking `user_id` [n] string and `k` scalar int32 and returning
  `scores` and `product_ids` of the same shapes.
Either may add `known(user_id [n] string) -> [n] bool` and `candidates() -> (ids [m], [m, d])`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ModelContractError, ModelError
from serving.logs import log
from serving.recommender import Answer
from serving.retrieval import ExactRetrieval, Retrieval

SAVED_MODEL = "saved_model"
# The search for the number of products ends here; more than any catalogue this serves.
_MOST_PRODUCTS = 1 << 24
# How many products of each sample customer are compared, and how far float32 sums may be apart.
_COMPARED = 20
_ROUNDING = 1e-5


class SavedModelRecommender:
    """Answers with the model's own index, in one graph."""

    kind = "model"

    def __init__(
        self, tf: Any, answer: Any, products: int, known_customers: frozenset[str] | None
    ) -> None:
        self._ask = _Graph(tf, answer, known_customers)
        self.products = products
        self.customers = None if known_customers is None else len(known_customers)

    def answer(self, customer_ids: Sequence[str], k: int) -> Answer:
        """Return the best `k` products (1 to `products`) of each customer; raises ModelError."""
        (scores, product_ids), known = self._ask(customer_ids, 2, k)
        shape = (len(customer_ids), k)
        if scores.shape != shape or product_ids.shape != shape:
            raise ModelError(
                f"the model answered scores {scores.shape} and product ids {product_ids.shape}, "
                f"expected {shape}"
            )
        return Answer(_finite(scores), product_ids, known)


class RetrievingRecommender:
    """Asks the model for the customers' embeddings alone, and searches its candidates itself."""

    def __init__(
        self,
        tf: Any,
        embed: Any,
        product_ids: Any,
        exact: ExactRetrieval,
        known_customers: frozenset[str] | None,
    ) -> None:
        self._ask = _Graph(tf, embed, known_customers)
        self._product_ids = product_ids
        self.exact = exact
        self.retrieval: Retrieval = exact
        self.products = len(product_ids)
        self.customers = None if known_customers is None else len(known_customers)

    @property
    def kind(self) -> str:
        """How products are found."""
        return self.retrieval.kind

    def embed(self, customer_ids: Sequence[str]) -> Any:
        """Return the customers' embeddings [n, d] float32; raises ModelError."""
        (embeddings,), _ = self._ask(customer_ids, 1)
        return embeddings

    def answer(self, customer_ids: Sequence[str], k: int) -> Answer:
        """Return the best `k` products (1 to `products`) of each customer; raises ModelError."""
        (embeddings,), known = self._ask(customer_ids, 1)
        scores, positions = self.retrieval.top(embeddings, k)
        return Answer(_finite(scores), self._product_ids[positions], known)


class _Graph:
    """Calls a traced function, and tells which customers are known."""

    def __init__(self, tf: Any, graph: Any, known_customers: frozenset[str] | None) -> None:
        self._tf = tf
        self._graph = graph
        self._known_customers = known_customers

    def __call__(
        self, customer_ids: Sequence[str], outputs: int, k: int | None = None
    ) -> tuple[list[Any], Any | None]:
        """Return the first `outputs` outputs as NumPy arrays, and `known`; raises ModelError."""
        tf = self._tf
        asked = [tf.constant(customer_ids, tf.string)]
        if k is not None:
            asked.append(tf.constant(k, tf.int32))
        try:
            found = [output.numpy() for output in self._graph(*asked)]
        except tf.errors.OpError as error:
            raise ModelError(
                f"the model failed: {type(error).__name__}: {error.message}"
            ) from error
        if len(found) > outputs:
            return found[:outputs], found[outputs]
        if self._known_customers is None:
            return found, None
        known = [id_ in self._known_customers for id_ in customer_ids]
        return found, np.array(known)


def _finite(scores: Any) -> Any:
    if not np.isfinite(scores).all():
        raise ModelError("the model gave a score that is not a finite number")
    return scores


def use_cpus(tf: Any, cpus: int) -> None:
    """Give TensorFlow as many threads as there are CPUs; before anything else it does."""
    tf.config.threading.set_intra_op_parallelism_threads(cpus)
    # One call at a time is made, and its few steps depend on each other: handing them from thread
    # to thread costs a third more than doing them in one.
    tf.config.threading.set_inter_op_parallelism_threads(1)


def load_recommender(
    tf: Any,
    folder: Path,
    known_customers: frozenset[str] | None,
    sample: Sequence[str] = (),
    cpus: int = 1,
    search: Callable[[ExactRetrieval], Retrieval] = lambda exact: exact,
) -> SavedModelRecommender | RetrievingRecommender:
    """Load `folder/saved_model`; raises ModelContractError saying what is missing.

    Where the model has candidates, and their inner products are what its own index answers for
    the `sample` of customers, `search` says how they are searched, with `cpus` threads. After
    this returns, no file in `folder` is needed.
    """
    saved_model = folder / SAVED_MODEL
    if not (saved_model / "saved_model.pb").is_file():
        raise ModelContractError(
            f"the artifact is not a SavedModel: there is no {SAVED_MODEL}/saved_model.pb; export "
            "the model with tf.saved_model.save"
        )
    try:
        model = tf.saved_model.load(str(saved_model))
    except Exception as error:  # TensorFlow raises whatever its parsers raise.
        raise ModelContractError(
            f"the SavedModel cannot be loaded: {_first_line(error).replace(f'{folder}/', '')}"
        ) from error
    try:
        answer = _one_graph(tf, model, _find_contract(model))
        products = _count_products(tf, model, answer)
        whole = SavedModelRecommender(tf, answer, products, known_customers)
        if not (_offers(model, "query_model") and _offers(model, "candidates")):
            return whole
        searching = _searching(tf, model, cpus, known_customers)
    except tf.errors.OpError as error:
        raise ModelContractError(f"the model does not answer: {_first_line(error)}") from error
    try:
        difference = _difference(whole, searching, ["", *sample])
    except ModelError as error:
        difference = str(error)
    if difference:
        log("WARNING", "candidates are not what the index searches", reason=difference)
        return whole
    searching.retrieval = search(searching.exact)
    if searching.retrieval is searching.exact:
        searching.exact.try_rough(tf)
    return searching


def _searching(
    tf: Any, model: Any, cpus: int, known_customers: frozenset[str] | None
) -> RetrievingRecommender:
    """Return the recommender that searches the model's candidates; raises ModelContractError."""
    product_ids, embeddings = (found.numpy() for found in model.candidates())
    if (
        product_ids.ndim != 1
        or embeddings.ndim != 2
        or len(product_ids) != len(embeddings)
        or embeddings.dtype != np.float32
    ):
        raise ModelContractError(
            f"candidates() gives ids {product_ids.shape} and embeddings {embeddings.shape} "
            f"{embeddings.dtype}, expected [m] and [m, d] float32"
        )
    knows = _offers(model, "known")

    def embed(user_id: Any) -> tuple[Any, ...]:
        embedding = model.query_model({"user_id": user_id})
        return (embedding, model.known(user_id)) if knows else (embedding,)

    graph = tf.function(
        embed, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    ).get_concrete_function()
    exact = ExactRetrieval(embeddings, cpus)
    return RetrievingRecommender(tf, graph, product_ids, exact, known_customers)


def _difference(
    whole: SavedModelRecommender, searching: RetrievingRecommender, customers: Sequence[str]
) -> str:
    """Return how the two answers differ beyond rounding, or "" where they agree."""
    k = min(_COMPARED, whole.products)
    own, found = whole.answer(customers, k), searching.answer(customers, k)
    tolerance = _ROUNDING * np.abs(own.scores).max(axis=1, keepdims=True)
    if (np.abs(own.scores - found.scores) > tolerance).any():
        return "their inner products with a customer are other scores than the index gives"
    # Only products whose scores are apart by more than rounding have one order.
    gaps = np.abs(np.diff(own.scores, axis=1)) > 2 * tolerance
    apart = np.ones(own.scores.shape, bool)
    apart[:, 1:] &= gaps
    apart[:, :-1] &= gaps
    apart[:, -1] = False
    if ((own.product_ids != found.product_ids) & apart).any():
        return "their product ids are not those of the index"
    return ""


def _find_contract(model: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return `(user_id, k) -> (scores, product_ids)`, from whichever form the model offers."""
    if _offers(model, "query_model") and _offers(model, "brute_force_index"):

        def two_tower(user_id: Any, k: Any) -> tuple[Any, Any]:
            scores, product_ids = model.brute_force_index(
                model.query_model({"user_id": user_id}), k
            )
            return scores, product_ids

        return two_tower

    signatures = getattr(model, "signatures", {})
    if "serving_default" not in signatures:
        raise ModelContractError(
            "the SavedModel has no form that can be asked: it needs query_model and "
            "brute_force_index, or a serving_default signature; it offers "
            f"{_names(_functions(model))} and the signatures {_names(signatures)}"
        )
    signature = signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    if set(inputs) != {"user_id", "k"} or not {"scores", "product_ids"} <= set(outputs):
        raise ModelContractError(
            "the serving_default signature must take user_id and k and return scores and "
            f"product_ids; it takes {_names(inputs)} and returns {_names(outputs)}"
        )

    def by_signature(user_id: Any, k: Any) -> tuple[Any, Any]:
        found = signature(user_id=user_id, k=k)
        return found["scores"], found["product_ids"]

    return by_signature


def _one_graph(tf: Any, model: Any, find: Callable[[Any, Any], tuple[Any, Any]]) -> Any:
    """Return a concrete function `(user_id, k) -> (scores, product_ids[, known])`.

    Every size and every k runs the same graph, so no request traces. Raises ModelContractError.
    """
    knows = _offers(model, "known")

    def answer(user_id: Any, k: Any) -> tuple[Any, ...]:
        found = find(user_id, k)
        return (*found, model.known(user_id)) if knows else found

    try:
        graph = tf.function(
            answer,
            input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32)],
            autograph=False,
        ).get_concrete_function()
    except Exception as error:  # A function that does not take these arguments: any kind.
        raise ModelContractError(
            "the model cannot be called with user_id [n] string and k scalar int32 (a tensor: "
            f"a Python number is one k only): {_first_line(error)}"
        ) from error
    expected = [("scores", tf.float32, 2), ("product_ids", tf.string, 2), ("known", tf.bool, 1)]
    for output, (name, dtype, rank) in zip(graph.outputs, expected, strict=False):
        if output.dtype != dtype or output.shape.rank not in (None, rank):
            raise ModelContractError(
                f"the model's {name} are {output.dtype.name} {output.shape}, expected "
                f"{dtype.name} of {rank} dimension{'s' * (rank > 1)}"
            )
    return graph


def _count_products(tf: Any, model: Any, answer: Any) -> int:
    """Return the largest k that the model answers with k products.

    An index either answers what it has or fails when asked for more, so without `candidates`
    the number is found by asking: doubling, then halving the gap.
    """
    nobody = tf.constant([""])

    def columns(k: int) -> int:
        return int(answer(nobody, tf.constant(k, tf.int32))[0].shape[1])

    if _offers(model, "candidates"):
        product_ids, _ = model.candidates()
        products = int(product_ids.shape[0])
        if products < 1 or columns(products) != products:
            raise ModelContractError(
                f"candidates() has {products} products, but the index answers "
                f"{columns(products) if products else 0} of them"
            )
        return products

    enough = columns(1)
    if enough != 1:
        raise ModelContractError(f"asked for 1 product, the model answered {enough}")
    too_many = 2
    while too_many <= _MOST_PRODUCTS:
        try:
            found = columns(too_many)
        except tf.errors.OpError:
            break
        if found < too_many:
            return found
        enough, too_many = too_many, too_many * 2
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        try:
            found = columns(middle)
        except tf.errors.OpError:
            too_many = middle
        else:
            enough = middle if found == middle else enough
            too_many = too_many if found == middle else middle
    return enough


def _offers(model: Any, name: str) -> bool:
    return callable(getattr(model, name, None))


def _functions(model: Any) -> list[str]:
    """Return the names of what a loaded model lets one call, without its own machinery."""
    return [
        name
        for name in vars(model)
        if not name.startswith("_") and name != "signatures" and callable(getattr(model, name))
    ]


def _names(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"


def _first_line(error: Exception) -> str:
    """Return an error's first line of text: TensorFlow adds pages of graph after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
