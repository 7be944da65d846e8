"""tf.data pipelines from raw images to training batches.

Everything works on whole batches: on a small model, per-image operations cost as much as training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from cprune_tf.config import DataConfig

# A shift of up to an eighth of the image: 4 pixels of 32, as is usual on CIFAR-10.
_SHIFT_FRACTION = 8


def preprocess(
    images: tf.Tensor | np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> tf.Tensor:
    """Turns raw pixels into the model's input.

    Args:
        images: [..., channels], 0..255.
        mean: One value or one per channel, 0..255.
        std: One value or one per channel, 0..255.

    Returns:
        (images - mean) / std, float32.
    """
    scale = tf.constant(1.0 / np.asarray(std, np.float64), tf.float32)
    return (tf.cast(images, tf.float32) - tf.constant(mean, tf.float32)) * scale


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Shifts each image by up to an eighth of its size and mirrors half of them.

    What a shift uncovers is filled with zeros (black), so raw pixels go in.

    Args:
        images: [batch, height, width, channels], any type.
        seed: [2] integers; the same seed gives the same result.

    Returns:
        Images of the same shape and type.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    seeds = tf.random.split(seed, 3)
    rows = _shifted(count, height, seeds[0])
    columns = _shifted(count, width, seeds[1])
    flip = tf.random.stateless_uniform([count, 1], seeds[2]) < 0.5
    columns = tf.where(flip, columns[:, ::-1], columns)
    images = tf.gather(_with_border(images, axis=1), rows, axis=1, batch_dims=1)
    return tf.gather(_with_border(images, axis=2), columns, axis=2, batch_dims=1)


def resize(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """Cuts the middle of an image to an aspect ratio and resizes that.

    Args:
        image: [any height, any width, channels] uint8.
        shape: (height, width, channels) of the result.

    Returns:
        An image of that shape, uint8.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    cut_height = tf.minimum(height, tf.maximum(1, width * shape[0] // shape[1]))
    cut_width = tf.minimum(width, tf.maximum(1, height * shape[1] // shape[0]))
    top, left = (height - cut_height) // 2, (width - cut_width) // 2
    image = image[top : top + cut_height, left : left + cut_width]
    image = tf.image.resize(image, shape[:2], antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
    return tf.ensure_shape(image, shape)


def array_batches(
    images: np.ndarray, labels: np.ndarray, config: DataConfig
) -> Callable[[int], tf.data.Dataset]:
    """Training batches from images in memory; see `ImageData.train_dataset`.

    Args:
        images: [n, height, width, channels], raw; kept in their type.
        labels: [n] int32.
        config: Batch size, preprocessing, augmentation. The last, smaller batch of an epoch is
            dropped.

    Returns:
        A function from a seed to the data set.
    """
    count = len(labels)
    batch_size = min(config.batch_size, count)
    all_images, all_labels = tf.constant(images), tf.constant(labels)

    def gather(indices: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = tf.gather(all_images, indices), tf.gather(all_labels, indices)
        return _prepared(batch, seed, config)

    def dataset(seed: int) -> tf.data.Dataset:
        # Gathering whole batches: no image passes the pipeline singly.
        return epoch_plan(count, batch_size, seed).map(gather).prefetch(2)

    return dataset


def array_indices(count: int, config: DataConfig) -> Callable[[int], tf.data.Dataset] | None:
    """The numbers of the images in the batches of `array_batches`; see `ImageData.train_indices`.

    Args:
        count: Number of images.
        config: Batch size and augmentation.

    Returns:
        A function from a seed to the data set; None if images are augmented.
    """
    if config.augment:
        return None
    batch_size = min(config.batch_size, count)
    return lambda seed: epoch_plan(count, batch_size, seed).map(lambda indices, _: indices)


def stream_batches(
    stream: Callable[[int], tf.data.Dataset], count: int, config: DataConfig
) -> Callable[[int], tf.data.Dataset]:
    """Training batches from images that are read as they are needed; see `array_batches`.

    Args:
        stream: From a seed, a data set of single raw (image, label) pairs, all of one shape, in
            another order at each pass.
        count: Pairs in a pass.
        config: Batch size, preprocessing, augmentation. The last, smaller batch of an epoch is
            dropped.

    Returns:
        A function from a seed to the data set.
    """
    batch_size = min(config.batch_size, count)

    def dataset(seed: int) -> tf.data.Dataset:
        batches = stream(seed).batch(batch_size, drop_remainder=True)
        seeds = epoch_plan(count, batch_size, seed).map(lambda _, seed: seed)
        prepared = tf.data.Dataset.zip(batches, seeds).map(
            lambda batch, seed: _prepared(batch, seed, config)
        )
        return prepared.prefetch(2)

    return dataset


def _prepared(
    batch: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor, config: DataConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """A raw batch of images and labels as a model trains on it."""
    images, labels = batch
    if config.augment:
        images = augment(images, seed)
    return preprocess(images, config.mean, config.std), tf.cast(labels, tf.int32)


def epoch_plan(count: int, batch_size: int, seed: int) -> tf.data.Dataset:
    """Which images each batch has, each image once, in another order at each pass.

    Not tf.data's own shuffling: its order depends on the global seed of the program too, and on
    whatever the caller does with that. Nor Dataset.from_generator: it changes how the whole process
    allocates memory.

    Args:
        count: Number of images.
        batch_size: Images in a batch; the last, smaller batch is dropped.
        seed: Decides the order in all passes.

    Returns:
        Pairs of [batch_size] int64 indices and a [2] int64 seed for stateless random operations.
    """
    passes = itertools.count()
    num_batches = count // batch_size

    def draw() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, next(passes)])
        order = rng.permutation(count)[: num_batches * batch_size]
        return order.reshape(num_batches, batch_size), rng.integers(0, 1 << 62, (num_batches, 2))

    def plan(_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        order, seeds = tf.numpy_function(draw, [], (tf.int64, tf.int64))
        shape = [num_batches, batch_size]
        return tf.ensure_shape(order, shape), tf.ensure_shape(seeds, [num_batches, 2])

    return tf.data.Dataset.range(1).map(plan).unbatch()


def _shifted(count: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """[count, size] indices into an axis with a border, shifted by a random number for each row."""
    border = size // _SHIFT_FRACTION
    offset = tf.random.stateless_uniform([count, 1], seed, 0, 2 * border + 1, tf.int32)
    return offset + tf.range(size)[tf.newaxis]


def _with_border(images: tf.Tensor, axis: int) -> tf.Tensor:
    border = images.shape[axis] // _SHIFT_FRACTION
    return tf.pad(images, [[border * (i == axis)] * 2 for i in range(4)])
