"""Accuracy on the images that decide, or on the test images."""

from __future__ import annotations

from typing import Literal

import keras
import tensorflow as tf

from cprune_tf.data import ImageData
from cprune_tf.data.batches import in_batches
from cprune_tf.training.errors import TrainingError, check_model

_RANKS = {"top1": 1, "top5": 5}


def evaluate(
    model: keras.Model,
    data: ImageData,
    metric: str = "top1",
    batch_size: int = 250,
    *,
    part: Literal["test", "validation"] = "test",
) -> float:
    """Measures a model's accuracy on all test or validation images, in inference mode.

    Args:
        model: A classifier for `data`; probabilities or logits.
        data: The images.
        metric: "top1", or "top5": the label is among the five highest outputs.
        batch_size: Images in a forward pass; no influence on the result but rounding.
        part: "test", or "validation": the images that decide (see `ImageData.judges`).

    Returns:
        The fraction of images that are classified right, 0..1.

    Raises:
        TrainingError: For another metric, too few classes for it, or outputs that are not finite.
    """
    check_model(model, data)
    rank = _RANKS.get(metric)
    if rank is None:
        raise TrainingError(f"metric is {metric!r}; expected {' or '.join(_RANKS)}.")
    if rank > data.num_classes:
        raise TrainingError(
            f"metric {metric} needs {rank} classes or more; the data have {data.num_classes}."
        )

    image_spec = tf.TensorSpec([None, *data.input_shape], tf.float32)

    @tf.function(input_signature=[image_spec, tf.TensorSpec([None], tf.int32)], autograph=False)
    def count(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = model(images, training=False)
        # Not in_top_k, which takes equal outputs for right: a dead model would score 100 %.
        best = tf.math.top_k(outputs, k=rank).indices
        hits = tf.reduce_any(best == labels[:, tf.newaxis], axis=-1)
        finite = tf.reduce_all(tf.math.is_finite(outputs))
        return tf.reduce_sum(tf.cast(hits, tf.int32)), finite

    arrays = data.judges if part == "validation" else (data.test_images, data.test_labels)
    num_right = 0
    for images, labels in in_batches(batch_size, *arrays):
        hits, finite = count(images, labels)
        if not bool(finite):
            raise TrainingError(
                f"model {model.name!r} gives NaN or infinite outputs; its accuracy means nothing. "
                "Its weights are damaged: train with a lower rate."
            )
        num_right += int(hits)
    return num_right / len(arrays[1])
