"""Constants of removed channels go into the next bias where that is exact."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze, mask, plan_folding, rebuild
from tests.graph.models import choose, functional, outputs, random_inputs, relative_error

layers = keras.layers


def _bias_through_activation(x: Any) -> Any:
    x = layers.Conv2D(6, 3, activation="sigmoid")(x)
    x = layers.Conv2D(5, 3, activation="elu")(x)
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def _batch_norm(x: Any) -> Any:
    x = layers.Conv2D(6, 3, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(5, 1, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return layers.Dense(3)(layers.Flatten()(layers.MaxPooling2D()(x)))


def _no_bias_anywhere(x: Any) -> Any:
    x = layers.Conv2D(6, 3)(x)
    x = layers.Conv2D(5, 1, use_bias=False, activation="sigmoid")(x)
    return layers.Conv2D(3, 1, use_bias=False)(x)


def _residual(x: Any) -> Any:
    x = layers.Conv2D(6, 3, padding="same")(x)
    y = layers.Conv2D(6, 1)(layers.Activation("softplus")(x))
    x = layers.Add()([x, y])
    return layers.Dense(3)(layers.GlobalMaxPooling2D()(x))


def _concat_depthwise_se(x: Any) -> Any:
    a = layers.Conv2D(4, 3, activation="sigmoid")(x)
    b = layers.Conv2D(4, 3, activation="tanh")(x)
    x = layers.Concatenate()([a, b])
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    s = layers.Dense(16, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, s])
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, activation="sigmoid")(x)
    return layers.Conv2D(4, 3, groups=2)(x)


EXACT = [_bias_through_activation, _batch_norm, _no_bias_anywhere, _residual, _concat_depthwise_se]


@pytest.mark.parametrize("build", EXACT)
def test_folding_equals_the_model_with_zeroed_kernels(build: Any) -> None:
    model = functional((12, 12, 3), build)
    graph = analyze(model)
    removal = choose(graph, 0.5)
    inputs = random_inputs(model)
    assert not plan_folding(graph.propagation, graph.keep(removal)).dropped
    reference = mask(model, removal, keep_constants=True)
    assert relative_error(rebuild(model, removal), reference, inputs) < 1e-5
    plain = rebuild(model, removal, fold_constants=False)
    assert relative_error(plain, reference, inputs) > 1e-3


def test_dead_filters_are_removed_without_any_change() -> None:
    model = functional((12, 12, 3), _batch_norm)
    first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    kernel = first.get_weights()[0]
    kernel[..., [1, 4]] = 0.0
    first.set_weights([kernel])
    inputs = random_inputs(model)
    small = rebuild(model, {first.name: [1, 4]})
    assert relative_error(small, model, inputs) < 1e-5
    plain = rebuild(model, {first.name: [1, 4]}, fold_constants=False)
    assert relative_error(plain, model, inputs) > 1e-3


def test_zero_padding_drops_the_constant_and_says_so() -> None:
    def build(x: Any) -> Any:
        x = layers.Conv2D(6, 3, activation="sigmoid", name="first")(x)
        return layers.Conv2D(5, 3, padding="same", name="second")(x)

    model = functional((12, 12, 3), build)
    graph = analyze(model)
    removal = {"first": [0, 3]}
    dropped = plan_folding(graph.propagation, graph.keep(removal)).dropped
    assert [d.consumer for d in dropped] == ["second"]
    assert "zero padding" in str(dropped[0])
    bias = np.asarray(model.get_layer("first").bias)[[0, 3]]
    assert dropped[0].largest == pytest.approx((1 / (1 + np.exp(-bias))).max(), rel=1e-5)
    inputs = random_inputs(model)
    assert relative_error(rebuild(model, removal), mask(model, removal), inputs) < 1e-5


def test_a_shared_consumer_is_not_changed() -> None:
    inputs = keras.Input((8, 8, 3))
    shared = layers.Dense(4, name="shared")
    a = layers.Conv2D(6, 3, activation="sigmoid", name="a")(inputs)
    b = layers.Conv2D(6, 3, activation="sigmoid", name="b")(inputs)
    model = keras.Model(inputs, [shared(a), shared(b)])
    graph = analyze(model)
    dropped = plan_folding(graph.propagation, graph.keep({"a": [1]})).dropped
    assert {d.reason for d in dropped} == {"the layer is shared by several calls"}
    removal = {"a": [1]}
    x = random_inputs(model)
    assert relative_error(rebuild(model, removal), mask(model, removal), x) < 1e-5


def test_unknown_sizes_do_not_stop_folding() -> None:
    def build(x: Any) -> Any:
        x = layers.Conv2D(6, 3, activation="sigmoid", name="first")(x)
        x = layers.Concatenate()([x, layers.Conv2D(4, 1, activation="elu", name="second")(x)])
        tokens = layers.Reshape((-1, 10))(x)
        wide = layers.GlobalMaxPooling2D()(layers.Conv2D(3, 3)(x))
        return layers.Add()([layers.GlobalMaxPooling1D()(layers.Dense(3)(tokens)), wide])

    model = functional((None, None, 3), build)
    graph = analyze(model)
    removal = {"first": [1, 2], "second": [0]}
    dropped = plan_folding(graph.propagation, graph.keep(removal)).dropped
    assert [d.consumer.split("_")[0] for d in dropped] == ["dense"]
    small = rebuild(model, removal)
    assert outputs(small, random_inputs(model))[0].shape == (2, 3)
    partly = functional(
        (None, None, 3),
        lambda x: layers.Conv2D(3, 3)(
            layers.Concatenate()([layers.Conv2D(6, 1, activation="sigmoid", name="first")(x)] * 2)
        ),
    )
    reference = mask(partly, {"first": [1, 2]}, keep_constants=True)
    folded = rebuild(partly, {"first": [1, 2]})
    assert relative_error(folded, reference, random_inputs(partly)) < 1e-5


@pytest.mark.parametrize(
    "norm", [layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization]
)
def test_a_normalisation_over_channels_is_said_to_differ(norm: Any) -> None:
    """With its kernel zeroed a channel still counts in the statistics; removed it does not."""

    def build(x: Any) -> Any:
        return layers.Dense(2)(
            layers.Flatten()(norm(name="norm")(layers.Conv2D(6, 3, name="c")(x)))
        )

    model = functional((8, 8, 3), build)
    graph = analyze(model)
    dropped = plan_folding(graph.propagation, graph.keep({"c": [0, 4]})).dropped
    assert "norm" in {d.consumer for d in dropped}
    inputs = random_inputs(model)
    reference = mask(model, {"c": [0, 4]})
    assert relative_error(rebuild(model, {"c": [0, 4]}), reference, inputs) < 1e-5
