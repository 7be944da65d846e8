"""The models that several benchmarks tune."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from cprune_tf.compiler.tasks import LoweredModel

# The folder of pretrained models beside a checkout.
PRETRAINED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "models"
# The networks whose programs come with the package.
NETWORKS = (
    "resnet8_cifar10_mlperf_tiny.h5",
    "resnet20_cifar10.h5",
    "mobilenet_v1_025_vww96_mlperf_tiny.h5",
    "mobilenet_v1_224_imagenet1001.keras",
)


def convolution(kernel: int, stride: int, size: int, inputs: int, filters: int) -> Any:
    """Builds a model of one convolution with bias and ReLU.

    Args:
        kernel: The kernel's height and width.
        stride: The stride in both directions.
        size: The input's height and width.
        inputs: Number of input channels.
        filters: Number of filters.

    Returns:
        The Keras model.
    """
    import keras

    image = keras.Input((size, size, inputs), name="x")
    y = keras.layers.Conv2D(
        filters, kernel, strides=stride, padding="same", activation="relu", name="conv"
    )(image)
    return keras.Model(image, y)


def ds_cnn() -> Any:
    """Builds MLPerf Tiny's keyword spotting network: 49 x 10 coefficients in, 12 words out."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((49, 10, 1), name="mfcc")
    x = layers.Conv2D(64, (10, 4), strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(64, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Flatten()(layers.AveragePooling2D((25, 5))(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x))


def direct_only(lowered: LoweredModel) -> LoweredModel:
    """Returns the same model with only the direct lowering of each task."""
    tasks = tuple(dataclasses.replace(task, alternatives=()) for task in lowered.tasks)
    return dataclasses.replace(lowered, tasks=tasks)
