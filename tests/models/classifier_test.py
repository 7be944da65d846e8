from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf.config import ConfigError
from cprune_tf.models import shape_and_classes


def test_inputs_of_whole_numbers_are_refused_with_a_way_out_that_works():
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ConfigError, match=r"type uint8; expected float32.*clone_model"):
        shape_and_classes(model)
    # What the message says to do.
    copy = keras.models.clone_model(model, input_tensors=keras.Input(model.input_shape[1:]))
    copy.set_weights(model.get_weights())
    assert shape_and_classes(copy) == ((8, 8, 3), 2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))
    expected = model(pixels.astype(np.uint8))
    np.testing.assert_allclose(copy(pixels.astype(np.float32)), expected, rtol=1e-5, atol=1e-6)
