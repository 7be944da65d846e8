"""Data as the caller makes them: tf.data, or a function that gives tf.data, arrays or ImageData."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import arrays, checks, labels, sources
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.image_files import FileProgress
from cprune_tf.data.labels import class_numbers, classes_in_graph
from cprune_tf.data.sources import Source, as_source


def from_datasets(
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    name: str = "tf.data",
    batch_size: int = 64,
    max_test: int = 0,
    steps_per_epoch: int = 0,
    class_names: Sequence[str] = (),
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    on_progress: FileProgress | None = None,
) -> ImageData:
    """Takes `tf.data`, `keras.utils.PyDataset` or arrays as they are: already preprocessed.

    All labels and pixels are looked at once: wrong ones are named before any work.

    Args:
        train: (image, label) pairs or batches of them, or with a sample weight as the third; or
            dicts with `image` and `label`. Labels are whole numbers, one-hot, smoothed, or names.
            Each pass is one epoch. A `tf.data.Dataset` has its own order, so whether trainings can
            be repeated exactly is up to its seeds; the others are shuffled.
        validation: The same, finite: it decides which candidates are accepted. Its images are kept
            in memory.
        test: The same, looked at once, at the end. None: the validation images are quoted too.
        name: What reports call the data.
        batch_size: Pairs in a batch, where `train` gives single pairs.
        max_test: Use at most this many validation images, and test images (0: all).
        steps_per_epoch: Batches in an epoch of training data; needed if they repeat without end.
            0: they are read to their end.
        class_names: The classes in the order of the outputs, where labels are names. Empty: the
            names that the validation data have, sorted.
        input_shape: (height, width, channels) that the model takes; None: as the images are.
        num_classes: Outputs of the model; None: as the labels say.
        on_progress: Told how far the check of the training data is.

    Returns:
        The data.

    Raises:
        DataError: When the elements are something else, or do not fit the model.
    """
    validation_source = as_source(validation, f"{name}: validation data", batch_size)
    images, given_labels = _collect(validation_source, max_test)
    names = _class_names(name, given_labels, class_names, num_classes)
    num_classes = num_classes or _count(given_labels, names)
    shape = checks.image_shape(f"{name}: validation data", images, input_shape)
    classes = class_numbers(given_labels, f"{name}: validation labels", names, num_classes)
    parts: dict[str, Any] = {"test_images": images, "test_labels": classes}
    if test is not None:
        parts |= {"validation_images": images, "validation_labels": classes}
        images, given_labels = _collect(as_source(test, f"{name}: test data", batch_size), max_test)
        checks.check_shape(f"{name}: test data", images.shape[1:], shape)
        classes = class_numbers(given_labels, f"{name}: test labels", names, num_classes)
        parts |= {"test_images": images, "test_labels": classes}
    source = sources.as_training_source(
        train, f"{name}: training data", batch_size, steps_per_epoch
    )
    training = _Training(source, steps_per_epoch, names)
    # Without training data of their own, callers hand over the validation data again.
    num_train = None
    if train is not validation:
        num_train = _inspect(training, name, shape, num_classes, on_progress)
    return ImageData(
        name=name,
        input_shape=shape,
        num_classes=num_classes,
        class_names=names,
        num_train=num_train,
        train_dataset=training.with_classes,
        compiled_dataset=training.as_given if training.is_special else None,
        validation_source="given",
        notes=training.notes(),
        **parts,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Training:
    """Training batches in two forms: as given, and with the numbers of classes as labels."""

    source: Source
    steps_per_epoch: int
    names: tuple[str, ...]

    @property
    def is_special(self) -> bool:
        """Whether a compiled model is trained on something else than numbers of classes."""
        shape = self.source.label_spec.shape
        return self.source.has_weights or (shape.rank == 2 and shape[1] != 1)

    def as_given(self, seed: int) -> tf.data.Dataset:
        dataset = self.source.dataset(seed)
        if self.source.label_spec.dtype == tf.string:
            dataset = dataset.map(lambda x, y, *w: (x, classes_in_graph(y, self.names), *w))
        return dataset.take(self.steps_per_epoch) if self.steps_per_epoch else dataset

    def with_classes(self, seed: int) -> tf.data.Dataset:
        dataset = self.source.dataset(seed)
        dataset = dataset.map(lambda x, y, *_: (x, classes_in_graph(y, self.names)))
        return dataset.take(self.steps_per_epoch) if self.steps_per_epoch else dataset

    def notes(self) -> tuple[str, ...]:
        if not self.source.has_weights:
            return ()
        return (
            f"{self.source.what} have sample weights; they count only where a compiled model is "
            "trained as it was compiled.",
        )


def _inspect(
    training: _Training,
    name: str,
    shape: tuple[int, int, int],
    num_classes: int,
    on_progress: FileProgress | None,
) -> int:
    """Looks at one epoch; returns the number of images, or raises DataError for a wrong one."""
    source = training.source
    dataset = source.dataset(0)
    if training.steps_per_epoch:
        dataset = dataset.take(training.steps_per_epoch)
    checks.check_shape(source.what, tuple(dataset.element_spec[0].shape[1:]), shape)

    def look(images: tf.Tensor, labels: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return labels, tf.reduce_all(tf.math.is_finite(images), axis=[1, 2, 3])

    def checked_sizes() -> Iterator[int]:
        first = 0
        for given, is_finite in dataset.map(look).as_numpy_iterator():
            class_numbers(given, f"{name}: training labels", training.names, num_classes, first)
            checks.check_flags(f"{name}: training images", is_finite, first)
            yield len(given)
            first += len(given)

    return sources.count_epoch(
        checked_sizes(), source, training.steps_per_epoch, "images", on_progress
    )


def _class_names(
    name: str, given: np.ndarray, class_names: Sequence[str], num_classes: int | None
) -> tuple[str, ...]:
    """The classes by their names; empty where neither labels nor the config tell."""
    if labels.is_text(given):
        return checks.ordered_classes(name, labels.names_in(given), class_names, num_classes)
    if class_names:
        return checks.ordered_classes(name, class_names, class_names, num_classes)
    return ()


def _count(given: np.ndarray, names: Sequence[str]) -> int:
    """The number of classes where no model tells."""
    if names:
        return len(names)
    if given.ndim == 2 and given.shape[1] > 1:
        return int(given.shape[1])
    return int(labels.as_classes(given, "labels").max()) + 1


def call_function(
    name: str,
    config: DataConfig,
    *,
    input_shape: tuple[int, int, int] | None,
    num_classes: int | None,
) -> ImageData:
    """Calls "module:function" for data.

    Args:
        name: An importable module and the name of a function in it that takes no arguments. It
            gives ImageData, or (train, validation) or (train, validation, test) as `tf.data` or
            PyDataset (see `from_datasets`), or ((x_train, y_train), (x_test, y_test)) as arrays of
            raw pixels, as keras.datasets do.
        config: Preprocessing, augmentation and max_train apply to arrays only.
        input_shape: See `load`.
        num_classes: See `load`.

    Raises:
        DataError: When there is no such function, or it gives something else.
    """
    result = find_function(name)()
    if isinstance(result, ImageData):
        return check_image_data(result, name, input_shape, num_classes)
    if isinstance(result, tuple) and len(result) in (2, 3):
        if all(isinstance(part, (tf.data.Dataset, keras.utils.PyDataset)) for part in result):
            return from_datasets(
                *result,
                name=name,
                batch_size=config.batch_size,
                max_test=config.max_test,
                steps_per_epoch=config.steps_per_epoch,
                class_names=config.class_names,
                input_shape=input_shape,
                num_classes=num_classes,
            )
        if len(result) == 2 and all(isinstance(part, tuple) and len(part) == 2 for part in result):
            items = [np.asarray(item) for part in result for item in part]
            raw = arrays.RawArrays(name, items[0], items[1], items[2], items[3])
            return arrays.to_image_data(
                raw, config, input_shape=input_shape, num_classes=num_classes
            )
    raise DataError(
        f"{name}() gives {_describe(result)}; expected ImageData, (train, validation) or (train, "
        "validation, test) as tf.data or PyDataset, or ((x_train, y_train), (x_test, y_test)) as "
        "arrays."
    )


def find_function(name: str) -> Callable[[], Any]:
    """Imports the function of the name "module:function", or raises DataError."""
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DataError(
            f"data.name is {name!r}, but the module {module_name!r} cannot be imported ({error}). "
            "Add the folder it lies in to PYTHONPATH."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DataError(f"data.name is {name!r}, but {module_name} has no such function.")
    return cast(Callable[[], Any], function)


def check_image_data(
    data: ImageData,
    name: str,
    input_shape: tuple[int, int, int] | None,
    num_classes: int | None,
) -> ImageData:
    """Returns ready-made data, or raises DataError unless they fit the model."""
    checks.check_shape(name, data.input_shape, input_shape)
    if num_classes is not None and data.num_classes != num_classes:
        raise DataError(
            f"{name} has {data.num_classes} classes; expected {num_classes}, the model's outputs."
        )
    return data


def _collect(source: Source, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a finite source into memory: its images, and its labels as they are."""
    sources.require_end(source, limit, "images")
    images: list[np.ndarray] = []
    given_labels: list[np.ndarray] = []
    count = 0
    for batch_images, batch_labels, *_ in source.in_order():
        checks.check_finite(source.what, batch_images, count)
        images.append(batch_images)
        given_labels.append(batch_labels)
        count += len(batch_labels)
        checks.check_test_size(source.what, min(count, limit or count), batch_images.shape[1:])
        if limit and count >= limit:
            break
    if not count:
        raise DataError(f"{source.what} are empty; at least one image is needed.")
    end = limit or count
    return np.concatenate(images)[:end], np.concatenate(given_labels)[:end]


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_describe(item) for item in value) + ")"
    return type(value).__name__
