"""What a data set is to the rest of the package: training batches, validation and test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from cprune_tf.errors import UserError

_TEST_BATCH = 250


class DataError(UserError, ValueError):
    """Images or labels that cannot be used: says what was received, expected and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images, ready for a model: preprocessed, checked, and batched for training.

    Attributes:
        name: Where the images come from.
        input_shape: (height, width, channels) of an image.
        num_classes: Labels are 0 .. num_classes - 1.
        class_names: One for each class; empty where the source has none.
        test_images: [n, height, width, channels] float32, preprocessed.
        test_labels: [n] int32.
        num_train: Training images in an epoch; None where the source does not tell.
        train_dataset: Called with a seed, gives a `tf.data.Dataset` of ([batch, height, width,
            channels] float32, [batch] int32) batches. Each pass over it is one epoch, shuffled and
            augmented anew; the same seed gives the same sequence of epochs.
        validation_images: Images that decide which candidates are accepted, like test_images; None
            if the test images decide.
        validation_labels: Their labels; None if the test images decide.
        validation_source: Where the validation images, if any, come from: "train", "test", or
            "given" by the caller.
        compiled_dataset: Like train_dataset, with labels and sample weights as the caller gave
            them: what a model that the caller compiled is trained on. None: it is the same.
        train_indices: Called with a seed, gives the numbers (0 .. num_train - 1) of the images in
            the batches that train_dataset gives with this seed, [batch] int64. None where an image
            is not the same in every epoch, as with augmentation, or where nothing numbers them.
        notes: What the user should know about the data, a sentence or more each.
    """

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    test_images: np.ndarray = dataclasses.field(repr=False)
    test_labels: np.ndarray = dataclasses.field(repr=False)
    num_train: int | None
    train_dataset: Callable[[int], tf.data.Dataset] = dataclasses.field(repr=False)
    validation_images: np.ndarray | None = dataclasses.field(default=None, repr=False)
    validation_labels: np.ndarray | None = dataclasses.field(default=None, repr=False)
    validation_source: str = "train"
    compiled_dataset: Callable[[int], tf.data.Dataset] | None = dataclasses.field(
        default=None, repr=False
    )
    train_indices: Callable[[int], tf.data.Dataset] | None = dataclasses.field(
        default=None, repr=False
    )
    notes: tuple[str, ...] = ()

    @property
    def judges(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels that decide: the validation images, or the test images without any."""
        if self.validation_images is None or self.validation_labels is None:
            return self.test_images, self.test_labels
        return self.validation_images, self.validation_labels

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return len(self.test_labels)

    @property
    def num_validation(self) -> int:
        """Number of validation images; 0 without any."""
        return 0 if self.validation_labels is None else len(self.validation_labels)

    def as_compiled(self, seed: int) -> tf.data.Dataset:
        """Training batches for a model that the caller compiled; see `compiled_dataset`."""
        return (self.compiled_dataset or self.train_dataset)(seed)

    @property
    def train(self) -> tf.data.Dataset:
        """The training batches with seed 0; see `train_dataset`."""
        return self.train_dataset(0)

    @property
    def test(self) -> tf.data.Dataset:
        """The test images in their order, as (images, labels) batches."""
        arrays = (self.test_images, self.test_labels)
        return tf.data.Dataset.from_tensor_slices(arrays).batch(_TEST_BATCH).prefetch(1)
