"""Layers of sequences and videos: attention with groups, EinsumDense, TimeDistributed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze, mask, plan_folding, rebuild, statistics
from tests.graph.models import choose, functional, random_inputs, relative_error

layers = keras.layers
_attend, _einsum, _steps = layers.GroupQueryAttention, layers.EinsumDense, layers.TimeDistributed


def _twice(layer: Any) -> Callable[[Any], Any]:
    return lambda x: layer(x, x)


def _heads_and_back(x: Any) -> Any:
    x = _einsum("abc,cde->abde", (7, 4, 6), bias_axes="de", name="split")(x)
    return _einsum("abde,dec->abc", (None, 8), bias_axes="c", name="join")(x)


TOKENS = {
    "grouped_queries": _twice(_attend(5, 6, 3, name="gqa")),
    "grouped_queries_residual": lambda x: x + _attend(5, 6, 3, name="gqa")(x, x),
    "one_value_head": _twice(_attend(5, 6, 1, name="gqa")),
    "gated": _twice(_attend(5, 6, 2, use_gate=True, name="gqa")),
    "gated_heads": _twice(layers.MultiHeadAttention(4, 5, use_gate=True)),
    "einsum": _einsum("abc,cd->abd", (None, 9), bias_axes="d", activation="relu"),
    "einsum_elided_left": _einsum("...c,cd->...d", 9, bias_axes="d"),
    "einsum_elided_right": lambda x: layers.Permute((2, 1))(
        _einsum("ac...,cd->ad...", 9, bias_axes="d")(layers.Permute((2, 1))(x))
    ),
    "einsum_heads": _heads_and_back,
    "einsum_scale": _einsum("abc,c->abc", (None, 12), bias_axes="c"),
    "einsum_over_time": _einsum("abc,bd->adc", (9, 12), bias_axes="d"),
    "steps_of_dense": _steps(layers.Dense(9, activation="tanh")),
}
VIDEO = {
    "conv": _steps(layers.Conv2D(5, 3, activation="relu", name="inside"), name="outside"),
    "batch_norm_depthwise": lambda x: _steps(layers.DepthwiseConv2D(3, depth_multiplier=2))(
        _steps(layers.BatchNormalization())(x)
    ),
    "layer_norm": _steps(layers.LayerNormalization()),
    "group_norm": _steps(layers.GroupNormalization(3)),
    "flatten_dense": lambda x: _steps(layers.Dense(7))(_steps(layers.Flatten())(x)),
    "reshape": _steps(layers.Reshape((36, 6))),
}


def _token_model(name: str) -> Any:
    def build(x: Any) -> Any:
        x = TOKENS[name](layers.Dense(12, activation="sigmoid", name="before")(x))
        return layers.Dense(3)(layers.GlobalAveragePooling1D()(x))

    return functional((7, 5), build)


def _video_model(name: str) -> Any:
    def build(x: Any) -> Any:
        x = VIDEO[name](layers.Conv3D(6, 1, activation="sigmoid", name="before")(x))
        return layers.Dense(3)(layers.Flatten()(x))

    return functional((3, 6, 6, 2), build)


@pytest.mark.parametrize(
    "make",
    [lambda n=n: _token_model(n) for n in TOKENS] + [lambda n=n: _video_model(n) for n in VIDEO],
    ids=[*TOKENS, *VIDEO],
)
def test_masked_equals_rebuilt(make: Callable[[], Any], tmp_path: Any) -> None:
    model = make()
    model.save(tmp_path / "model.keras")
    for given in (model, keras.models.load_model(tmp_path / "model.keras")):
        graph = analyze(given)
        assert graph["before"].protected is None
        removal = choose(graph, 0.4)
        small = rebuild(given, removal, fold_constants=False)
        inputs = random_inputs(model)
        assert relative_error(small, mask(given, removal), inputs) < 1e-5
        assert small.count_params() < model.count_params()
    small.save(tmp_path / "small.keras")
    assert relative_error(keras.models.load_model(tmp_path / "small.keras"), small, inputs) < 1e-6


def test_a_unit_is_a_value_head_with_its_query_heads() -> None:
    model = _token_model("grouped_queries_residual")
    graph = analyze(model)
    assert graph["gqa/heads"].num_channels == 3
    assert graph["before"].producers == ("before", "gqa")
    old = model.get_layer("gqa").get_weights()
    new = rebuild(model, {"gqa/heads": [1]}, fold_constants=False).get_layer("gqa").get_weights()
    np.testing.assert_array_equal(new[0], np.delete(old[0], [2, 3], axis=1))
    np.testing.assert_array_equal(new[2], np.delete(old[2], 1, axis=1))
    shared = analyze(_token_model("one_value_head"))
    assert shared["gqa/heads"].num_channels == 6


def test_value_biases_of_removed_heads_are_folded() -> None:
    removal = {"gqa/heads": [0, 2]}
    model = _token_model("grouped_queries")
    reference = mask(model, removal, keep_constants=True)
    inputs = random_inputs(model)
    assert relative_error(rebuild(model, removal), reference, inputs) < 1e-5
    plain = rebuild(model, removal, fold_constants=False)
    assert relative_error(plain, reference, inputs) > 1e-3
    graph = analyze(_token_model("one_value_head"))
    dropped = plan_folding(graph.propagation, graph.keep(removal)).dropped
    assert [d.reason for d in dropped] == ["the heads share one value head"]


def test_axes_that_an_equation_makes_are_groups_of_their_own() -> None:
    graph = analyze(_token_model("einsum_heads"))
    units = {group.name: group.num_channels for group in graph.prunable}
    assert units == {"before": 12, "split": 6, "split/d": 4, "join": 8}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (_einsum("abc,cd->abd", (None, 9), activation="softmax"), "may mix channels"),
        (_steps(keras.Sequential([keras.Input((12,)), layers.Dense(4)])), "has no rule"),
        (_steps(layers.Lambda(lambda x: x)), "has no rule"),
    ],
)
def test_what_is_not_followed_is_protected(layer: Any, reason: str) -> None:
    x = keras.Input((7, 5))
    y = layer(layers.Dense(12, name="before")(x))
    graph = analyze(keras.Model(x, layers.Dense(3)(y)))
    assert reason in " ".join(group.protected or "" for group in graph.groups)


def test_counts_by_hand() -> None:
    x = keras.Input((7, 12))
    y = _steps(layers.Dense(12), name="steps")(_attend(5, 6, 3, name="gqa")(x, x))
    y = _einsum("abc,cde->abde", (7, 4, 6), name="split")(y)
    counted = statistics(keras.Model(x, y))
    projections = 7 * 12 * 5 * (6 + 6 + 3 + 3)
    assert counted["gqa"].macs == projections + 2 * 7 * 7 * 6 * 5
    assert counted["steps"].macs == 7 * 12 * 12
    assert counted["split"].macs == 7 * 12 * 4 * 6
