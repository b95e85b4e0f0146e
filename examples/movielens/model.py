"""The two towers: a customer's history on one side, a product on the other, met by a dot product.

With n customers, m products and d dimensions both towers give vectors of d + 1 numbers; the last
one carries a product's own bias, so that a plain dot product is the whole score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from examples.movielens.histories import Histories, Marks, Matrix, cut_examples
from examples.movielens.settings import Settings

# Targets are not normalised (a long history weighs more than a short one); this keeps the loss,
# and with it the gradient, of the order of one.
LOSS_SCALE = 100.0

Shape = tuple[int | None, ...]


class ProductVectors(keras.layers.Layer):  # type: ignore[misc]
    """A vector of `dimensions` for each product: one of its own, plus what its features say."""

    def __init__(self, features: Matrix, dimensions: int, name: str) -> None:
        super().__init__(name=name)
        self.features = tf.constant(features)
        products, width = features.shape
        self.own = self.add_weight(
            shape=(products, dimensions),
            initializer=keras.initializers.RandomNormal(stddev=0.05),
            name="own",
        )
        # From zero: features help a product that few have taken and need not hurt the others.
        self.shared = self.add_weight(shape=(width, dimensions), initializer="zeros", name="shared")

    def vectors(self) -> tf.Tensor:
        """Return [m, d]."""
        return self.own + tf.matmul(self.features, self.shared)


class ProductTower(keras.layers.Layer):  # type: ignore[misc]
    """Products as candidates: [m, d + 1], the last number being the product's bias."""

    def __init__(self, features: Matrix, counts: np.ndarray[Any, Any], dimensions: int) -> None:
        super().__init__(name="product_tower")
        self.position = ProductVectors(features, dimensions, "position")
        self.bias = ProductVectors(features, 1, "bias")
        # Training starts from popularity and learns what differs from it.
        popularity = np.log(counts + 0.5)
        self.bias.own.assign((popularity - popularity.mean()).astype(np.float32)[:, None])

    def vectors(self) -> tf.Tensor:
        """Return every product's vector, [m, d + 1]."""
        return tf.concat([self.position.vectors(), self.bias.vectors()], axis=1)


class CustomerTower(keras.layers.Layer):  # type: ignore[misc]
    """A customer as what they took: the whole history and its latest part, pooled and mixed."""

    def __init__(self, features: Matrix, dimensions: int) -> None:
        super().__init__(name="customer_tower")
        self.products = ProductVectors(features, dimensions, "products")
        self.mix = keras.layers.Dense(dimensions, activation="tanh", name="mix")

    def build(self, history_shape: Shape, recent_shape: Shape) -> None:
        """Make the weights of the mixing layer; the products' were made with them."""
        del history_shape, recent_shape  # The pooled vectors' width depends on neither.
        self.mix.build((None, 2 * self.mix.units))

    def call(self, history: tf.Tensor, recent: tf.Tensor) -> tf.Tensor:
        """Return [n, d + 1] from two [n, m] of bool; the last number is 1."""
        products = self.products.vectors()
        pooled = [
            tf.matmul(tf.math.l2_normalize(tf.cast(marks, tf.float32), axis=1), products)
            for marks in (history, recent)
        ]
        position = self.mix(tf.concat(pooled, axis=1))
        return tf.concat([position, tf.ones_like(position[:, :1])], axis=1)


class TwoTower(keras.Model):  # type: ignore[misc]
    """Scores every product for customers given by their histories."""

    def __init__(self, features: Matrix, counts: np.ndarray[Any, Any], dimensions: int) -> None:
        super().__init__(name="two_tower")
        self.customer_tower = CustomerTower(features, dimensions)
        self.product_tower = ProductTower(features, counts, dimensions)

    def build(self, input_shape: tuple[Shape, Shape]) -> None:
        """Build both towers."""
        self.customer_tower.build(*input_shape)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Return scores [n, m] from `(history, recent)`, each [n, m]."""
        customers = self.customer_tower(*inputs)
        return tf.matmul(customers, self.product_tower.vectors(), transpose_b=True)


def full_softmax_loss(following: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Return [n]: the surprise at what followed, over all products.

    The catalogue is small enough to normalise over; sampling negatives would only add noise and
    a correction for it.
    """
    following = tf.cast(following, tf.float32)
    return -tf.reduce_sum(following * tf.nn.log_softmax(scores), axis=1) / LOSS_SCALE


class _Epochs(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of freshly cut and freshly shuffled examples, another set each epoch."""

    def __init__(self, histories: Histories, settings: Settings) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._histories = histories
        self._settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self._examples = cut_examples(self._histories, self._settings, self._rng)
        self._order = self._rng.permutation(len(self._histories.customer_ids))

    def __len__(self) -> int:
        return -(-len(self._order) // self._settings.batch_size)

    def __getitem__(self, index: int) -> tuple[tuple[Marks, Marks], Marks]:
        size = self._settings.batch_size
        rows = self._order[index * size : (index + 1) * size]
        examples = self._examples
        return (examples.history[rows], examples.recent[rows]), examples.following[rows]


class _Report(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, on_epoch: Callable[[int, float], None]) -> None:
        super().__init__()
        self._on_epoch = on_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._on_epoch(epoch + 1, float((logs or {})["loss"]))


def train_two_tower(
    histories: Histories,
    features: Matrix,
    settings: Settings,
    on_epoch: Callable[[int, float], None],
) -> TwoTower:
    """Train on the histories; `on_epoch(epochs done, loss)` is called after each epoch.

    The same settings on the same machine give the same weights.
    """
    keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    counts = np.bincount(histories.product, minlength=len(histories.product_ids))
    model = TwoTower(features, counts, settings.dimensions)
    model.compile(
        optimizer=keras.optimizers.AdamW(
            settings.learning_rate, weight_decay=settings.weight_decay
        ),
        loss=full_softmax_loss,
        # Compiling takes longer than the small run's whole training.
        jit_compile=False,
    )
    model.fit(
        _Epochs(histories, settings),
        epochs=settings.epochs,
        callbacks=[_Report(on_epoch)],
        verbose=0,
        shuffle=False,
    )
    return model
