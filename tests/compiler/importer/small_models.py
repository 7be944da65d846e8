"""Builders of small models of the usual families."""

from __future__ import annotations

import keras
from keras import layers


def conv_bn(x, filters, name, *, kernel=3, strides=1, relu=True):
    x = layers.Conv2D(
        filters, kernel, strides=strides, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def residual_block(x, filters, name, strides=1):
    shortcut = x
    y = conv_bn(x, filters, f"{name}_a", strides=strides)
    y = conv_bn(y, filters, f"{name}_b", relu=False)
    if strides != 1:
        shortcut = layers.Conv2D(
            filters, 1, strides=strides, padding="same", name=f"{name}_shortcut"
        )(x)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([shortcut, y]))


def resnet8():
    inputs = keras.Input((32, 32, 3), name="image")
    x = conv_bn(inputs, 16, "stem")
    x = residual_block(x, 16, "s1")
    x = residual_block(x, 32, "s2", strides=2)
    x = residual_block(x, 64, "s3", strides=2)
    x = layers.AveragePooling2D(8, name="pool")(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x))


def vgg():
    return keras.Sequential(
        [
            keras.Input((32, 32, 3), name="image"),
            layers.Rescaling(1 / 127.5, offset=-1.0),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.4),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(scale=False),
            layers.ReLU(),
            layers.MaxPooling2D(3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dense(32),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )


def mobilenet():
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="stem_pad")(inputs)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem_conv")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    for index, (filters, strides) in enumerate([(16, 1), (24, 2), (24, 1)]):
        x = layers.DepthwiseConv2D(
            3, strides=strides, padding="same", use_bias=False, name=f"dw{index}"
        )(x)
        x = layers.BatchNormalization(name=f"dw{index}_bn")(x)
        x = layers.ReLU(6.0, name=f"dw{index}_relu")(x)
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"pw{index}")(x)
        x = layers.BatchNormalization(name=f"pw{index}_bn")(x)
        x = layers.ReLU(6.0, name=f"pw{index}_relu")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = layers.Conv2D(10, 1, name="classes")(x)
    x = layers.Softmax(name="softmax")(layers.Reshape((10,), name="shape")(x))
    return keras.Model(inputs, x)
