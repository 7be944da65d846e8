"""Training images that stand for what a model will see, to find the ranges of its tensors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cprune_tf.data.image_data import DataError, ImageData


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
    batches: list[npt.NDArray[np.float32]] = []
    num_missing = count
    for images, _ in data.train_dataset(seed).as_numpy_iterator():
        batches.append(np.asarray(images[:num_missing], np.float32))
        num_missing -= len(batches[-1])
        if num_missing <= 0:
            break
    if not batches:
        raise DataError(
            f"{data.name} has no training images; int8 needs some, {count} at best, to find the "
            "ranges of a model's tensors. Give training data."
        )
    return np.concatenate(batches)
