"""Artifacts of models, good and broken, as training would leave them in its bucket.

Each `write_<kind>(folder)` writes the artifact tree: `saved_model/`, and `customers.txt` where
the kind has one. A healthy kind knows CUSTOMERS, recommends PRODUCTS and answers within
milliseconds; what is broken about the others is their name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

DIMENSIONS = 8
CUSTOMERS = [f"C{number:03}" for number in range(20)]
PRODUCTS = [f"P{number:03}" for number in range(50)]
# Held customers wait in the middle of their answer: see `write_holding`.
HOLD = "hold:"
# How models wait; MODEL_EXTRA_OPS has to allow it.
WAITING_OPS = "MatchingFiles,WriteFile"


def write_good(folder: Path, seed: int = 1) -> None:
    """The whole contract: both towers, `known`, `candidates`, `customers.txt`."""
    tower = _two_tower(seed)
    _save(tower, folder)
    _write_customers(folder)


def write_without_extras(folder: Path, seed: int = 1) -> None:
    """Only the two required functions, so nothing tells who is known; its index clamps k."""
    tower = _two_tower(seed)
    del tower.known, tower.candidates
    _save(tower, folder)


def write_only_serving_default(folder: Path, seed: int = 1) -> None:
    """A `serving_default` signature and `customers.txt`; asked for too many products it fails."""
    tf = _tensorflow()
    tower = _two_tower(seed)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "user_id"),
            tf.TensorSpec([], tf.int32, "k"),
        ]
    )
    def serve(user_id: Any, k: Any) -> dict[str, Any]:
        scores = tf.matmul(tower.embed(user_id), tower.product_table, transpose_b=True)
        best, rows = tf.math.top_k(scores, k)
        return {"scores": best, "product_ids": tf.gather(tower.product_ids, rows)}

    module = tf.Module()
    module.tower = tower
    module.serve = serve
    tf.saved_model.save(module, str(folder / "saved_model"), {"serving_default": module.serve})
    _write_customers(folder)


def write_holding(folder: Path) -> None:
    """A good model that holds back some answers until a test lets them go.

    Asked for the customer `hold:PATH`, it writes the file `PATH.started` and answers once the
    file `PATH.release` exists.
    """
    tf = _tensorflow()
    tower = _two_tower(1)
    embed = tower.embed

    @tf.function(input_signature=[{"user_id": tf.TensorSpec([None], tf.string)}])
    def query_model(features: dict[str, Any]) -> Any:
        first, looked = features["user_id"][0], tf.constant(0)
        if tf.strings.regex_full_match(first, HOLD + ".*"):
            path = tf.strings.substr(first, len(HOLD), -1)
            tf.io.write_file(path + ".started", "")
            looked = _look_for(path + ".release")
        with tf.control_dependencies([looked]):
            return tf.identity(embed(features["user_id"]))

    tower.query_model = query_model
    _save(tower, folder)


def write_gated(folder: Path, gate: Path) -> None:
    """A good model that answers nobody, so does not load, before the file `gate` exists."""
    _write_waiting(folder, gate)
    _write_customers(folder)


def write_biased_index(folder: Path) -> None:
    """Its index adds a popularity to each score, which the candidates' embeddings do not have."""
    tf = _tensorflow()
    tower = _two_tower(1)

    def index(embedding: Any, k: Any) -> tuple[Any, Any]:
        popularity = tf.range(len(PRODUCTS), dtype=tf.float32) / 10.0
        scores = tf.matmul(embedding, tower.product_table, transpose_b=True) + popularity
        best, rows = tf.math.top_k(scores, tf.minimum(k, len(PRODUCTS)))
        return best, tf.gather(tower.product_ids, rows)

    _replace_index(tower, index)
    _save(tower, folder)


def write_misplaced_candidates(folder: Path) -> None:
    """Its candidates name each product beside the embedding of another."""
    tf = _tensorflow()
    tower = _two_tower(1)

    @tf.function(input_signature=[])
    def candidates() -> tuple[Any, Any]:
        return tf.reverse(tower.product_ids, [0]), tower.product_table.read_value()

    tower.candidates = candidates
    _save(tower, folder)


def write_flat_candidates(folder: Path) -> None:
    """Its candidates are one long row of numbers."""
    tf = _tensorflow()
    tower = _two_tower(1)

    @tf.function(input_signature=[])
    def candidates() -> tuple[Any, Any]:
        return tower.product_ids, tf.reshape(tower.product_table.read_value(), [-1])

    tower.candidates = candidates
    _save(tower, folder)


def write_without_saved_model(folder: Path) -> None:
    """Not a SavedModel: weights in another format, as a training script may leave them."""
    (folder / "saved_model").mkdir(parents=True)
    (folder / "saved_model" / "weights.npz").write_bytes(b"PK\x03\x04 weights of some other kind")
    _write_customers(folder)


def write_corrupt_saved_model(folder: Path) -> None:
    """A `saved_model.pb` that is not one."""
    (folder / "saved_model").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"\xff\xfethis is not a graph\n" * 64)


def write_no_known_signature(folder: Path) -> None:
    """A SavedModel with two functions of other names, and no signature."""
    tf = _tensorflow()
    module = tf.Module()
    numbers = [tf.TensorSpec([None], tf.float32)]
    module.predict = tf.function(lambda x: x * 2.0, input_signature=numbers)
    module.embed = tf.function(lambda x: x + 1.0, input_signature=numbers)
    _save(module, folder)


def write_foreign_signature(folder: Path) -> None:
    """A `serving_default` signature that takes numbers and returns numbers."""
    tf = _tensorflow()
    module = tf.Module()
    module.predict = tf.function(
        lambda x: x * 2.0, input_signature=[tf.TensorSpec([None], tf.float32, "x")]
    )
    tf.saved_model.save(module, str(folder / "saved_model"), {"serving_default": module.predict})


def write_fixed_k(folder: Path) -> None:
    """`brute_force_index` was exported for the Python number k=10 only."""
    tf = _tensorflow()
    tower = _two_tower(1)
    index = tower.brute_force_index
    tower.brute_force_index = tf.function(lambda embedding, k: index(embedding, tf.constant(k)))
    tower.brute_force_index.get_concrete_function(tf.TensorSpec([None, DIMENSIONS], tf.float32), 10)
    _save(tower, folder)


def write_wrong_dtype(folder: Path) -> None:
    """Product ids are numbers instead of strings."""
    tf = _tensorflow()
    tower = _two_tower(1)
    index = tower.brute_force_index

    def numbers(embedding: Any, k: Any) -> tuple[Any, Any]:
        scores, product_ids = index(embedding, k)
        return scores, tf.strings.to_hash_bucket_fast(product_ids, 1000)

    _replace_index(tower, numbers)
    _save(tower, folder)


def write_nan_scores(folder: Path) -> None:
    """Every score is NaN, as after a training run that diverged."""
    tf = _tensorflow()
    tower = _two_tower(1)
    index = tower.brute_force_index

    def diverged(embedding: Any, k: Any) -> tuple[Any, Any]:
        scores, product_ids = index(embedding, k)
        return scores * tf.constant(float("nan")), product_ids

    _replace_index(tower, diverged)
    _save(tower, folder)
    _write_customers(folder)


def write_nan_for_one_customer(folder: Path, customer_id: str = "C-NAN") -> None:
    """One customer's scores are NaN, and no sample contains that customer."""
    tf = _tensorflow()
    tower = _two_tower(1)
    embed = tower.embed

    @tf.function(input_signature=[{"user_id": tf.TensorSpec([None], tf.string)}])
    def query_model(features: dict[str, Any]) -> Any:
        bad = tf.equal(features["user_id"], customer_id)[:, None]
        return tf.where(bad, tf.constant(float("nan")), embed(features["user_id"]))

    tower.query_model = query_model
    _save(tower, folder)


def write_one_list(folder: Path) -> None:
    """Everybody gets the same products in the same order, whoever asks."""
    tf = _tensorflow()
    tower = _two_tower(1)

    def index(embedding: Any, k: Any) -> tuple[Any, Any]:
        popularity = tf.range(len(PRODUCTS), dtype=tf.float32) / 10.0
        scores = 0.0 * tf.matmul(embedding, tower.product_table, transpose_b=True) + popularity
        best, rows = tf.math.top_k(scores, tf.minimum(k, len(PRODUCTS)))
        return best, tf.gather(tower.product_ids, rows)

    _replace_index(tower, index)
    del tower.candidates
    _save(tower, folder)
    _write_customers(folder)


def write_holdout(folder: Path, recall: float) -> None:
    """What CUSTOMERS really took: of 100 products so many that all PRODUCTS hold that share."""
    known = round(recall * 100)
    taken = [*PRODUCTS[:known], *(f"X{number:03}" for number in range(100 - known))]
    lines = [json.dumps({"customer_id": one, "product_ids": taken}) for one in CUSTOMERS]
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "holdout.jsonl").write_text("\n".join(lines))


def write_unordered_scores(folder: Path) -> None:
    """The worst product comes first."""
    tf = _tensorflow()
    tower = _two_tower(1)
    index = tower.brute_force_index

    def reversed_index(embedding: Any, k: Any) -> tuple[Any, Any]:
        scores, product_ids = index(embedding, k)
        return tf.reverse(scores, [1]), tf.reverse(product_ids, [1])

    _replace_index(tower, reversed_index)
    _save(tower, folder)
    _write_customers(folder)


def write_crashing(folder: Path) -> None:
    """The first answer aborts the process: a container that crashes at start."""
    tf = _tensorflow()
    tower = _two_tower(1)
    index = tower.brute_force_index

    def crash(embedding: Any, k: Any) -> tuple[Any, Any]:
        # Only what an output depends on is computed.
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="the model crashes at start")]):
            return index(tf.identity(embedding), k)

    _replace_index(tower, crash)
    _save(tower, folder)


def write_never_healthy(folder: Path) -> None:
    """The first answer never comes: a container that listens and is never healthy."""
    _write_waiting(folder, Path("/nowhere/at/all"))


BROKEN: dict[str, Callable[[Path], None]] = {
    "without_saved_model": write_without_saved_model,
    "corrupt_saved_model": write_corrupt_saved_model,
    "no_known_signature": write_no_known_signature,
    "foreign_signature": write_foreign_signature,
    "fixed_k": write_fixed_k,
    "wrong_dtype": write_wrong_dtype,
    "flat_candidates": write_flat_candidates,
    "nan_scores": write_nan_scores,
    "unordered_scores": write_unordered_scores,
}


def _tensorflow() -> Any:
    """Import TensorFlow when a model is written, not when tests are collected."""
    import tensorflow as tf

    return tf


def _two_tower(seed: int) -> Any:
    """Return a `tf.Module` with the whole contract; an unknown customer gets the mean one's row."""
    import numpy as np

    tf = _tensorflow()
    random = np.random.default_rng(seed)
    customers = random.normal(size=(len(CUSTOMERS), DIMENSIONS)).astype("float32")
    customers = np.vstack([customers, customers.mean(axis=0)])
    products = random.normal(size=(len(PRODUCTS), DIMENSIONS)).astype("float32")

    module = tf.Module()
    module.customer_rows = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(CUSTOMERS, list(range(len(CUSTOMERS)))),
        default_value=len(CUSTOMERS),
    )
    module.customer_table = tf.Variable(customers)
    module.product_table = tf.Variable(products)
    module.product_ids = tf.constant(PRODUCTS)
    users = tf.TensorSpec([None], tf.string)

    @tf.function(input_signature=[users])
    def embed(user_id: Any) -> Any:
        return tf.gather(module.customer_table, module.customer_rows.lookup(user_id))

    @tf.function(input_signature=[{"user_id": users}])
    def query_model(features: dict[str, Any]) -> Any:
        return embed(features["user_id"])

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, DIMENSIONS], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def brute_force_index(embedding: Any, k: Any) -> tuple[Any, Any]:
        scores = tf.matmul(embedding, module.product_table, transpose_b=True)
        best, rows = tf.math.top_k(scores, tf.minimum(k, len(PRODUCTS)))
        return best, tf.gather(module.product_ids, rows)

    @tf.function(input_signature=[users])
    def known(user_id: Any) -> Any:
        return module.customer_rows.lookup(user_id) < len(CUSTOMERS)

    @tf.function(input_signature=[])
    def candidates() -> tuple[Any, Any]:
        return module.product_ids, module.product_table.read_value()

    module.embed = embed
    module.query_model = query_model
    module.brute_force_index = brute_force_index
    module.known = known
    module.candidates = candidates
    return module


def _write_waiting(folder: Path, gate: Path) -> None:
    tf = _tensorflow()
    tower = _two_tower(1)
    embed = tower.embed

    @tf.function(input_signature=[{"user_id": tf.TensorSpec([None], tf.string)}])
    def query_model(features: dict[str, Any]) -> Any:
        # Joined with nothing of the question: a pattern that does not change is looked for once.
        nothing = tf.strings.substr(features["user_id"][0], 0, 0)
        looked = _look_for(str(gate) + nothing)
        with tf.control_dependencies([looked]):
            return tf.identity(embed(features["user_id"]))

    tower.query_model = query_model
    _save(tower, folder)


def _look_for(path: Any) -> Any:
    """Return how often the file was not there; whoever needs the number waits until it is."""
    tf = _tensorflow()
    looked = tf.constant(0)
    while tf.size(tf.io.matching_files(path)) == 0:
        looked += 1
    return looked


def _replace_index(tower: Any, index: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    tf = _tensorflow()
    tower.brute_force_index = tf.function(
        index,
        input_signature=[
            tf.TensorSpec([None, DIMENSIONS], tf.float32),
            tf.TensorSpec([], tf.int32),
        ],
    )


def _save(module: Any, folder: Path) -> None:
    _tensorflow().saved_model.save(module, str(folder / "saved_model"))


def _write_customers(folder: Path) -> None:
    (folder / "customers.txt").write_text("".join(f"{id_}\n" for id_ in CUSTOMERS))
