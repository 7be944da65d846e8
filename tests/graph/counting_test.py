"""Counts of parameters and work, against counts by hand."""

from __future__ import annotations

from typing import Any

import keras
import pytest

from cprune_tf.graph import analyze, group_statistics, rebuild, statistics
from tests.graph.models import functional

layers = keras.layers

CASES: list[tuple[Any, int, int]] = [
    (layers.Conv2D(8, 3), 3 * 3 * 4 * 8 + 8, 8 * 8 * 3 * 3 * 4 * 8),
    (layers.Conv2D(8, 3, strides=2, padding="same", groups=2), 3 * 3 * 2 * 8 + 8, 25 * 9 * 2 * 8),
    (layers.DepthwiseConv2D(3, depth_multiplier=2), 9 * 8 + 8, 64 * 9 * 8),
    (layers.SeparableConv2D(6, 3), 9 * 4 + 4 * 6 + 6, 64 * (9 * 4 + 4 * 6)),
    (layers.Conv2DTranspose(5, 2, strides=2), 4 * 4 * 5 + 5, 100 * 4 * 4 * 5),
    (layers.Dense(7), 4 * 7 + 7, 100 * 4 * 7),
    (layers.BatchNormalization(), 16, 0),
    (layers.ReLU(), 0, 0),
]


@pytest.mark.parametrize(("layer", "params", "macs"), CASES)
def test_counts_by_hand(layer: Any, params: int, macs: int) -> None:
    inputs = keras.Input((10, 10, 4))
    model = keras.Model(inputs, layer(inputs))
    counted = statistics(model)
    assert (counted.params, counted.macs) == (params, macs)
    assert counted.params == model.count_params()
    assert counted.weight_bytes == 4 * params
    elements = 1
    for size in model.output_shape[1:]:
        elements *= size
    assert counted.activation_bytes == 4 * elements


def test_a_shared_layer_works_twice_and_is_stored_once() -> None:
    a, b = keras.Input((5,)), keras.Input((5,))
    shared = layers.Dense(3, name="shared")
    counted = statistics(keras.Model([a, b], layers.Add()([shared(a), shared(b)])))
    assert counted["shared"].macs == 30
    assert counted["shared"].params == 18
    with pytest.raises(KeyError, match="nothing"):
        counted["nothing"]


def test_unknown_sizes_are_said_to_be_unknown() -> None:
    inputs = keras.Input((None, None, 3))
    counted = statistics(keras.Model(inputs, layers.Conv2D(4, 3)(inputs)))
    assert counted.macs is None
    assert counted.params == 112


def test_group_counts_are_what_a_removal_saves() -> None:
    def build(x: Any) -> Any:
        x = layers.Conv2D(8, 3, use_bias=False, name="conv")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return layers.Dense(3)(layers.Flatten()(x))

    model = functional((10, 10, 3), build)
    graph = analyze(model)
    group = next(g for g in group_statistics(graph) if g.name == "conv")
    small = rebuild(model, {"conv": [0, 5]})
    before, after = statistics(model), statistics(small)
    assert before.params - after.params == group.params * 2 // 8
    assert before.macs is not None and after.macs is not None and group.macs is not None
    assert before.macs - after.macs == group.macs * 2 // 8
    assert before.activation_bytes is not None and after.activation_bytes is not None
    assert group.activation_bytes is not None
    assert before.activation_bytes - after.activation_bytes == group.activation_bytes * 2 // 8
    assert before.weight_bytes - after.weight_bytes == group.weight_bytes * 2 // 8
