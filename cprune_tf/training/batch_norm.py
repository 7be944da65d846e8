"""Re-estimating the statistics of batch normalisation after the weights were changed."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.data import Data
from cprune_tf.graph.copying import plain_layers
from cprune_tf.training import twin as twins


def recalibrate_batch_norm(
    model: keras.Model,
    data: Data,
    num_batches: int = 20,
    *,
    seed: int = 0,
    include_frozen: bool = True,
) -> None:
    """Sets all moving means and variances to those of training batches; trains nothing.

    The moving averages of a pruned model still describe the layers' inputs before pruning; this
    repairs them in a fraction of an epoch.

    Args:
        model: Changed in place. Without batch normalisation there is nothing to do.
        data: Its training batches are used, as augmented as in training.
        num_batches: How many; the statistics are those of all of them together.
        seed: Decides which batches are taken.
        include_frozen: Whether layers that are not trainable get new statistics, too; otherwise
            they normalise with those that they have.

    Raises:
        ValueError: For num_batches < 1.
    """
    if num_batches < 1:
        raise ValueError(f"num_batches is {num_batches}; expected 1 or more.")
    twin = twins.statistics_twin(model, include_frozen=include_frozen)
    both = zip(_batch_norms(model), _batch_norms(twin), strict=True)
    pairs = [(layer, other) for layer, other in both if include_frozen or layer.trainable]
    if not pairs:
        return
    step = tf.function(
        lambda images: twin(images, training=True), reduce_retracing=True, autograph=False
    )
    means = [np.zeros(pair[0].moving_mean.shape) for pair in pairs]
    squares = [np.zeros(pair[0].moving_mean.shape) for pair in pairs]
    count = 0
    for images, *_ in data.train_dataset(seed).repeat().take(num_batches):
        step(images)
        count += 1
        for i, (_, layer) in enumerate(pairs):
            mean = layer.moving_mean.numpy().astype(np.float64)
            means[i] += mean
            squares[i] += layer.moving_variance.numpy() + mean**2
    for i, (layer, _) in enumerate(pairs):
        mean = means[i] / count
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(squares[i] / count - mean**2, 0.0))


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    layers = plain_layers(model)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
