"""Names with spaces, symbols and letters of other alphabets."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf import graph

_NAMES = ("conv & pool", "größe 1", "a\\b", "<b>\"x'", "層", "a:b", "%s{0}", "_", "$d", "x|y")


def odd_model() -> Any:
    inputs = x = keras.Input((8, 8, 3), name='the "input" & é')
    for name in _NAMES:
        x = keras.layers.Conv2D(4, 3, padding="same", name=name)(x)
    inner = keras.Input((8, 8, 4))
    nested = keras.Model(inner, keras.layers.ReLU(name="re lu")(inner), name="in & out")
    x = keras.layers.GlobalAveragePooling2D(name=" ")(nested(x))
    return keras.Model(inputs, keras.layers.Dense(2, name="größe")(x), name="my & model <ü>")


def test_odd_names_are_kept_by_rebuilding_and_files() -> None:
    model = odd_model()
    small = graph.rebuild(model, {"conv & pool": [0]})
    assert small.name == model.name
    assert set(_NAMES) <= {layer.name for layer in small.layers}
    graph.check_storable(small)


def test_models_of_any_names_are_trained_and_keep_them() -> None:
    model = odd_model()
    names = [layer.name for layer in model.layers]
    images = np.ones((2, 8, 8, 3), np.float32)
    expected = model(images)
    with graph.any_names():
        np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-5)
        model.compile("adam", "mse", metrics=["mae"])
        model.fit(images, np.ones((2, 2)), verbose=0)
    assert [layer.name for layer in model.layers] == names
    # Outside, TensorFlow is as it was.
    with tf.Graph().as_default(), pytest.raises(ValueError, match="scope name"):
        tf.name_scope("conv & pool").__enter__()


def test_variables_with_a_colon_in_their_names_are_copied_to_be_saved() -> None:
    model = odd_model()
    twin = graph.savable_twin(model)
    assert [one.name for one in twin.layers if "conv" in one.name] == ["conv & pool"]
    images = np.ones((1, 8, 8, 3), np.float32)
    np.testing.assert_allclose(twin(images), model(images), atol=1e-6)
    assert graph.savable_twin(twin) is twin
