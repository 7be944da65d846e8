"""Small models whose layers TFMOT's Keras must compute alike, and data to train them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf.baselines.tfmot import running
from cprune_tf.baselines.tfmot.errors import TfmotError
from cprune_tf.config import from_mapping
from cprune_tf.data import ImageData
from cprune_tf.data.pipeline import array_batches

layers = keras.layers


def is_installed() -> bool:
    try:
        running.require_packages()
    except TfmotError:
        return False
    return True


needs_tfmot = pytest.mark.skipif(
    not is_installed(), reason='TFMOT is not installed (pip install "cprune_tf[tfmot]")'
)


def residual() -> keras.Model:
    """As a ResNet: sums, strides, explicit padding, max pooling, a nested model, a shared layer."""
    image = keras.Input((16, 16, 3), name="image")
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, kernel_regularizer="l2", name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="a b")(x))
    inside = keras.Input((8, 8, 8))
    y = layers.Conv2D(8, 3, padding="same", activation="silu")(inside)
    x = layers.Add()([x, keras.Model(inside, layers.BatchNormalization()(y), name="branch")(x)])
    shared = layers.Conv2D(8, 1, activation="relu6")
    x = layers.Concatenate()([shared(x), shared(layers.MaxPooling2D(3, 1, padding="same")(x))])
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    return keras.Model(image, layers.Dense(4, activation="softmax")(x), name="residual")


def depthwise() -> keras.Model:
    """As a MobileNet: depthwise and separable convolutions, gates, ReLU6, logits."""
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Rescaling(2.0, -1.0)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = layers.ReLU(6.0)(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9, scale=False)(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(gate)])
    x = layers.SeparableConv2D(16, 3, padding="same", activation="gelu")(x)
    x = layers.Dropout(0.2)(layers.GlobalMaxPooling2D()(x))
    return keras.Model(image, layers.Dense(4)(x), name="depthwise")


def randomised(model: keras.Model) -> keras.Model:
    """Gives every weight a value that is neither its default nor zero."""
    generator = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(generator.uniform(0.05, 0.4, variable.shape))
    return model


def images(input_shape=(16, 16, 3), count=64) -> ImageData:
    """Random images in four classes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, *input_shape)).astype(np.uint8)
    labels = (np.arange(count) % 4).astype(np.int32)
    return ImageData(
        name="random",
        input_shape=input_shape,
        num_classes=4,
        class_names=(),
        test_images=pixels.astype(np.float32) / 255,
        test_labels=labels,
        num_train=count,
        train_dataset=array_batches(pixels, labels, CONFIG.data),
    )


CONFIG = from_mapping(
    {
        "data": {"batch_size": 8},
        "tfmot": {"sparsity": 0.75},
        "training": {
            "short_term": {"epochs": 1},
            "long_term": {"epochs": 2, "schedule": "cosine", "warmup_epochs": 0.5},
        },
    }
)
