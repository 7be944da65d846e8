"""What callers hand over to train and to judge with, behind one face: batches of arrays.

`tf.data.Dataset`, `keras.utils.PyDataset`, or NumPy arrays as `model.fit` takes them. Items are
(images, labels) or (images, labels, sample weights), or dicts with `image` and `label` as
tensorflow-datasets gives them.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.data import pipeline
from cprune_tf.data.batches import in_batches
from cprune_tf.data.image_data import DataError

_IMAGE_KEYS = ("image", "images")
_LABEL_KEYS = ("label", "labels")
_EXPECTED = (
    "(image, label) or (image, label, sample weight), single or in batches, or dicts with 'image' "
    "and 'label', with images of height x width x channels"
)


class Source(abc.ABC):
    """Labelled images that are already preprocessed.

    Attributes:
        what: What they are called.
        is_endless: Whether it is known that they never end.
        length: Number of batches; 0 if it is not known.
        label_spec: Shape and type of a batch of labels.
        has_weights: Whether there are sample weights.
    """

    what: str
    is_endless: bool
    length: int
    label_spec: tf.TensorSpec
    has_weights: bool

    @abc.abstractmethod
    def in_order(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields (images float32, labels[, weights]) batches in the order of the source."""

    @abc.abstractmethod
    def dataset(self, seed: int) -> tf.data.Dataset:
        """Returns the same batches as `tf.data`, to train on; each pass is one epoch.

        Args:
            seed: Decides the order, but for a `tf.data.Dataset`, which has its own.
        """


def as_source(given: Any, what: str, batch_size: int, steps: int = 0) -> Source:
    """Finds out what was given.

    Args:
        given: A `tf.data.Dataset`, a `keras.utils.PyDataset`, or a tuple of arrays.
        what: What it is called.
        batch_size: Images in a batch, where single ones were given.
        steps: Batches in an epoch of a source that repeats without end.

    Returns:
        The source.

    Raises:
        DataError: If it is something else, or its items are.
    """
    if isinstance(given, tf.data.Dataset):
        return _Dataset(given, what, batch_size)
    if isinstance(given, keras.utils.PyDataset):
        return _PyDataset(given, what, steps)
    if isinstance(given, (tuple, list)) and len(given) in (2, 3):
        return _Arrays(tuple(given), what, batch_size)
    raise DataError(
        f"{what} are {type(given).__name__}; expected a tf.data.Dataset, a keras.utils.PyDataset, "
        "or arrays (images, labels)."
    )


class _Dataset(Source):
    def __init__(self, dataset: tf.data.Dataset, what: str, batch_size: int) -> None:
        spec = _parts(dataset.element_spec)
        image = spec[0] if spec else None
        rank = image.shape.rank if isinstance(image, tf.TensorSpec) else None
        if rank not in (3, 4):
            raise DataError(f"{what} give {dataset.element_spec}; expected {_EXPECTED}.")

        def convert(*element: Any) -> tuple[tf.Tensor, ...]:
            images, *rest = _parts(element[0] if len(element) == 1 else element)
            return (tf.cast(images, tf.float32), *rest)

        is_single = rank == 3
        converted = (dataset.batch(batch_size) if is_single else dataset).map(convert)
        self.what = what
        self.label_spec = converted.element_spec[1]
        self.has_weights = len(spec) == 3
        self._dataset = converted.prefetch(2)
        length = int(dataset.cardinality())
        self.is_endless = length == tf.data.INFINITE_CARDINALITY
        self.length = max(int(converted.cardinality()), 0)

    def in_order(self) -> Iterator[tuple[np.ndarray, ...]]:
        yield from self._dataset.as_numpy_iterator()

    def dataset(self, seed: int) -> tf.data.Dataset:
        del seed
        return self._dataset


class _PyDataset(Source):
    def __init__(self, given: Any, what: str, steps: int) -> None:
        self._given = given
        self.what = what
        num_batches = given.num_batches
        self.is_endless = num_batches is None
        self.length = int(num_batches or steps)
        if not self.length and not self.is_endless:
            raise DataError(f"{what} are empty; at least one batch is needed.")
        first = self._batch(0)
        self._specs = [_batch_spec(item) for item in first]
        self.label_spec = self._specs[1]
        self.has_weights = len(first) == 3

    def _batch(self, index: int) -> tuple[np.ndarray, ...]:
        batch = self._given[index]
        items = [np.asarray(item) for item in _parts(batch)]
        if not items or items[0].ndim != 4:
            shapes = [item.shape for item in items]
            raise DataError(
                f"{self.what} give {shapes or type(batch).__name__}; expected {_EXPECTED}."
            )
        return (items[0].astype(np.float32), *items[1:])

    def in_order(self) -> Iterator[tuple[np.ndarray, ...]]:
        for index in range(self.length) if self.length else itertools.count():
            yield self._batch(index)

    def dataset(self, seed: int) -> tf.data.Dataset:
        served = itertools.count(1)

        def fetch(index: np.ndarray) -> tuple[np.ndarray, ...]:
            batch = self._batch(int(index))
            if next(served) % self.length == 0:
                self._given.on_epoch_end()
            return batch

        def load(index: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
            items = tf.numpy_function(fetch, [index[0]], [spec.dtype for spec in self._specs])
            return tuple(
                tf.ensure_shape(item, spec.shape)
                for item, spec in zip(items, self._specs, strict=True)
            )

        workers = max(1, int(getattr(self._given, "workers", 1) or 1))
        plan = pipeline.epoch_plan(self.length, 1, seed)
        return plan.map(load, num_parallel_calls=workers, deterministic=True).prefetch(2)


class _Arrays(Source):
    def __init__(self, given: tuple[Any, ...], what: str, batch_size: int) -> None:
        items = [np.asarray(item) for item in given]
        images = items[0]
        is_numeric = np.issubdtype(images.dtype, np.number) or images.dtype == bool
        if images.ndim != 4 or not is_numeric or len({len(item) for item in items[1:]}) > 1:
            shapes = ", ".join(f"{item.dtype} {item.shape}" for item in items)
            raise DataError(f"{what} are arrays ({shapes}); expected {_EXPECTED}.")
        if not len(images):
            raise DataError(f"{what} are empty; at least one image is needed.")
        if len(images) != len(items[1]):
            raise DataError(
                f"{what}: there are {len(images)} images and {len(items[1])} labels; expected as "
                "many of both."
            )
        self.what = what
        self.is_endless = False
        self.label_spec = _batch_spec(items[1])
        self.has_weights = len(items) == 3
        self._items = items
        self._batch_size = min(batch_size, len(images))
        self.length = len(images) // self._batch_size

    def in_order(self) -> Iterator[tuple[np.ndarray, ...]]:
        for images, *rest in in_batches(self._batch_size, *self._items):
            yield (images.astype(np.float32), *rest)

    def dataset(self, seed: int) -> tf.data.Dataset:
        tensors = [tf.constant(item) for item in self._items]

        def gather(indices: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images, *rest = (tf.gather(tensor, indices) for tensor in tensors)
            return (tf.cast(images, tf.float32), *rest)

        plan = pipeline.epoch_plan(len(self._items[0]), self._batch_size, seed)
        return plan.map(gather).prefetch(2)


def endless(what: str) -> str:
    """What to do with training data that repeat without end."""
    return (
        f"{what} repeat without end; expected an end after each epoch. Set data.steps_per_epoch to "
        "the number of batches in an epoch, or remove the repetition."
    )


def _batch_spec(batch: np.ndarray) -> tf.TensorSpec:
    """The shape and type of batches like this one, of any size."""
    return tf.TensorSpec([None, *batch.shape[1:]], tf.convert_to_tensor(batch[:1]).dtype)


def _parts(element: Any) -> tuple[Any, ...]:
    """(images, labels) or (images, labels, weights) of an element or its spec; () for others."""
    if isinstance(element, Mapping):
        image = next((element[key] for key in _IMAGE_KEYS if key in element), None)
        label = next((element[key] for key in _LABEL_KEYS if key in element), None)
        return () if image is None or label is None else (image, label)
    if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
        return ()
    # {"input_1": images}: the model's only input or output by its name.
    return tuple(
        next(iter(part.values())) if isinstance(part, Mapping) and len(part) == 1 else part
        for part in element
    )
