"""ResNet-8, modelled on the image classification model of MLPerf Tiny."""

from __future__ import annotations

import keras
from keras import layers

_STACK_FILTERS = (16, 32, 64)


def resnet8(input_shape: tuple[int, int, int] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """Builds a ResNet-8: a stem, three residual stacks of 16, 32 and 64 filters, and a classifier.

    The second and third stack halve the resolution and have a 1x1 convolution in their shortcut.
    The weights depend on Keras' global random state: for reproducible ones, call
    `keras.utils.set_random_seed` before.

    Args:
        input_shape: The shape (height, width, channels) of the float32 images.
        num_classes: The number of classes, and of outputs of the softmax.

    Returns:
        A functional model with readable layer names (`stack2_conv1`, `stack2_bn1`, ...).
    """
    inputs = keras.Input(input_shape, name="image")
    x = _conv_bn(inputs, _STACK_FILTERS[0], "stem_conv", "stem_bn")
    x = layers.ReLU(name="stem_relu")(x)
    for number, filters in enumerate(_STACK_FILTERS, start=1):
        x = _stack(x, filters, f"stack{number}", strides=1 if number == 1 else 2)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="classifier")(x)
    return keras.Model(inputs, outputs, name="resnet8")


def _stack(x: keras.KerasTensor, filters: int, name: str, strides: int) -> keras.KerasTensor:
    y = _conv_bn(x, filters, f"{name}_conv1", f"{name}_bn1", strides=strides)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _conv_bn(y, filters, f"{name}_conv2", f"{name}_bn2")
    if strides != 1:
        x = _conv_bn(
            x, filters, f"{name}_shortcut_conv", f"{name}_shortcut_bn", kernel=1, strides=strides
        )
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _conv_bn(
    x: keras.KerasTensor,
    filters: int,
    conv_name: str,
    bn_name: str,
    *,
    kernel: int = 3,
    strides: int = 1,
) -> keras.KerasTensor:
    x = layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=conv_name,
    )(x)
    # Keras' default momentum is 0.99. With 0.9, the moving statistics catch up with the weights in
    # a short training of a few hundred steps.
    return layers.BatchNormalization(momentum=0.9, name=bn_name)(x)
