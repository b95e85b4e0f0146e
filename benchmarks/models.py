"""Models to measure with: random embeddings behind the same functions that a trained model has.

`python -m benchmarks.models build FOLDER --customers 100000 --products 10000` writes one, and
`python -m benchmarks.models answer FOLDER CUSTOMERS K OUTPUT` says what plain TensorFlow
recommends. Both are processes of their own, so that whoever asks never imports TensorFlow.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DIMENSIONS = 64
SEED = 20_261_124
PROBES = 16
PROBE_TOP_K = 10
# Scores of one such chunk at 1,000,000 products weigh 400 MB.
CHUNK = 100


def main() -> None:
    """Build a model, or answer from one."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    building = commands.add_parser("build")
    building.add_argument("folder", type=Path)
    building.add_argument("--customers", type=int, required=True)
    building.add_argument("--products", type=int, required=True)
    building.set_defaults(run=lambda o: build(o.folder, o.customers, o.products))
    answering = commands.add_parser("answer")
    answering.add_argument("folder", type=Path)
    answering.add_argument("customers", type=Path, help="a file, one id a line")
    answering.add_argument("k", type=int)
    answering.add_argument("output", type=Path, help="a .npz with scores and product_ids")
    answering.set_defaults(run=lambda o: answer(o.folder, o.customers, o.k, o.output))
    options = parser.parse_args()
    options.run(options)


def build(folder: Path, customers: int, products: int) -> None:
    """Write `saved_model/`, `customers.txt` and `probes.json`: what a few customers must get."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(SEED)
    customer_table = random.standard_normal((customers, DIMENSIONS), dtype=np.float32)
    product_table = random.standard_normal((products, DIMENSIONS), dtype=np.float32)
    customer_ids = [f"C{number:06}" for number in range(customers)]
    product_ids = [f"P{number:06}" for number in range(products)]
    folder.mkdir(parents=True, exist_ok=True)
    module = _two_tower(tf, customer_ids, customer_table, product_ids, product_table)
    tf.saved_model.save(module, str(folder / "saved_model"))
    (folder / "customers.txt").write_text("".join(f"{id_}\n" for id_ in customer_ids))
    probes = {}
    # The first ones, so that a table of the most active customers knows them too.
    for row in range(min(PROBES, customers)):
        best = np.argsort(-(product_table @ customer_table[row]), kind="stable")[:PROBE_TOP_K]
        probes[customer_ids[row]] = [product_ids[product] for product in best]
    (folder / "probes.json").write_text(json.dumps(probes))


def answer(folder: Path, customers: Path, k: int, output: Path) -> None:
    """Write what the model's own functions recommend, asked by plain TensorFlow."""
    import numpy as np
    import tensorflow as tf

    model = tf.saved_model.load(str(folder / "saved_model"))
    ids = customers.read_text().split()
    scores, product_ids = [], []
    for begin in range(0, len(ids), CHUNK):
        embedding = model.query_model({"user_id": tf.constant(ids[begin : begin + CHUNK])})
        best, products = model.brute_force_index(embedding, tf.constant(k))
        scores.append(best.numpy())
        product_ids.append(products.numpy().astype("U16"))
    np.savez(output, scores=np.concatenate(scores), product_ids=np.concatenate(product_ids))


def _two_tower(
    tf: Any, customer_ids: list[str], customer_table: Any, product_ids: list[str], products: Any
) -> Any:
    import numpy as np

    unknown = len(customer_ids)
    module = tf.Module()
    module.rows = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(customer_ids), tf.range(unknown, dtype=tf.int32)
        ),
        default_value=unknown,
    )
    with_unknown = np.vstack([customer_table, customer_table.mean(axis=0, keepdims=True)])
    module.customer_table = tf.Variable(with_unknown, trainable=False)
    module.product_table = tf.Variable(products, trainable=False)
    module.product_ids = tf.constant(product_ids)
    users = tf.TensorSpec([None], tf.string)

    @tf.function(input_signature=[{"user_id": users}])
    def query_model(features: dict[str, Any]) -> Any:
        return tf.gather(module.customer_table, module.rows.lookup(features["user_id"]))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, DIMENSIONS], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def brute_force_index(embedding: Any, k: Any) -> tuple[Any, Any]:
        scores = tf.matmul(embedding, module.product_table, transpose_b=True)
        best, rows = tf.math.top_k(scores, tf.minimum(k, len(product_ids)))
        return best, tf.gather(module.product_ids, rows)

    @tf.function(input_signature=[users])
    def known(user_id: Any) -> Any:
        return module.rows.lookup(user_id) < unknown

    @tf.function(input_signature=[])
    def candidates() -> tuple[Any, Any]:
        return module.product_ids, module.product_table.read_value()

    module.query_model = query_model
    module.brute_force_index = brute_force_index
    module.known = known
    module.candidates = candidates
    return module


if __name__ == "__main__":
    main()
