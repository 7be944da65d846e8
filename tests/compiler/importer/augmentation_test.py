"""Augmentation layers return their input at inference, in Keras and here."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from cprune_tf.compiler.importer import UnsupportedOperationError, import_model
from cprune_tf.graph.rules.augmentation import AUGMENTATIONS

SETTINGS = {
    "MaxNumBoundingBoxes": {"max_number": 4},
    "RandomPosterization": {"factor": 4},
    "RandomCrop": {"height": 8, "width": 8},
    "RandomTranslation": {"height_factor": 0.3, "width_factor": 0.3},
    "RandomZoom": {"height_factor": 0.3},
    **{
        f"Random{name}": {"factor": 0.3}
        for name in ("Brightness", "Contrast", "Hue", "Rotation", "Saturation", "Sharpness")
    },
    "RandomColorDegeneration": {"factor": 0.3},
}


@pytest.mark.parametrize("kind", AUGMENTATIONS, ids=[kind.__name__ for kind in AUGMENTATIONS])
def test_keras_and_the_import_return_the_input(kind):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, kind(**SETTINGS.get(kind.__name__, {}))(inputs))
    image = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(model(image, training=False), image)
    imported = import_model(model)
    (block,) = imported.mod["main"].body.blocks
    assert [
        binding.value.same_as(imported.mod["main"].params[0]) for binding in block.bindings
    ] == [True]


def test_bytes_become_what_the_layer_computes_in(check_against_keras):
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    check_against_keras(keras.Model(inputs, layers.RandomContrast(0.3)(inputs) * 0.5))


def test_a_crop_that_keras_does_not_do_at_inference_is_refused():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.RandomCrop(6, 6)(inputs))
    with pytest.raises(UnsupportedOperationError, match="passes them on unchanged"):
        import_model(model)
