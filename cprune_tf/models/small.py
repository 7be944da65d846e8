"""Small models of other architectures than ResNet, for tests and first trials."""

from __future__ import annotations

import keras
from keras import layers


def vgg_small(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    filters: tuple[int, ...] = (16, 32, 64),
) -> keras.Model:
    """Builds a VGG-like Sequential model: convolutions, pooling, flatten and two dense layers.

    Every layer has a bias and there is no batch normalisation.

    Args:
        input_shape: The shape (height, width, channels) of the float32 images.
        num_classes: The number of classes. The outputs are logits, without a softmax.
        filters: The number of filters of each block. A block has two convolutions and halves the
            resolution.

    Returns:
        The model.
    """
    model = keras.Sequential([keras.Input(input_shape, name="image")], name="vgg_small")
    for number, count in enumerate(filters, start=1):
        for part in (1, 2):
            name = f"block{number}_conv{part}"
            model.add(layers.Conv2D(count, 3, padding="same", activation="relu", name=name))
        model.add(layers.MaxPooling2D(name=f"block{number}_pool"))
    model.add(layers.Flatten(name="flatten"))
    model.add(layers.Dense(2 * filters[-1], activation="relu", name="hidden"))
    model.add(layers.Dropout(0.3, name="dropout"))
    model.add(layers.Dense(num_classes, name="classifier"))
    return model


def mobilenet_small(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    filters: tuple[int, ...] = (16, 32, 64),
) -> keras.Model:
    """Builds a MobileNetV1-like model: depthwise and 1x1 convolutions with batch normalisation.

    Args:
        input_shape: The shape (height, width, channels) of the float32 images.
        num_classes: The number of classes, and of outputs of the softmax.
        filters: The number of filters of each block. The stem has as many as the first block. Every
            block after the first halves the resolution.

    Returns:
        The functional model.
    """
    inputs = keras.Input(input_shape, name="image")
    x = layers.Conv2D(filters[0], 3, padding="same", use_bias=False, name="stem_conv")(inputs)
    x = _bn_relu6(x, "stem")
    for number, count in enumerate(filters, start=1):
        strides = 1 if number == 1 else 2
        name = f"block{number}_depthwise"
        x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False, name=name)(x)
        x = _bn_relu6(x, name)
        name = f"block{number}_pointwise"
        x = layers.Conv2D(count, 1, use_bias=False, name=name)(x)
        x = _bn_relu6(x, name)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="classifier")(x)
    return keras.Model(inputs, outputs, name="mobilenet_small")


def _bn_relu6(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x)
