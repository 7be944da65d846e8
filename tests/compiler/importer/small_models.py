"""Builders of small models of the usual architectures."""

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


def unet():
    """Builds an encoder and a decoder with transposed convolutions and skip connections."""
    inputs = keras.Input((16, 16, 3), name="image")
    top = conv_bn(inputs, 8, "down1")
    x = layers.MaxPooling2D(name="pool1")(top)
    middle = conv_bn(x, 16, "down2")
    x = conv_bn(layers.MaxPooling2D(name="pool2")(middle), 32, "bottom")
    x = layers.Conv2DTranspose(16, 2, strides=2, padding="same", name="up2")(x)
    x = conv_bn(layers.Concatenate(name="skip2")([x, middle]), 16, "left2")
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="up1")(x)
    x = conv_bn(layers.Concatenate(name="skip1")([x, top]), 8, "left1")
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x))


def conv1d_classifier():
    """Builds a classifier with convolutions over time."""
    inputs = keras.Input((64, 4), name="signal")
    x = layers.Conv1D(8, 5, strides=2, padding="same", use_bias=False, name="conv1")(inputs)
    x = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1")(x))
    x = layers.MaxPooling1D(2, name="pool")(x)
    x = layers.SeparableConv1D(16, 3, padding="same", name="conv2")(x)
    x = layers.ReLU(name="relu2")(layers.BatchNormalization(name="bn2")(x))
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="classes")(x))


def transformer():
    """Builds one encoder block over token embeddings."""
    inputs = keras.Input((12,), dtype="int32", name="tokens")
    x = layers.Embedding(32, 16, name="embedding")(inputs)
    y = layers.LayerNormalization(name="norm1")(x)
    y = layers.MultiHeadAttention(num_heads=2, key_dim=8, dropout=0.1, name="attention")(y, y)
    x = layers.Add(name="add1")([x, y])
    y = layers.LayerNormalization(name="norm2")(x)
    y = layers.Dense(32, activation="gelu", name="wide")(y)
    y = layers.Dropout(0.1, name="drop")(layers.Dense(16, name="narrow")(y))
    x = layers.GlobalAveragePooling1D(name="mean")(layers.Add(name="add2")([x, y]))
    return keras.Model(inputs, layers.Dense(3, name="classes")(x))
