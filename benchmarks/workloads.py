"""What several benchmarks tune."""

from __future__ import annotations

import dataclasses
from typing import Any

from cprune_tf.compiler.tasks import LoweredModel


def convolution(kernel: int, stride: int, size: int, inputs: int, filters: int) -> Any:
    """A model of one convolution with bias and ReLU."""
    import keras

    image = keras.Input((size, size, inputs), name="x")
    y = keras.layers.Conv2D(
        filters, kernel, strides=stride, padding="same", activation="relu", name="conv"
    )(image)
    return keras.Model(image, y)


def direct_only(lowered: LoweredModel) -> LoweredModel:
    """The same model without alternatives."""
    tasks = tuple(dataclasses.replace(task, alternatives=()) for task in lowered.tasks)
    return dataclasses.replace(lowered, tasks=tasks)
