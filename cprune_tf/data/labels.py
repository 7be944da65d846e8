"""Labels in the forms that people have them, as the numbers of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from cprune_tf.data import checks
from cprune_tf.data.image_data import DataError

# How far a row of probabilities may be from a sum of 1: float16, and rounding in files.
_TOLERANCE = 1e-2


def as_classes(
    labels: np.ndarray, what: str, names: Sequence[str] = (), first_index: int = 0
) -> np.ndarray:
    """Turns labels into the numbers of their classes.

    Args:
        labels: [n] or [n, 1] whole numbers of any type, or names; or [n, classes], one-hot or
            smoothed, of which the highest counts.
        what: What they are called.
        names: The classes, where labels are names.
        first_index: The number of the first of these labels in the whole data.

    Returns:
        [n] int64. Whether the model has these classes is not checked.

    Raises:
        DataError: If a label is no class: it is named with its number.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        return _from_probabilities(labels, what, first_index)
    if labels.ndim != 1:
        raise DataError(
            f"{what} have the shape {labels.shape}; expected one class for each image: [n], or "
            "[n, classes] if they are one-hot."
        )
    if is_text(labels):
        return _from_names(labels, what, names, first_index)
    if np.issubdtype(labels.dtype, np.floating):
        wrong = np.flatnonzero(~(np.isfinite(labels) & (labels == np.round(labels))))
        if len(wrong):
            raise DataError(
                f"{what}: number {first_index + wrong[0]} (counted from 0) is "
                f"{labels[wrong[0]]:g}; expected whole numbers, the class of each image. "
                "For a regression, set strategy.metric to a metric that the model was compiled "
                "with, e.g. 'mean_absolute_error'."
            )
    elif not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
        raise DataError(
            f"{what} are {labels.dtype}; expected integers, the class of each image, or names."
        )
    return labels.astype(np.int64)


def class_numbers(
    labels: np.ndarray,
    what: str,
    names: Sequence[str],
    num_classes: int,
    first_index: int = 0,
) -> np.ndarray:
    """Like `as_classes`, checked against the number of classes.

    Args:
        labels: See `as_classes`.
        what: What they are called.
        names: The classes, where labels are names.
        num_classes: Outputs of the model.
        first_index: The number of the first of these labels in the whole data.

    Returns:
        [n] int32.

    Raises:
        DataError: If a label is no class of the model: it is named with its number.
    """
    if labels.ndim == 2 and labels.shape[1] not in (1, num_classes):
        raise DataError(
            f"{what} have {labels.shape[1]} values for each image; expected {num_classes}, one for "
            "each of the model's outputs."
        )
    classes = as_classes(labels, what, names, first_index)
    checks.check_labels(what, classes, num_classes, first_index)
    return classes.astype(np.int32)


def is_text(labels: np.ndarray) -> bool:
    """Tells whether labels are names."""
    if labels.dtype == object and labels.size:
        return isinstance(labels.flat[0], (str, bytes))
    return labels.dtype.kind in "US"


def names_in(labels: np.ndarray) -> list[str]:
    """The different names among labels, sorted."""
    return sorted({_text(label) for label in labels.ravel()})


def classes_in_graph(labels: tf.Tensor, names: Sequence[str] = ()) -> tf.Tensor:
    """Like `as_classes`, in a tf.data pipeline and without checks.

    Args:
        labels: A batch of labels.
        names: The classes, where labels are names.

    Returns:
        [batch] int32.
    """
    if labels.shape.rank == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else tf.argmax(labels, axis=-1)
    if labels.dtype == tf.string:
        labels = tf.argmax(labels[:, tf.newaxis] == tf.constant(list(names)), axis=-1)
    return tf.cast(labels, tf.int32)


def _from_probabilities(labels: np.ndarray, what: str, first_index: int) -> np.ndarray:
    values = labels.astype(np.float64)
    is_distribution = (values >= -_TOLERANCE).all(1) & (np.abs(values.sum(1) - 1.0) <= _TOLERANCE)
    wrong = np.flatnonzero(~is_distribution)
    if len(wrong):
        shown = ", ".join(f"{value:g}" for value in values[wrong[0]][:8])
        raise DataError(
            f"{what}: number {first_index + wrong[0]} (counted from 0) is [{shown}"
            f"{', ...' if values.shape[1] > 8 else ''}]; expected one class for each image: "
            "one-hot or smoothed labels, which sum to 1."
        )
    return np.argmax(values, axis=1)


def _from_names(
    labels: np.ndarray, what: str, names: Sequence[str], first_index: int
) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(names)}
    found = [numbers.get(_text(label), -1) for label in labels]
    if -1 in found:
        index = found.index(-1)
        raise DataError(
            f"{what}: number {first_index + index} (counted from 0) is {_text(labels[index])!r}; "
            f"expected one of {', '.join(names[:10]) or 'no names'}. Name all classes, in the "
            "order of the model's outputs, in data.class_names."
        )
    return np.array(found, np.int64)


def _text(label: object) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)
