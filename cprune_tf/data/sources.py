"""What callers hand over to train and to judge with, behind one face: batches of arrays.

`tf.data.Dataset`, `keras.utils.PyDataset`, or NumPy arrays as `model.fit` takes them. Items are
(inputs, labels) or (inputs, labels, sample weights), or dicts with `image` and `label` as
tensorflow-datasets gives them. Inputs and labels may be nested where a model has several.
"""

from __future__ import annotations

import abc
import itertools
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.data import pipeline
from cprune_tf.data.batches import in_batches
from cprune_tf.data.image_data import DataError
from cprune_tf.data.image_files import FileProgress
from cprune_tf.data.interface import IMAGES, Interface
from cprune_tf.data.splitting import SPLIT_SEED, split_samples
from cprune_tf.data.whole_numbers import to_type

# More than any set that is trained on: data of unknown length that go on are taken for endless.
_MAX_TRAIN = 1 << 25
_MIN_TO_SPLIT = 10
_IMAGE_KEYS = ("image", "images")
_LABEL_KEYS = ("label", "labels")
_EXPECTED = (
    "(image, label) or (image, label, sample weight), single or in batches, or dicts with 'image' "
    "and 'label', with images of height x width x channels"
)


class Source(abc.ABC):
    """Labelled samples that are already preprocessed, mostly images.

    Attributes:
        what: What they are called.
        is_endless: Whether it is known that they never end.
        length: Number of batches; 0 if it is not known.
        label_spec: Shape and type of a batch of labels, nested as these.
        has_weights: Whether there are sample weights.
    """

    what: str
    is_endless: bool
    length: int
    label_spec: Any
    has_weights: bool

    @abc.abstractmethod
    def in_order(self) -> Iterator[tuple[Any, ...]]:
        """Yields (inputs, labels[, weights]) batches in the order of the source.

        Inputs are nested as the model takes them, in the model's types.
        """

    @abc.abstractmethod
    def dataset(self, seed: int) -> tf.data.Dataset:
        """Returns the same batches as `tf.data`, to train on; each pass is one epoch.

        Args:
            seed: Decides the order, but for a `tf.data.Dataset`, which has its own.
        """


def as_source(
    given: Any, what: str, batch_size: int, steps: int = 0, interface: Interface = IMAGES
) -> Source:
    """Finds out what was given.

    Args:
        given: A `tf.data.Dataset`, a `keras.utils.PyDataset`, or a tuple of arrays.
        what: What it is called.
        batch_size: Images in a batch, where single ones were given.
        steps: Batches in an epoch of a source that repeats without end.
        interface: What the model takes and gives.

    Returns:
        The source.

    Raises:
        DataError: If it is something else, or its items are.
    """
    if isinstance(given, tf.data.Dataset):
        return _Dataset(given, what, batch_size, interface)
    if isinstance(given, keras.utils.PyDataset):
        return _PyDataset(given, what, steps, interface)
    if isinstance(given, (tuple, list)) and len(given) in (2, 3):
        return _Arrays(tuple(given), what, batch_size, interface)
    raise DataError(
        f"{what} are {type(given).__name__}; expected a tf.data.Dataset, a keras.utils.PyDataset, "
        "or arrays (images, labels)."
    )


def as_training_source(
    given: Any, what: str, batch_size: int, steps: int, interface: Interface = IMAGES
) -> Source:
    """Finds out what was given to train on; see `as_source`.

    Raises:
        DataError: Also if it repeats without end and `steps` is 0.
    """
    source = as_source(given, what, batch_size, steps, interface)
    if source.is_endless and not steps:
        raise DataError(_endless(source.what))
    return source


def set_apart(
    given: Any, fraction: float, interface: Interface = IMAGES
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Splits training arrays, so that a part of them decides which candidates are accepted.

    Args:
        given: A tuple of arrays; see `as_source`.
        fraction: The part that is set apart, 0..1.
        interface: What the model takes and gives.

    Returns:
        What remains and what was set apart, each a tuple of arrays.

    Raises:
        DataError: If it is something else, which cannot be split, or too little.
    """
    what = "train_data"
    source = as_source(given, what, 1, interface=interface)
    if not isinstance(source, _Arrays) or not fraction:
        received = type(given).__name__ if fraction else "data.validation_fraction=0"
        raise DataError(
            f"{what} were given without validation_data, with {received}; expected both, since the "
            "validation data decide which candidates are accepted. Only from arrays (inputs, "
            "labels), data.validation_fraction is set apart for that."
        )
    if source.length < _MIN_TO_SPLIT:
        raise DataError(
            f"{what} are {source.length} {_item(interface)}s without validation_data; expected "
            f"{_MIN_TO_SPLIT} or more, of which some decide which candidates are accepted."
        )
    return split_samples(source.items, fraction, SPLIT_SEED)


def count_epoch(
    sizes: Iterable[int],
    source: Source,
    steps: int,
    items: str,
    on_progress: FileProgress | None,
) -> int:
    """Counts the samples of one epoch to train on.

    Args:
        sizes: The number of samples in each batch.
        source: Where the batches come from.
        steps: Batches in an epoch; 0: as many as the source has.
        items: What the samples are called.
        on_progress: Told how far the count is.

    Returns:
        The number of samples.

    Raises:
        DataError: If there are none, or no end of them.
    """
    planned, count = steps or source.length, 0
    for step, size in enumerate(sizes, 1):
        count += size
        if count > _MAX_TRAIN:
            raise DataError(_endless(source.what))
        if on_progress is not None:
            on_progress(step, max(planned, step), f"{count:,} training {items}")
    if not count:
        raise DataError(f"{source.what} are empty; at least one batch is needed.")
    return count


def require_end(source: Source, limit: int, items: str) -> None:
    """Raises DataError for data that repeat without end and are to be kept in memory.

    Args:
        source: The data.
        limit: The most samples that are read; 0: all.
        items: What the samples are called.
    """
    if source.is_endless and not limit:
        raise DataError(
            f"{source.what} repeat without end; expected one pass over them. Remove the "
            f"repetition, or set data.max_test to the number of {items} to use."
        )


class _Dataset(Source):
    def __init__(
        self, dataset: tf.data.Dataset, what: str, batch_size: int, interface: Interface
    ) -> None:
        spec = _parts(dataset.element_spec, interface)
        first = interface.in_order(spec[0], what)[0] if spec else None
        rank = first.shape.rank if isinstance(first, tf.TensorSpec) else None
        single = len(interface.inputs[0].shape)
        if rank not in (single, single + 1):
            raise DataError(f"{what} give {dataset.element_spec}; expected {_expected(interface)}.")

        def convert(*element: Any) -> tuple[Any, ...]:
            inputs, *rest = _parts(element[0] if len(element) == 1 else element, interface)
            return (_cast(inputs, what, interface), *rest)

        converted = (dataset.batch(batch_size) if rank == single else dataset).map(convert)
        self.what = what
        self.label_spec = converted.element_spec[1]
        self.has_weights = len(spec) == 3
        self._dataset = converted.prefetch(2)
        length = int(dataset.cardinality())
        self.is_endless = length == tf.data.INFINITE_CARDINALITY
        self.length = max(int(converted.cardinality()), 0)

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        yield from self._dataset.as_numpy_iterator()

    def dataset(self, seed: int) -> tf.data.Dataset:
        del seed
        return self._dataset


class _PyDataset(Source):
    def __init__(self, given: Any, what: str, steps: int, interface: Interface) -> None:
        self._given = given
        self._interface = interface
        self.what = what
        num_batches = given.num_batches
        self.is_endless = num_batches is None
        self.length = int(num_batches or steps)
        if not self.length and not self.is_endless:
            raise DataError(f"{what} are empty; at least one batch is needed.")
        self._specs = keras.tree.map_structure(_batch_spec, self._batch(0))
        self.label_spec = self._specs[1]
        self.has_weights = len(self._specs) == 3

    def _batch(self, index: int) -> tuple[Any, ...]:
        batch = self._given[index]
        parts = _parts(batch, self._interface)
        items = parts and _as_arrays(parts, self.what, self._interface)
        if not items or _first(items[0]).ndim != len(self._interface.inputs[0].shape) + 1:
            shapes = [np.shape(item) for item in keras.tree.flatten(items)]
            raise DataError(
                f"{self.what} give {shapes or type(batch).__name__}; expected "
                f"{_expected(self._interface)}."
            )
        return items

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        for index in range(self.length) if self.length else itertools.count():
            yield self._batch(index)

    def dataset(self, seed: int) -> tf.data.Dataset:
        served = itertools.count(1)
        specs = keras.tree.flatten(self._specs)

        def fetch(index: np.ndarray) -> list[np.ndarray]:
            batch = self._batch(int(index))
            if next(served) % self.length == 0:
                self._given.on_epoch_end()
            return keras.tree.flatten(batch)

        def load(index: tf.Tensor, _: tf.Tensor) -> tuple[Any, ...]:
            items = tf.numpy_function(fetch, [index[0]], [spec.dtype for spec in specs])
            shaped = [
                tf.ensure_shape(item, spec.shape) for item, spec in zip(items, specs, strict=True)
            ]
            return typing.cast(tuple[Any, ...], keras.tree.pack_sequence_as(self._specs, shaped))

        workers = max(1, int(getattr(self._given, "workers", 1) or 1))
        plan = pipeline.epoch_plan(self.length, 1, seed)
        return plan.map(load, num_parallel_calls=workers, deterministic=True).prefetch(2)


class _Arrays(Source):
    def __init__(
        self, given: tuple[Any, ...], what: str, batch_size: int, interface: Interface
    ) -> None:
        self.items = _as_arrays(given, what, interface, cast=False)
        flat = keras.tree.flatten(self.items)
        inputs = keras.tree.flatten(self.items[0])
        labels = keras.tree.flatten(self.items[1:])
        fits = all(
            one.ndim == len(port.shape) + 1
            and (np.issubdtype(one.dtype, np.number) or one.dtype == bool)
            for one, port in zip(inputs, interface.inputs, strict=True)
        )
        if not fits or any(np.ndim(item) < 1 for item in flat) or len(set(map(len, labels))) > 1:
            shapes = ", ".join(f"{item.dtype} {item.shape}" for item in flat)
            raise DataError(f"{what} are arrays ({shapes}); expected {_expected(interface)}.")
        lengths = sorted(set(map(len, inputs)))
        if not lengths[-1]:
            raise DataError(f"{what} are empty; at least one {_item(interface)} is needed.")
        if lengths != [len(labels[0])]:
            raise DataError(
                f"{what}: there are {' and '.join(map(str, lengths))} {_item(interface)}s and "
                f"{len(labels[0])} labels; expected as many of both."
            )
        self.what = what
        self.is_endless = False
        self.label_spec = keras.tree.map_structure(_batch_spec, self.items[1])
        self.has_weights = len(self.items) == 3
        self._interface = interface
        self._batch_size = min(batch_size, lengths[0])
        self.length = lengths[0] // self._batch_size

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        for batch in in_batches(self._batch_size, *keras.tree.flatten(self.items)):
            inputs, *rest = keras.tree.pack_sequence_as(self.items, list(batch))
            yield (_cast(inputs, self.what, self._interface), *rest)

    def dataset(self, seed: int) -> tf.data.Dataset:
        tensors = keras.tree.map_structure(tf.constant, self.items)

        def gather(indices: tf.Tensor, _: tf.Tensor) -> tuple[Any, ...]:
            inputs, *rest = keras.tree.map_structure(lambda one: tf.gather(one, indices), tensors)
            return (_cast(inputs, self.what, self._interface), *rest)

        count = len(_first(self.items[0]))
        plan = pipeline.epoch_plan(count, self._batch_size, seed)
        return plan.map(gather).prefetch(2)


def _endless(what: str) -> str:
    """What to do with training data that repeat without end."""
    return (
        f"{what} repeat without end; expected an end after each epoch. Set data.steps_per_epoch to "
        "the number of batches in an epoch, or remove the repetition."
    )


def _batch_spec(batch: np.ndarray) -> tf.TensorSpec:
    """The shape and type of batches like this one, of any size."""
    return tf.TensorSpec([None, *batch.shape[1:]], tf.convert_to_tensor(batch[:1]).dtype)


def _parts(element: Any, interface: Interface) -> tuple[Any, ...]:
    """(inputs, labels) or (inputs, labels, weights) of an element or its spec; () for others."""
    if isinstance(element, Mapping):
        image = next((element[key] for key in _IMAGE_KEYS if key in element), None)
        label = next((element[key] for key in _LABEL_KEYS if key in element), None)
        return () if image is None or label is None else (image, label)
    if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
        return ()
    # {"input_1": images}: the model's only input or output by its name.
    ports = (interface.inputs, interface.outputs, interface.outputs)
    return tuple(
        next(iter(part.values()))
        if isinstance(part, Mapping) and len(part) == len(few) == 1
        else part
        for part, few in zip(element, ports, strict=False)
    )


def _as_arrays(
    parts: tuple[Any, ...], what: str, interface: Interface, *, cast: bool = True
) -> tuple[Any, ...]:
    """Arrays of the given ones, the inputs nested as the model takes them."""
    inputs, *rest = parts
    if len(interface.inputs) == 1 and not isinstance(inputs, Mapping):
        flat = [np.asarray(inputs)]
    else:
        flat = [np.asarray(one) for one in interface.in_order(inputs, what)]
    nested = interface.nested(flat)
    if cast:
        nested = _cast(nested, what, interface)
    return (nested, *(_labels(part, interface) for part in rest))


def _labels(labels: Any, interface: Interface) -> Any:
    """Labels or weights as arrays; several as tuples, since tf.data stacks what lies in a list."""
    if isinstance(labels, Mapping):
        return {name: np.asarray(one) for name, one in labels.items()}
    if len(interface.outputs) > 1 and isinstance(labels, (list, tuple)):
        return tuple(np.asarray(one) for one in labels)
    return np.asarray(labels)


def _cast(inputs: Any, what: str, interface: Interface) -> Any:
    """Inputs in the model's types, nested as the model takes them."""
    flat = interface.in_order(inputs, what)
    return interface.nested(
        [to_type(one, port.dtype) for one, port in zip(flat, interface.inputs, strict=True)]
    )


def _first(inputs: Any) -> np.ndarray:
    return typing.cast(np.ndarray, keras.tree.flatten(inputs)[0])


def _item(interface: Interface) -> str:
    return "image" if interface.has_image else "sample"


def _expected(interface: Interface) -> str:
    if interface.has_image:
        return _EXPECTED
    return (
        "(inputs, labels) or (inputs, labels, sample weights), single or in batches, with the "
        f"inputs {', '.join(map(str, interface.inputs))}"
    )
