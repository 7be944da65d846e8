"""Training samples that stand for what a model will see, to find the ranges of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.samples import SampleData


def representative_images(data: ImageData, count: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Draws training images, preprocessed and augmented as in training.

    Args:
        data: The data; neither its validation nor its test images are used.
        count: How many; fewer where the whole batches of an epoch have fewer.
        seed: Decides which.

    Returns:
        float32 [at most count, height, width, channels].

    Raises:
        DataError: There are no training images.
    """
    return np.asarray(representative_inputs(data, count, seed=seed)[0], np.float32)


def representative_inputs(
    data: ImageData | SampleData, count: int, *, seed: int = 0
) -> list[npt.NDArray[Any]]:
    """Draws training samples of any task; see `representative_images`.

    Returns:
        One array for each input, in the model's order: [at most count, ...].

    Raises:
        DataError: There are no training samples.
    """
    batches: list[list[npt.NDArray[Any]]] = []
    num_missing = count
    for inputs in _batches_of_inputs(data, seed):
        batches.append([array[:num_missing] for array in inputs])
        num_missing -= len(batches[-1][0])
        if num_missing <= 0:
            break
    if not batches:
        raise DataError(
            f"{data.name} has no training images; int8 needs some, {count} at best, to find the "
            "ranges of a model's tensors. Give training data."
        )
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _batches_of_inputs(data: ImageData | SampleData, seed: int) -> Iterator[list[npt.NDArray[Any]]]:
    for inputs, *_ in data.train_dataset(seed).as_numpy_iterator():
        if isinstance(data, SampleData):
            yield data.interface.in_order(inputs, data.name)
        else:
            yield [inputs]
