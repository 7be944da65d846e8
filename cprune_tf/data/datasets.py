"""Data as the caller makes them: tf.data, or a function that gives tf.data, arrays or ImageData."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import arrays, checks
from cprune_tf.data.image_data import DataError, ImageData


def from_datasets(
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    test: tf.data.Dataset | None = None,
    *,
    name: str = "tf.data",
    batch_size: int = 64,
    max_test: int = 0,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> ImageData:
    """Takes tf.data pipelines as they are: already preprocessed, shuffled and augmented.

    Args:
        train: (image, label) pairs or batches of them; labels are integers or one-hot. Each pass
            is one epoch, so whether trainings can be repeated exactly is up to its own seeds.
        validation: The same, finite: it decides which candidates are accepted. Its images are kept
            in memory.
        test: The same, looked at once, at the end. None: the validation images are quoted too.
        name: What reports call the data.
        batch_size: Pairs in a batch, where `train` gives single pairs.
        max_test: Use at most this many test images (0: all).
        input_shape: (height, width, channels) that the model takes; None: as the images are.
        num_classes: Outputs of the model; None: one more than the highest test label.

    Returns:
        The data.

    Raises:
        DataError: When the elements are something else, or do not fit the model.
    """
    train = _batched(train, f"{name}: training data", batch_size)
    images, labels = _collect(validation, f"{name}: validation data", batch_size, max_test)
    shape = tuple(int(size) for size in images.shape[1:])
    num_classes = num_classes or int(labels.max()) + 1
    _check(f"{name}: validation", images, labels, input_shape, num_classes)
    parts = {"test_images": images, "test_labels": labels}
    if test is not None:
        parts |= {"validation_images": images, "validation_labels": labels}
        images, labels = _collect(test, f"{name}: test data", batch_size, max_test)
        _check(f"{name}: test", images, labels, shape, num_classes)
        parts |= {"test_images": images, "test_labels": labels}
    first = next(iter(train), None)
    if first is None:
        raise DataError(f"{name}: the training data are empty; at least one batch is needed.")
    _check(f"{name}: training", first[0].numpy(), first[1].numpy(), shape, num_classes)
    return ImageData(
        name=name,
        input_shape=(shape[0], shape[1], shape[2]),
        num_classes=num_classes,
        class_names=(),
        num_train=None,
        train_dataset=lambda seed: train,
        validation_source="given",
        **parts,
    )


def _check(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, ...] | None,
    num_classes: int,
) -> None:
    """Checks that one part of the data fits the model."""
    checks.check_shape(f"{name} data", tuple(images.shape[1:]), shape)
    checks.check_labels(f"{name} labels", labels, num_classes)
    checks.check_finite(f"{name} images", images)


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
            gives ImageData, or (train, validation) or (train, validation, test) as `tf.data` (see
            `from_datasets`), or ((x_train, y_train), (x_test, y_test)) as arrays of raw pixels, as
            keras.datasets do.
        config: Preprocessing, augmentation and max_train apply to arrays only.
        input_shape: See `load`.
        num_classes: See `load`.

    Raises:
        DataError: When there is no such function, or it gives something else.
    """
    result = _find_function(name)()
    if isinstance(result, ImageData):
        return _check_image_data(result, name, input_shape, num_classes)
    if isinstance(result, tuple) and len(result) in (2, 3):
        if all(isinstance(part, tf.data.Dataset) for part in result):
            return from_datasets(
                *result,
                name=name,
                batch_size=config.batch_size,
                max_test=config.max_test,
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
        "validation, test) as tf.data.Dataset, or ((x_train, y_train), (x_test, y_test)) as arrays."
    )


def _find_function(name: str) -> Callable[[], Any]:
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


def _check_image_data(
    data: ImageData,
    name: str,
    input_shape: tuple[int, int, int] | None,
    num_classes: int | None,
) -> ImageData:
    checks.check_shape(name, data.input_shape, input_shape)
    if num_classes is not None and data.num_classes != num_classes:
        raise DataError(
            f"{name} has {data.num_classes} classes; expected {num_classes}, the model's outputs."
        )
    return data


def _batched(dataset: tf.data.Dataset, what: str, batch_size: int) -> tf.data.Dataset:
    """([batch, height, width, channels] float32, [batch] int32) from whatever the caller gave."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2 or spec[0].shape.rank not in (3, 4):
        raise DataError(
            f"{what} give {spec}; expected (image, label) pairs or batches of them, with images of "
            "height x width x channels."
        )
    if spec[0].shape.rank == 3:
        dataset = dataset.batch(batch_size)

    def convert(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if labels.shape.rank == 2:
            one_hot = labels.shape[1] != 1
            labels = tf.argmax(labels, axis=-1) if one_hot else labels[:, 0]
        return tf.cast(images, tf.float32), tf.cast(labels, tf.int32)

    return dataset.map(convert).prefetch(2)


def _collect(
    dataset: tf.data.Dataset, what: str, batch_size: int, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a finite data set into memory."""
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    count = 0
    for batch_images, batch_labels in _batched(dataset, what, batch_size):
        images.append(batch_images.numpy())
        labels.append(batch_labels.numpy())
        count += len(labels[-1])
        checks.check_test_size(what, min(count, limit or count), images[-1].shape[1:])
        if limit and count >= limit:
            break
    if not count:
        raise DataError(f"{what} are empty; at least one image is needed.")
    end = limit or count
    return np.concatenate(images)[:end], np.concatenate(labels)[:end]


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_describe(item) for item in value) + ")"
    return type(value).__name__
