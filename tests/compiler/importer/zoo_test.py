"""Compares small, random models of every architecture of keras.applications with Keras."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf.compiler.importer import import_model

from .beside_keras import random_inputs
from .small_models import resnet8

QUICK = [("MobileNet", 32), ("ConvNeXtTiny", 32)]
SLOW = [
    ("ConvNeXtBase", 32),
    ("ConvNeXtLarge", 32),
    ("ConvNeXtSmall", 32),
    ("ConvNeXtXLarge", 32),
    ("DenseNet121", 32),
    ("DenseNet169", 32),
    ("DenseNet201", 32),
    ("EfficientNetB0", 32),
    ("EfficientNetB1", 32),
    ("EfficientNetB2", 32),
    ("EfficientNetB3", 32),
    ("EfficientNetB4", 32),
    ("EfficientNetB5", 32),
    ("EfficientNetB6", 32),
    ("EfficientNetB7", 32),
    ("EfficientNetV2B0", 32),
    ("EfficientNetV2B1", 32),
    ("EfficientNetV2B2", 32),
    ("EfficientNetV2B3", 32),
    ("EfficientNetV2L", 32),
    ("EfficientNetV2M", 32),
    ("EfficientNetV2S", 32),
    ("InceptionResNetV2", 75),
    ("InceptionV3", 75),
    ("MobileNetV2", 32),
    ("MobileNetV3Large", 32),
    ("MobileNetV3Small", 32),
    ("NASNetLarge", 32),
    ("NASNetMobile", 32),
    ("ResNet101", 32),
    ("ResNet101V2", 32),
    ("ResNet152", 32),
    ("ResNet152V2", 32),
    ("ResNet50", 32),
    ("ResNet50V2", 32),
    ("VGG16", 32),
    ("VGG19", 32),
    ("Xception", 71),
]


def build(name, size):
    # Random weights would saturate a softmax, which would hide differences.
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=16, classifier_activation=None
    )


def photographs(name, size, folder):
    """Reads two photographs of ImageNet's validation set and preprocesses them for a model."""
    images = [
        tf.image.resize(tf.io.decode_jpeg(path.read_bytes(), channels=3), (size, size)).numpy()
        for path in sorted(folder.rglob("*.jpg"))[:2]
    ]
    application = sys.modules[getattr(keras.applications, name).__module__]
    return [application.preprocess_input(np.stack(images))]


def test_every_architecture_is_in_the_tables():
    architectures = {name for name in dir(keras.applications) if name[0].isupper()}
    assert architectures == {name for name, _ in [*QUICK, *SLOW]}


@pytest.mark.parametrize(
    ("name", "size"), [*QUICK, *(pytest.param(*entry, marks=pytest.mark.slow) for entry in SLOW)]
)
def test_same_outputs_as_keras(name, size, shared_photographs, check_against_keras):
    keras.backend.clear_session()
    model = build(name, size)
    photos = photographs(name, size, shared_photographs)
    check_against_keras(model, random_inputs(model, 2), photos, batch_size=2)


def test_an_import_does_not_change_the_model():
    model = resnet8()
    values = [variable.numpy().copy() for variable in model.variables]
    import_model(model)
    assert all(
        (value == variable.numpy()).all()
        for value, variable in zip(values, model.variables, strict=True)
    )
