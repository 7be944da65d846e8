"""Training a model with the loss and the optimizer that its owner compiled it with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from cprune_tf.accuracy import Metric
from cprune_tf.data import Data
from cprune_tf.data.interface import Interface
from cprune_tf.training.describing import describe
from cprune_tf.training.errors import TrainingError


def check_compiled(model: keras.Model, data: Data) -> None:
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
            f"labels {describe(labels)}: {reason} "
            "Expected one-hot labels for a categorical loss, and whole numbers for a sparse one. "
            "Compile it with the other, or leave it uncompiled."
        ) from error
    if not bool(keras.ops.all(keras.ops.isfinite(loss))):
        raise TrainingError(
            f"The compiled loss of {model.name!r} ({_name(model.loss)}) is not finite on a batch "
            "of training data; expected a number. Check the labels, the pixels and the weights."
        )


def data_loss(model: keras.Model, labels: Any, outputs: Any, weights: Any = None) -> Any:
    """Computes the compiled loss without the model's own penalties.

    Args:
        model: A compiled model.
        labels: Nested as its losses take them.
        outputs: Nested as it gives them.
        weights: Of the samples; None: all count the same.

    Returns:
        A scalar tensor.
    """
    loss = model.compute_loss(y=labels, y_pred=outputs, sample_weight=weights, training=False)
    return loss - sum(model.losses)


def check_whole_labels(
    model: keras.Model, interface: Interface, labels: Any, metric: Metric
) -> None:
    """Refuses fractions as labels where a loss or metric takes the numbers of classes.

    Keras would cut them to whole numbers, or compare them, unasked.

    Args:
        model: The original; its losses are looked at if it is compiled.
        interface: What it takes and gives.
        labels: All that decide, nested as its losses take them.
        metric: What models are judged by.

    Raises:
        TrainingError: If such labels are not whole numbers.
    """
    losses = by_output(interface, model.loss if getattr(model, "compiled", False) else None)
    given = by_output(interface, labels)
    for port, loss, array in zip(interface.outputs, losses, given, strict=True):
        if array is None:
            continue
        values = np.asarray(array)
        wrong = values[values != np.round(values)]
        judged = len(losses) == 1 or metric.name.startswith(f"{port.name}_")
        is_distribution = values.shape[1:] == port.shape and port.shape[-1:] not in ((), (1,))
        by = ""
        if loss is not None and _is_sparse(loss):
            by = f"trained with the loss {_name(loss)}"
        elif metric.is_accuracy and judged and not is_distribution:
            by = f"judged by {metric.name!r}"
        if by and wrong.size:
            raise TrainingError(
                f"The output {port} is {by}, which takes classes as whole numbers, and one of its "
                f"labels is {wrong.flat[0]:g}; expected whole numbers. Choose a loss and a metric "
                "for such labels, e.g. 'mean_absolute_error'."
            )


def by_output(interface: Interface, given: Any) -> list[Any]:
    """Returns what belongs to each output of a model, in its order; None where nothing does."""
    names = [port.name for port in interface.outputs]
    if isinstance(given, Mapping) and set(given) & set(names):
        return [given.get(name) for name in names]
    flat = keras.tree.flatten(given)
    if len(flat) == 1:
        return flat * len(names)
    return flat if len(flat) == len(names) else [None] * len(names)


def _is_sparse(loss: object) -> bool:
    return "sparse" in f"{_name(loss)}{type(loss).__name__}".lower()


def _name(loss: object) -> str:
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss)
