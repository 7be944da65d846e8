"""Names with spaces, symbols and letters of other alphabets."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

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


def test_a_twin_with_other_names_can_be_traced() -> None:
    model = odd_model()
    names = [layer.name for layer in model.layers]
    images = np.ones((1, 8, 8, 3), np.float32)
    twin = graph.traceable_twin(model)
    graph.check_names(twin)
    np.testing.assert_allclose(twin.predict(images, verbose=0), model(images), atol=1e-5)
    assert [layer.name for layer in model.layers] == names
    assert graph.traceable_twin(twin) is twin


def test_a_run_refuses_names_that_keras_cannot_train() -> None:
    with pytest.raises(graph.GraphError, match=r"named .*'conv & pool'.*layer\.name"):
        graph.check_names(odd_model())
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="a_b.c-1")])
    graph.check_names(model)
