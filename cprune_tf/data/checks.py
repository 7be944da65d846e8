"""Checks of images and labels against the config and the model, before any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cprune_tf.config import DataConfig
from cprune_tf.data.image_data import DataError

_SUBSET_SEED = 0
# Test images are kept in memory, preprocessed: this many bytes at most.
_MAX_TEST_BYTES = 1 << 30


def check_shape(what: str, received: Sequence[int], expected: Sequence[int] | None) -> None:
    """Raises DataError unless images have the shape that the model takes."""
    if expected is not None and tuple(received) != tuple(expected):
        raise DataError(
            f"{what}: images are {by(received)}; expected {by(expected)} (height x width x "
            "channels), the model's input. Choose data or a model that fit each other."
        )


def check_channels(config: DataConfig, channels: int) -> None:
    """Raises DataError unless mean and std are one value or one per channel."""
    for name in ("mean", "std"):
        count = len(getattr(config, name))
        if count not in (1, channels):
            raise DataError(
                f"data.{name} has {count} values; expected 1, or {channels} (one per channel)."
            )


def check_labels(what: str, labels: np.ndarray, num_classes: int, first_index: int = 0) -> None:
    """Raises DataError unless all labels are classes of the model.

    Args:
        what: What they are, for the error.
        labels: [n] integers.
        num_classes: Outputs of the model.
        first_index: The number of the first of these labels in the whole data.
    """
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise DataError(
            f"{what} are {int(labels.min())}..{int(labels.max())}; expected 0..{num_classes - 1} "
            f"for {num_classes} classes. The first wrong one is number {first_index + bad[0]} "
            f"(counted from 0): {labels[bad[0]]}."
        )


def ordered_classes(
    name: str, found: Sequence[str], order: Sequence[str], num_classes: int | None
) -> tuple[str, ...]:
    """Checks the names of classes, and puts them in the order of the model's outputs.

    Args:
        name: What the data are called.
        found: The classes that the data have, sorted.
        order: All classes in the order of the outputs, some of which the data may lack; empty: the
            found ones as they are.
        num_classes: Outputs of the model; None: any number.

    Returns:
        All classes.

    Raises:
        DataError: If the data have other classes, or the model has another number of outputs.
    """
    unknown = sorted(set(found) - set(order))
    if order and unknown:
        raise DataError(
            f"{name} has the class {unknown[0]!r}, which data.class_names lacks; expected the "
            "names of all classes, in the order of the model's outputs."
        )
    names = tuple(order or found)
    if num_classes is not None and len(names) != num_classes:
        source = "data.class_names" if order else name
        raise DataError(
            f"{source} has {len(names)} classes; expected {num_classes}, the model's outputs. If "
            "the data have only some of the model's classes, name all in data.class_names."
        )
    return names


def image_shape(
    what: str, images: np.ndarray, expected: tuple[int, int, int] | None
) -> tuple[int, int, int]:
    """Returns the shape of one image; raises DataError unless it is what the model takes."""
    check_shape(what, images.shape[1:], expected)
    return int(images.shape[1]), int(images.shape[2]), int(images.shape[3])


def check_flags(what: str, is_finite: np.ndarray, first_index: int) -> None:
    """Raises DataError for images that were found not to be finite.

    Args:
        what: What they are.
        is_finite: [n] booleans.
        first_index: The number of the first of these images in the whole data.
    """
    bad = np.flatnonzero(~is_finite)
    if len(bad):
        raise DataError(
            f"{what}: {len(bad)} of {len(is_finite)} images hold NaN or infinite pixels (the first "
            f"is number {first_index + bad[0]}); expected finite values. Remove or repair them."
        )


def check_finite(what: str, images: np.ndarray, first_index: int = 0) -> None:
    """Raises DataError for NaN or infinite pixels; the first image has the number first_index."""
    if np.issubdtype(images.dtype, np.floating):
        # A sum is not finite if one item is not; no array of flags as large as the images.
        flags = [bool(np.isfinite(image.sum(dtype=np.float64))) for image in images]
        check_flags(what, np.array(flags, bool), first_index)


def pixel_range_note(what: str, images: np.ndarray, config: DataConfig) -> str:
    """Says that pixels seem to be scaled already, although the config scales them; "" if not.

    Args:
        what: What they are called.
        images: [n, height, width, channels], raw.
        config: Has the mean and the divisor.
    """
    low, high = float(images.min()), float(images.max())
    # One divisor of two shows that pixels of 0..255 are meant; black images have no range.
    if not (-1.0 <= low < high <= 1.0 and max(config.std) > 2.0):
        return ""
    return (
        f"{what} are {low:g}..{high:g}, but data.mean and data.std are for pixels of 0..255: the "
        f"model sees hardly any contrast. Set data.mean=(0.0,) and data.std=(1.0,), or what the "
        "model was trained with in units of these pixels."
    )


def check_test_size(name: str, count: int, shape: Sequence[int]) -> None:
    """Raises DataError when the test images are too many to be kept in memory."""
    size = count * int(np.prod(shape)) * 4
    if size > _MAX_TEST_BYTES:
        fitting = _MAX_TEST_BYTES // (int(np.prod(shape)) * 4)
        raise DataError(
            f"{name}: {count} test images of {by(shape)} take {size / 2**30:.1f} GiB; expected "
            f"{_MAX_TEST_BYTES >> 30} at most. Set data.max_test={fitting} or lower."
        )


def count_classes(name: str, labels: np.ndarray) -> int:
    """One more than the highest label; raises DataError when there are gaps below it."""
    num_classes = int(labels.max()) + 1
    missing = sorted(set(range(num_classes)) - set(labels.tolist()))
    if missing:
        raise DataError(
            f"{name}: of the classes 0..{num_classes - 1}, {len(missing)} have no training images "
            f"(the first is {missing[0]}); expected labels counted from 0 without gaps."
        )
    return num_classes


def first_items(array: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` items (0: all), spread over the array: it may be grouped by class.

    Which ones is no random choice of a run: accuracies of different seeds must stay comparable.
    """
    if not 0 < limit < len(array):
        return array
    order = np.random.default_rng(_SUBSET_SEED).permutation(len(array))
    return array[order[:limit]]


def by(shape: Sequence[int | None]) -> str:
    """A shape for people: 28x28x1."""
    return "x".join("?" if size is None else str(size) for size in shape)
