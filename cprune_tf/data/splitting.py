"""Sets a part of labelled images apart, the same share of every class."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import keras
import numpy as np
import numpy.typing as npt

from cprune_tf.data.image_data import ImageData

# The same split in every run, whatever the run's seed.
SPLIT_SEED = 0
# 0.2 x 35 is a little less than 7 in floating point.
_ROUNDING = 1e-9

# The part of the test images that decides where no training image can.
_JUDGING_TEST_FRACTION = 0.5

Indices = npt.NDArray[np.intp]


def stratified_split(
    labels: npt.NDArray[np.int32], fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """Splits the indices of labelled images in two.

    Args:
        labels: The images' classes, [n].
        fraction: The part of each class (0..1) that is set apart: at least one image of a class
            that has two or more, none of a class that has one.
        seed: Decides which images; the same seed gives the same split.

    Returns:
        The indices that stay and those that are set apart, both ascending.
    """
    rng = np.random.default_rng(seed)
    is_apart = np.zeros(len(labels), bool)
    if fraction > 0:
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            if len(members) > 1:
                count = max(1, math.floor(len(members) * fraction + _ROUNDING))
                is_apart[members[:count]] = True
    return np.flatnonzero(~is_apart), np.flatnonzero(is_apart)


def split_samples(
    items: tuple[Any, ...], fraction: float, seed: int
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Sets a part of labelled samples apart: the same share of every class where there are classes.

    Args:
        items: Inputs, labels and perhaps weights: arrays [n, ...], nested in any way.
        fraction: The part that is set apart (0..1); at least one sample.
        seed: Decides which samples; the same seed gives the same split.

    Returns:
        The items that stay and those that are set apart, nested in the same way.
    """
    kept, apart = stratified_split(_classes(items[1]), fraction, seed)

    def take(part: Indices) -> tuple[Any, ...]:
        return cast(tuple[Any, ...], keras.tree.map_structure(lambda one: one[part], items))

    return take(kept), take(apart)


def _classes(labels: Any) -> npt.NDArray[np.int32]:
    """Numbers of classes, [n]; equal ones where the labels are none, or a class has one sample."""
    flat = keras.tree.flatten(labels)
    none = np.zeros(len(flat[0]), np.int32)
    if len(flat) > 1:
        return none
    array = flat[0]
    if array.ndim == 2:
        array = array[:, 0] if array.shape[1] == 1 else array.argmax(axis=1)
    if array.ndim != 1 or np.issubdtype(array.dtype, np.floating):
        return none
    _, numbers, counts = np.unique(array, return_inverse=True, return_counts=True)
    return numbers.astype(np.int32) if counts.min() > 1 else none


def judge_by_test_images(data: ImageData) -> ImageData:
    """Sets half of the test images apart to decide; the other half is quoted.

    Args:
        data: With all training images, and without validation images.

    Returns:
        The same data with validation images of source "test".
    """
    quoted, judging = stratified_split(data.test_labels, _JUDGING_TEST_FRACTION, SPLIT_SEED)
    return dataclasses.replace(
        data,
        test_images=data.test_images[quoted],
        test_labels=data.test_labels[quoted],
        validation_images=data.test_images[judging],
        validation_labels=data.test_labels[judging],
        validation_source="test",
    )
