"""Inputs of any size get a size, and a fixed batch becomes a batch of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from cprune_tf import graph
from cprune_tf.graph import GraphError


def _any_size() -> keras.Model:
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(image)
    up = layers.UpSampling2D(name="up")(layers.MaxPooling2D(name="down")(x))
    inner = keras.Input((None, None, 8))
    nested = keras.Model(inner, layers.ReLU(name="relu")(inner), name="nested")
    x = nested(layers.Concatenate(name="skip")([x, up]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(2, name="head")(x), name="mine")
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def test_a_copy_of_one_size_computes_the_same_and_keeps_names_and_compile_state() -> None:
    model = _any_size()
    model.get_layer("conv").trainable = False
    fixed = graph.fix_inputs(model, {"": (18, 18, 3)})
    assert fixed.input_shape == (None, 18, 18, 3) and model.input_shape == (None, None, None, 3)
    assert (fixed.name, fixed.compiled, fixed.loss) == ("mine", True, "mse")
    assert not fixed.get_layer("conv").trainable
    images = np.random.default_rng(0).random((2, 18, 18, 3), np.float32)
    np.testing.assert_allclose(fixed(images), model(images), atol=1e-6)
    remark = graph.fixing_remark(model, fixed)
    assert "'image' from (None, None, None, 3) to (None, 18, 18, 3)" in remark
    assert graph.fix_inputs(fixed, {"image": (18, 18, 3)}) is fixed
    assert not graph.fixing_remark(fixed, fixed) and not graph.unknown_sizes(fixed)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"": (18, 18, 1)},
            r"\(18, 18, 1\) for the input 'image'.*None, 3\).*that the model fixes",
        ),
        ({"": (1, 18, 18, 3)}, "expected 3 sizes without the batch"),
        ({"picture": (18, 18, 3)}, r"shapes for \['picture'\].*has the inputs \['image'\]"),
        ({"": (17, 17, 3)}, r"'skip' \(Concatenate\) cannot take.*\(None, 17, 17, 3\): "),
        ({"": (2, 18, 3)}, r"'conv' \(Conv2D\) cannot take"),
    ],
)
def test_a_shape_that_does_not_fit_is_one_error(shapes: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        graph.fix_inputs(_any_size(), shapes)


def test_one_of_several_inputs_is_fixed_by_its_name() -> None:
    signal, vector = keras.Input((None, 2), name="signal"), keras.Input((8,), name="vector")
    pooled = layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3)(signal))
    model = keras.Model([signal, vector], layers.Concatenate()([pooled, vector]))
    assert "e.g. --input_shape='signal=224,2' (" in graph.unknown_sizes(model)
    said = graph.unknown_sizes(model, [(32, 2), (8,)])
    assert "with --input_shape='signal=32,2', the shape of the data" in said
    fixed = graph.fix_inputs(model, {"signal": (32, 2)})
    assert [tuple(tensor.shape) for tensor in fixed.inputs] == [(None, 32, 2), (None, 8)]
    with pytest.raises(GraphError, match=r"a shape without a name.*'signal', 'vector'"):
        graph.fix_inputs(model, {"": (32, 2)})


@pytest.mark.parametrize("batch", [1, 8])
def test_a_fixed_batch_becomes_free(batch: int) -> None:
    image = keras.Input(batch_shape=(batch, 8, 8, 3))
    x = layers.Reshape((8, 24))(layers.Flatten()(image))
    x = keras.ops.transpose(keras.ops.transpose(x, (1, 0, 2)), (1, 0, 2))
    x = keras.ops.reshape(x, (-1, 192)) + np.ones((1, 192), np.float32)
    model = keras.Model(image, layers.Dense(2)(x))
    fixed = graph.fix_inputs(model)
    assert (fixed.input_shape, fixed.output_shape) == ((None, 8, 8, 3), (None, 2))
    images = np.random.default_rng(0).random((3 * batch, 8, 8, 3), np.float32)
    expected = [model(images[i * batch : (i + 1) * batch]) for i in range(3)]
    np.testing.assert_allclose(fixed(images), np.concatenate(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: keras.ops.reshape(x, (8, -1)), "Reshape"),
        (lambda x: x + np.ones((8, 4, 6), np.float32), "Add"),
        (lambda x: keras.ops.broadcast_to(x, (8, 4, 6)), "BroadcastTo"),
        (lambda x: layers.LSTM(4, stateful=True)(x), "LSTM"),
    ],
)
def test_what_is_made_for_one_batch_size_is_refused_by_name(
    function: Callable[[Any], Any], name: str
) -> None:
    given = keras.Input(batch_shape=(8, 4, 6))
    model = keras.Model(given, layers.Dense(2)(function(given)))
    with pytest.raises(
        GraphError, match=rf"The layer or function '\w+' \({name}\) (is made|cannot)"
    ):
        graph.fix_inputs(model)
