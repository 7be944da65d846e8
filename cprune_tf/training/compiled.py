"""Training a model with the loss and the optimizer that its owner compiled it with."""

from __future__ import annotations

import keras

from cprune_tf.data import ImageData
from cprune_tf.training.errors import TrainingError


def check_compiled(model: keras.Model, data: ImageData) -> None:
    """Computes the compiled loss of one batch, so that no training fails for the first time late.

    Args:
        model: The original, compiled.
        data: Gives a training batch with the labels as the caller gave them.

    Raises:
        TrainingError: If the loss cannot be computed from these labels.
    """
    images, labels, *weights = next(iter(data.as_compiled(0)))
    outputs = model(images, training=False)
    sample_weight = weights[0] if weights else None
    try:
        loss = model.compute_loss(
            x=images, y=labels, y_pred=outputs, sample_weight=sample_weight, training=False
        )
    except Exception as error:  # a loss is the caller's code and may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise TrainingError(
            f"The compiled loss of {model.name!r} ({_name(model.loss)}) cannot be computed from "
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype.name}: {reason} "
            "Expected one-hot labels for a categorical loss, and whole numbers for a sparse one. "
            "Compile it with the other, or leave it uncompiled."
        ) from error
    if not bool(keras.ops.all(keras.ops.isfinite(loss))):
        raise TrainingError(
            f"The compiled loss of {model.name!r} ({_name(model.loss)}) is not finite on a batch "
            "of training data; expected a number. Check the labels, the pixels and the weights."
        )


def _name(loss: object) -> str:
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss)
