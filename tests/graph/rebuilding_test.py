"""Rebuilding removes channels; masking is what it must equal."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import GraphError, analyze, functional_twin, mask, rebuild
from cprune_tf.graph.flat import flatten
from tests.graph.models import (
    choose,
    functional,
    random_inputs,
    randomise,
    relative_error,
)

layers = keras.layers


def _plain(x: Any) -> Any:
    x = layers.Conv2D(8, 3, activation="relu", name="first")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="sigmoid", name="second")(x)
    return layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x))


def _residual(x: Any) -> Any:
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    y = layers.BatchNormalization()(x)
    y = layers.ReLU()(y)
    y = layers.Conv2D(8, 3, padding="same", name="branch")(y)
    x = layers.Add(name="sum")([x, y])
    return layers.Dense(3)(layers.Flatten()(layers.MaxPooling2D()(x)))


def _dense_concat(x: Any) -> Any:
    a = layers.Conv2D(4, 3, padding="same", name="a")(x)
    b = layers.Conv2D(6, 3, padding="same", name="b")(a)
    x = layers.Concatenate()([a, b])
    x = layers.BatchNormalization()(x)
    x = layers.Activation("softplus")(x)
    return layers.Conv2D(2, 1, name="head")(x)


def _depthwise(x: Any) -> Any:
    x = layers.Conv2D(6, 3, name="stem")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="sigmoid")(x)
    x = layers.SeparableConv2D(10, 3, depth_multiplier=3, name="separable")(x)
    x = layers.ReLU()(x)
    return layers.Dense(3)(layers.GlobalMaxPooling2D()(x))


def _squeeze_excite(x: Any) -> Any:
    x = layers.Conv2D(8, 3, name="stem")(x)
    s = layers.GlobalAveragePooling2D()(x)
    s = layers.Dense(4, activation="relu", name="reduce")(s)
    s = layers.Dense(8, activation="sigmoid", name="expand")(s)
    s = layers.Reshape((1, 1, 8))(s)
    x = layers.Multiply()([x, s])
    return layers.Dense(3)(layers.Flatten()(x))


def _grouped(x: Any) -> Any:
    x = layers.Conv2D(12, 1, name="widen")(x)
    x = layers.Conv2D(8, 3, groups=2, activation="sigmoid", name="grouped")(x)
    x = layers.Conv2D(8, 3, groups=8, name="like_depthwise")(x)
    x = layers.Conv2D(16, 1, groups=8, name="twice")(x)
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def _transposed(x: Any) -> Any:
    x = layers.Conv2D(6, 3, strides=2, name="down")(x)
    x = layers.Conv2DTranspose(5, 3, strides=2, activation="tanh", name="up")(x)
    x = layers.ZeroPadding2D()(x)
    x = layers.Cropping2D()(layers.UpSampling2D()(x))
    return layers.Conv2D(2, 1)(x)


def _raw_operations(x: Any) -> Any:
    x = layers.Conv2D(8, 3, name="stem")(x)
    x = keras.ops.relu(x + np.linspace(-1, 1, 8).astype("float32")) * 2.0
    y = keras.ops.sigmoid(layers.Conv2D(8, 1, name="gate")(x))
    return layers.Dense(3)(layers.Flatten()(keras.ops.multiply(x, y)))


BUILDERS = [
    _plain,
    _residual,
    _dense_concat,
    _depthwise,
    _squeeze_excite,
    _grouped,
    _transposed,
    _raw_operations,
]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("fraction", [0.3, 0.6])
def test_rebuilt_equals_masked(build: Any, fraction: float) -> None:
    model = functional((12, 12, 3), build)
    graph = analyze(model)
    removal = choose(graph, fraction)
    assert removal
    small = rebuild(model, removal, fold_constants=False)
    inputs = random_inputs(model)
    assert small.count_params() < model.count_params()
    assert relative_error(small, mask(model, removal), inputs) < 1e-5
    assert relative_error(small, model, inputs) > 1e-3


def test_one_removed_filter_is_the_right_one() -> None:
    model = functional((8, 8, 3), _plain)
    small = rebuild(model, {"first": [2]}, fold_constants=False)
    kernel = model.get_layer("first").get_weights()[0]
    np.testing.assert_array_equal(
        small.get_layer("first").get_weights()[0], np.delete(kernel, 2, axis=-1)
    )
    following = model.get_layer("second").get_weights()[0]
    np.testing.assert_array_equal(
        small.get_layer("second").get_weights()[0], np.delete(following, 2, axis=2)
    )


def test_the_original_is_untouched() -> None:
    model = functional((8, 8, 3), _residual)
    inputs = random_inputs(model)
    before = [np.asarray(w).copy() for w in model.weights]
    calls = {op.name: len(op._inbound_nodes) for op in model.operations}
    output = np.asarray(model(inputs))
    rebuild(model, choose(analyze(model)))
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, np.asarray(weight))
    assert calls == {op.name: len(op._inbound_nodes) for op in model.operations}
    np.testing.assert_array_equal(output, np.asarray(model(inputs)))


def test_sequential_and_nested_models_are_inlined() -> None:
    backbone = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(8, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
        ],
        name="backbone",
    )
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(3, 1, padding="same", name="conv")(inputs)
    x = layers.ReLU()(backbone(x, training=False))
    model = randomise(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    graph = analyze(model)
    assert {"conv", "backbone_conv"} <= {group.name for group in graph.groups}
    removal = choose(graph)
    small = rebuild(model, removal, fold_constants=False)
    inputs = random_inputs(model)
    assert relative_error(small, mask(model, removal), inputs) < 1e-5
    assert relative_error(functional_twin(model), model, inputs) < 1e-6
    assert not any(isinstance(layer, keras.Model) for layer in small.layers)


@pytest.mark.parametrize(
    ("removal", "message"),
    [
        ({"frist": [0]}, "Did you mean first"),
        ({"first": [8]}, "expected 0 to 7"),
        ({"first": [-1]}, "expected 0 to 7"),
        ({"first": [1, 1]}, "twice"),
        ({"first": [0.5]}, "integers"),
        ({"first": list(range(8))}, "without channels"),
        ({"head": [0]}, "reaches the model's output"),
    ],
)
def test_an_impossible_removal_is_refused(removal: Any, message: str) -> None:
    model = functional((12, 12, 3), _plain)
    with pytest.raises(GraphError, match=message):
        rebuild(model, removal)


def test_a_nested_model_called_twice_shares_its_channels() -> None:
    shape = (10, 10, 3)
    image = keras.Input(shape)
    x = layers.Conv2D(6, 3, name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(5, 3, activation="sigmoid", name="last")(x)
    tower = keras.Model(image, [x, layers.GlobalMaxPooling2D()(x)], name="tower")
    left, right = keras.Input(shape, name="left"), keras.Input(shape, name="right")
    (a, pooled), (b, _) = tower(left, training=False), tower(right, training=False)
    head = layers.Dense(2)(layers.Flatten()(layers.Subtract()([a, b])))
    model = randomise(keras.Model([left, right], [head, layers.Dense(2)(pooled)]))
    graph = analyze(model)
    assert {group.name for group in graph.prunable} == {"conv", "last"}
    small = rebuild(model, choose(graph, 0.4), fold_constants=False)
    inputs = random_inputs(model)
    assert relative_error(small, mask(model, choose(graph, 0.4)), inputs) < 1e-5
    # The tower was called in inference mode; so are its inlined layers.
    recorded = [call.kwargs.get("training") for call in flatten(small).calls if call.name == "bn"]
    assert recorded == [False, False]


def test_the_global_seed_is_left_alone() -> None:
    model = functional((8, 8, 3), _plain)
    drawn = []
    for prune in (True, False):
        keras.utils.set_random_seed(7)
        if prune:
            rebuild(model, {"first": [0]})
        drawn.append(np.asarray(keras.random.normal((3,))))
    np.testing.assert_array_equal(*drawn)


def test_one_channel_layers_are_protected() -> None:
    def build(x: Any) -> Any:
        x = layers.Conv2D(6, 3, name="wide")(x)
        gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="gate")(x)
        return layers.Dense(2)(layers.Flatten()(layers.Multiply()([x, gate])))

    model = functional((8, 8, 3), build)
    graph = analyze(model)
    assert graph["gate"].protected is not None
    assert graph["wide"].protected is None
    removal = {"wide": [0, 1, 2, 3, 4]}
    small = rebuild(model, removal, fold_constants=False)
    inputs = random_inputs(model)
    assert relative_error(small, mask(model, removal), inputs) < 1e-5
    assert analyze(small)["wide"].protected == "has only one unit"
