"""Tiny models and data of tasks other than sorting images into classes."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A compiled model with its data.

    Attributes:
        model: The model.
        train: (inputs, labels) as `model.fit` takes them.
        validation: The same.
        metric: The name of what it is judged by.
    """

    model: keras.Model
    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    metric: str


def _images(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).random((count, 16, 16, channels), np.float32)


def _body(x: Any) -> Any:
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="stem")(x)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False, name="wide")(x)
    x = layers.BatchNormalization(name="wide_bn")(x)
    return layers.ReLU(name="wide_relu")(x)


def _pooled(x: Any) -> Any:
    return layers.GlobalAveragePooling2D(name="pool")(_body(x))


def _split(inputs: Any, labels: Any) -> tuple[Any, Any]:
    def part(start: int, end: int) -> tuple[Any, Any]:
        return keras.tree.map_structure(lambda one: one[start:end], (inputs, labels))

    return part(0, 64), part(64, 96)


def binary() -> Task:
    """One sigmoid unit: whether an image is bright."""
    image = keras.Input((16, 16, 3), name="image")
    model = keras.Model(image, layers.Dense(1, activation="sigmoid", name="bright")(_pooled(image)))
    model.compile("adam", "binary_crossentropy", metrics=["binary_accuracy"])
    images = _images(96)
    labels = (images.mean((1, 2, 3)) > 0.5).astype(np.float32)
    return Task(model, *_split(images, labels), "binary_accuracy")


def segmentation() -> Task:
    """A small U-Net: three classes for each pixel."""
    image = keras.Input((16, 16, 3), name="image")
    fine = layers.Conv2D(16, 3, padding="same", activation="relu", name="fine")(image)
    x = layers.MaxPooling2D(name="down")(fine)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="coarse")(x)
    x = layers.UpSampling2D(name="up")(x)
    x = layers.Concatenate(name="skip")([x, fine])
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="mix")(x)
    model = keras.Model(image, layers.Conv2D(3, 1, activation="softmax", name="map")(x))
    metric = keras.metrics.MeanIoU(3, sparse_y_pred=False, name="mean_io_u")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=[metric])
    images = _images(96)
    return Task(model, *_split(images, images.argmax(-1)), "mean_io_u")


def two_heads(as_dict: bool = True) -> Task:
    """A class and a number, with labels by the outputs' names or in their order."""
    image = keras.Input((16, 16, 3), name="image")
    x = _pooled(image)
    kind = layers.Dense(3, activation="softmax", name="kind")(x)
    model = keras.Model(image, [kind, layers.Dense(1, name="size")(x)])
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile("adam", losses, metrics={"kind": ["accuracy"], "size": ["mae"]})
    images = _images(96)
    labels: Any = {"kind": images.mean((1, 2)).argmax(-1), "size": images.mean((1, 2, 3))[:, None]}
    labels = labels if as_dict else tuple(labels.values())
    return Task(model, *_split(images, labels), "kind_accuracy")


def image_and_vector() -> Task:
    """Two inputs of different shapes, by their names."""
    image, vector = keras.Input((16, 16, 3), name="image"), keras.Input((4,), name="vector")
    both = layers.Concatenate(name="both")([_pooled(image), layers.Dense(8, name="few")(vector)])
    model = keras.Model([image, vector], layers.Dense(3, activation="softmax", name="kind")(both))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    images = _images(96)
    inputs = {"vector": images[:, 0, :4, 0], "image": images}
    return Task(model, *_split(inputs, images.mean((1, 2)).argmax(-1)), "accuracy")


def regression() -> Task:
    """Two numbers for each image, judged by their error: lower is better."""
    image = keras.Input((16, 16, 3), name="image")
    model = keras.Model(image, layers.Dense(2, name="numbers")(_pooled(image)))
    model.compile("adam", "mse", metrics=["mean_absolute_error"])
    images = _images(96)
    labels = np.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], axis=1)
    return Task(model, *_split(images, labels), "mean_absolute_error")


def signal() -> Task:
    """1-D convolutions over a signal."""
    given = keras.Input((64, 2), name="signal")
    x = layers.Conv1D(16, 5, strides=2, padding="same", activation="relu", name="first")(given)
    x = layers.Conv1D(32, 5, padding="same", activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    model = keras.Model(given, layers.Dense(2, activation="softmax", name="kind")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    signals = np.random.default_rng(0).random((96, 64, 2), np.float32)
    return Task(model, *_split(signals, signals.mean(1).argmax(-1)), "accuracy")


TASKS = {
    "binary": binary,
    "segmentation": segmentation,
    "two_heads": two_heads,
    "image_and_vector": image_and_vector,
    "regression": regression,
    "signal": signal,
}
