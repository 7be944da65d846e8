from __future__ import annotations

import keras
import pytest

from cprune_tf.config import ConfigError
from cprune_tf.models import shape_and_classes


def _model(size, dtype="float32"):
    image = keras.Input((size, size, 3), dtype=dtype)
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_classifier_takes_pixels_of_any_type(dtype):
    assert shape_and_classes(_model(8, dtype)) == ((8, 8, 3), 2)


def test_the_refusal_of_an_unknown_size_names_the_flag():
    with pytest.raises(ConfigError, match=r"\(None, None, None, 3\).*--input_shape=224,224,3"):
        shape_and_classes(_model(None))
