"""Which images a model classifies right, and its accuracy: on validation or on test images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cprune_tf.accuracy import RANKS, Hits
from cprune_tf.data import ImageData
from cprune_tf.data.batches import in_batches
from cprune_tf.training.errors import TrainingError, check_model

Part = Literal["test", "validation"]


def evaluate(
    model: keras.Model,
    data: ImageData,
    metric: str = "top1",
    batch_size: int = 250,
    *,
    part: Part = "test",
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
        TrainingError: See `evaluate_batches`.
    """
    batches = evaluate_batches(model, data, metric, batch_size, part=part)
    hits = np.concatenate(list(batches))
    return int(np.count_nonzero(hits)) / len(hits)


def evaluate_batches(
    model: keras.Model,
    data: ImageData,
    metric: str = "top1",
    batch_size: int = 250,
    *,
    part: Part = "test",
    order: npt.NDArray[np.integer[Any]] | None = None,
) -> Iterator[Hits]:
    """Finds which images a model classifies right, batch by batch, so that the caller may stop.

    Args:
        model: As in `evaluate`.
        data: As in `evaluate`.
        metric: As in `evaluate`.
        batch_size: As in `evaluate`.
        part: As in `evaluate`.
        order: The indices of all images in the order of evaluation; None: as they are.

    Yields:
        [images in the batch] bool: which of them are classified right.

    Raises:
        TrainingError: For another metric, too few classes for it, outputs that are not finite, or
            an order of another number of images.
    """
    check_model(model, data)
    rank = RANKS.get(metric)
    if rank is None:
        raise TrainingError(f"metric is {metric!r}; expected {' or '.join(RANKS)}.")
    if rank > data.num_classes:
        raise TrainingError(
            f"metric {metric} needs {rank} classes or more; the data have {data.num_classes}."
        )

    image_spec = tf.TensorSpec([None, *data.input_shape], tf.float32)

    @tf.function(input_signature=[image_spec, tf.TensorSpec([None], tf.int32)], autograph=False)
    def compare(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = model(images, training=False)
        # Not in_top_k, which takes equal outputs for right: a dead model would score 100 %.
        best = tf.math.top_k(outputs, k=rank).indices
        hits = tf.reduce_any(best == labels[:, tf.newaxis], axis=-1)
        finite = tf.reduce_all(tf.math.is_finite(outputs))
        return hits, finite

    all_images, all_labels = (
        data.judges if part == "validation" else (data.test_images, data.test_labels)
    )
    order = np.arange(len(all_labels)) if order is None else order
    if len(order) != len(all_labels):
        raise TrainingError(
            f"The run began with {len(order):,} {part} images, and now there are "
            f"{len(all_labels):,}; expected the same. Resume it with the data it began with."
        )
    for (indices,) in in_batches(batch_size, order):
        hits, finite = compare(all_images[indices], all_labels[indices])
        if not bool(finite):
            raise TrainingError(
                f"model {model.name!r} gives NaN or infinite outputs; its accuracy means nothing. "
                "Its weights are damaged: train with a lower rate."
            )
        yield np.asarray(hits)
