"""What a training step minimises: a classifier's losses, or those of all outputs of any model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from cprune_tf.config import FitConfig
from cprune_tf.data import Data, ImageData, SampleData
from cprune_tf.training import losses
from cprune_tf.training.compiled import data_loss
from cprune_tf.training.heads import heads_of
from cprune_tf.training.teaching import NUM_PROBES


class Objective(Protocol):
    """What a step compares outputs with.

    Attributes:
        signature: The types of a batch of inputs and of labels, of any size.
    """

    signature: tuple[Any, Any]

    def loss(self, labels: Any, outputs: Any) -> tf.Tensor:
        """Computes the mean loss of a batch, without the model's own penalties."""

    def distillation(self, outputs: Any, taught: Any) -> tf.Tensor:
        """Computes the mean distance from what a `Teacher` gives."""

    def accuracy(self, labels: Any, outputs: Any) -> tf.Tensor:
        """Computes the fraction that is classified right; NaN where nothing is classified."""


def make_objective(model: keras.Model, data: Data, config: FitConfig) -> Objective:
    """Chooses the objective for the data.

    Args:
        model: A classifier for `ImageData`; for `SampleData`, a compiled model.
        data: The training data.
        config: The training.

    Raises:
        TrainingError: If the model's outputs are not what the data need.
    """
    if isinstance(data, ImageData):
        return _Classes(model, data, config.label_smoothing)
    return _Outputs(model, data)


class _Classes:
    def __init__(self, model: keras.Model, data: ImageData, label_smoothing: float) -> None:
        self.signature = (
            tf.TensorSpec([None, *data.input_shape], tf.float32),
            tf.TensorSpec([None], tf.int32),
        )
        self._smoothing = label_smoothing
        self._are_probabilities = losses.gives_probabilities(model, data.judges[0][:NUM_PROBES])

    def loss(self, labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return losses.cross_entropy(labels, outputs, self._are_probabilities, self._smoothing)

    def distillation(self, outputs: tf.Tensor, taught: tf.Tensor) -> tf.Tensor:
        return losses.distillation(losses.as_logits(outputs, self._are_probabilities), taught)

    def accuracy(self, labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        right = tf.argmax(outputs, axis=-1, output_type=tf.int32) == labels
        return tf.reduce_mean(tf.cast(right, tf.float32))


class _Outputs:
    """Labels are a tuple: the labels themselves, and the samples' weights if there are any."""

    def __init__(self, model: keras.Model, data: SampleData) -> None:
        self._model = model
        self._kinds = [head.kind for head in heads_of(model, data.interface, data.judges[1])]
        batches = data.train_dataset(0)
        inputs, *given = next(iter(batches))
        # Keras makes some variables of the loss at its first call, which no traced step may do.
        data_loss(model, given[0], model(inputs, training=False), *given[1:])
        spec = keras.tree.map_structure(
            lambda one: tf.TensorSpec([None, *one.shape[1:]], one.dtype), (inputs, tuple(given))
        )
        self.signature = (spec[0], spec[1])

    def loss(self, labels: Sequence[Any], outputs: Any) -> tf.Tensor:
        return data_loss(self._model, labels[0], outputs, *labels[1:])

    def distillation(self, outputs: Any, taught: Sequence[tf.Tensor]) -> tf.Tensor:
        flat = keras.tree.flatten(outputs)
        parts = map(losses.distance, self._kinds, flat, taught)
        return tf.add_n(list(parts))

    def accuracy(self, labels: Any, outputs: Any) -> tf.Tensor:
        return tf.constant(math.nan)
