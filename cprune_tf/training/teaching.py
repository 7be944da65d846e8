"""The teacher of a training by distillation; its outputs on unchanging images are computed once."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from cprune_tf.data import Data, ImageData
from cprune_tf.data.interface import interface_of
from cprune_tf.training import losses
from cprune_tf.training.twin import training_twin

# Outputs are not kept where they would need more memory.
_MOST_KEPT_BYTES = 256 * 2**20
# Images shown to a model to see whether it ends in a softmax.
NUM_PROBES = 32


class Teacher:
    """A model whose outputs others are trained to keep.

    Without augmentation, an image is the same in every epoch of every training, and so are the
    teacher's outputs: where the data number their images, each output is computed once. Share one
    object between trainings on the same data.

    Args:
        model: A model for the data; it must not change any more.
        data: The training data.
        precision: What the teacher computes in; see `training_twin`.
        keeps: Whether outputs are kept where images do not change. Not where several replicas ask:
            each has a part of a batch, and whatever one keeps the others cannot read.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        precision: str = "float32",
        *,
        keeps: bool = True,
    ) -> None:
        self.model = model
        self._twin = training_twin(model, precision=precision)
        self._kept: tf.Variable | None = None
        self._interface = interface_of(model)
        self._are_classes = isinstance(data, ImageData)
        if not isinstance(data, ImageData):
            return
        self._are_probabilities = losses.gives_probabilities(model, data.judges[0][:NUM_PROBES])
        num_images = data.num_train or 0
        is_small = num_images * data.num_classes * 4 < _MOST_KEPT_BYTES
        if keeps and data.train_indices is not None and is_small:
            shape = [num_images, data.num_classes]
            self._kept = tf.Variable(tf.zeros(shape), trainable=False)
            self._is_kept = tf.Variable(tf.zeros([num_images], tf.bool), trainable=False)

    def outputs(self, images: Any, indices: tf.Tensor) -> Any:
        """Returns what is taught on a batch.

        Args:
            images: [batch, height, width, channels] float32; of another task, its inputs, nested
                as the pupil takes them.
            indices: [batch] int64, the numbers of the images; of no use where the data do not
                number them.

        Returns:
            A classifier's logits, up to a constant for each image: [batch, num_classes] float32. Of
            another task all outputs, in the model's order.
        """
        kept = self._kept
        if kept is None:
            return self._computed(images)

        def compute() -> tf.Tensor:
            logits = self._computed(images)
            kept.scatter_nd_update(indices[:, tf.newaxis], logits)
            self._is_kept.scatter_nd_update(indices[:, tf.newaxis], tf.ones_like(indices, tf.bool))
            return logits

        are_known = tf.reduce_all(tf.gather(self._is_kept, indices))
        return tf.cond(are_known, lambda: tf.gather(kept, indices), compute)

    def _computed(self, images: Any) -> Any:
        inputs = self._interface.nested(keras.tree.flatten(images))
        flat = keras.tree.flatten(self._twin(inputs, training=False))
        outputs = [tf.cast(one, tf.float32) for one in flat]
        if not self._are_classes:
            return outputs
        return losses.as_logits(outputs[0], self._are_probabilities)
