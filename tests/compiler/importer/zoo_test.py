"""Every architecture of keras.applications with random weights at a small size, against Keras.

Of ConvNeXt only the sizes that fit into a small machine's memory: the others repeat their blocks.
"""

from __future__ import annotations

import keras
import pytest

from cprune_tf.compiler.importer import import_model

from .small_models import resnet8

QUICK = [("MobileNet", 32), ("ConvNeXtTiny", 32)]
SLOW = [
    ("ConvNeXtSmall", 32),
    ("DenseNet121", 32),
    ("DenseNet169", 32),
    ("DenseNet201", 32),
    ("EfficientNetB0", 32),
    ("EfficientNetB1", 32),
    ("EfficientNetB2", 32),
    ("EfficientNetB3", 32),
    ("EfficientNetB4", 32),
    ("EfficientNetB7", 32),
    ("EfficientNetV2B0", 32),
    ("EfficientNetV2B3", 32),
    ("EfficientNetV2S", 32),
    ("EfficientNetV2M", 32),
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
    # Without the softmax: random weights saturate it, and then everything looks equal.
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=16, classifier_activation=None
    )


@pytest.mark.parametrize(
    ("name", "size"), [*QUICK, *(pytest.param(*entry, marks=pytest.mark.slow) for entry in SLOW)]
)
def test_same_outputs_as_keras(name, size, check_against_keras):
    keras.backend.clear_session()
    check_against_keras(build(name, size))


def test_an_import_does_not_change_the_model():
    model = resnet8()
    before = [variable.numpy().copy() for variable in model.variables]
    import_model(model)
    assert all((b == v.numpy()).all() for b, v in zip(before, model.variables, strict=True))
