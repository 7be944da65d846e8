"""Every kind of layer and operation: masked equals rebuilt, channels are found, files load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import analyze, mask, rebuild
from tests.graph.models import choose, functional, random_inputs, randomise, relative_error

layers, ops = keras.layers, keras.ops


def _conv(x: Any, filters: int = 8, **kwargs: Any) -> Any:
    return layers.Conv2D(filters, 3, padding="same", **kwargs)(x)


def _then(operation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A convolution, the operation, a consumer that reads everything."""
    return lambda x: layers.Dense(3)(layers.Flatten()(operation(_conv(x, name="conv"))))


def _with_second(operation: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    def build(x: Any) -> Any:
        first = _conv(x, name="conv")
        second = _conv(layers.ReLU()(first), activation="sigmoid", name="second")
        return layers.Dense(3)(layers.Flatten()(operation(first, second)))

    return build


ONE = {
    "relu": layers.ReLU(6.0, 0.1, 0.2),
    "leaky": layers.LeakyReLU(),
    "elu": layers.ELU(),
    "prelu": layers.PReLU(alpha_initializer="uniform"),
    "prelu_shared": layers.PReLU(alpha_initializer="uniform", shared_axes=[1, 2]),
    "gelu": layers.Activation("gelu"),
    "exponential": layers.Activation("exponential"),
    "batch_norm": layers.BatchNormalization(),
    "layer_norm": layers.LayerNormalization(),
    "layer_norm_3": layers.LayerNormalization(axis=[1, 2, 3]),
    "rms_norm": layers.RMSNormalization(),
    "group_norm": layers.GroupNormalization(4),
    "group_norm_1": layers.GroupNormalization(1),
    "instance_norm": layers.GroupNormalization(-1),
    "unit_norm": layers.UnitNormalization(),
    "rescaling": layers.Rescaling(0.5, 1.0),
    "dropout": layers.Dropout(0.5),
    "spatial_dropout": layers.SpatialDropout2D(0.5),
    "max_pool": layers.MaxPooling2D(),
    "average_pool_same": layers.AveragePooling2D(3, padding="same"),
    "zero_padding": layers.ZeroPadding2D(1),
    "cropping": layers.Cropping2D(1),
    "up_sampling": layers.UpSampling2D(2, interpolation="bilinear"),
    "resizing": layers.Resizing(5, 6),
    "resizing_with_padding": layers.Resizing(5, 6, pad_to_aspect_ratio=True, fill_value=2.0),
    "center_crop": layers.CenterCrop(5, 5),
    "global_keepdims": layers.GlobalAveragePooling2D(keepdims=True),
    "reshape_tokens": layers.Reshape((-1, 8)),
    "reshape_split": layers.Reshape((8, 8, 2, 4)),
    "permute": layers.Permute((3, 1, 2)),
    "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=3),
    "separable": layers.SeparableConv2D(6, 3, depth_multiplier=2),
    "dilated": layers.Conv2D(6, 2, dilation_rate=2),
    "transposed": layers.Conv2DTranspose(6, 3),
    "spectral_norm": layers.SpectralNormalization(layers.Conv2D(6, 3)),
    "lstm": lambda x: layers.LSTM(3, return_sequences=True)(layers.Reshape((8, 64))(x)),
    "gru_both_ways": lambda x: layers.Bidirectional(layers.GRU(3))(layers.Reshape((8, 64))(x)),
    "cells": lambda x: layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)])(
        layers.Reshape((64, 8))(x)
    ),
    "dense_on_map": layers.Dense(5, activation="tanh"),
    "ops_relu": ops.relu,
    "ops_chain": lambda x: ops.clip(ops.exp(x * 0.1 - 0.5), 0.2, 3.0),
    "ops_constant": lambda x: ops.maximum(x, np.linspace(-1, 1, 8).astype("float32")),
    "ops_reshape": lambda x: ops.reshape(x, (-1, 64, 8)),
    "ops_reshape_split": lambda x: ops.reshape(x, (-1, 8, 8, 2, 4)),
    "ops_transpose": lambda x: ops.transpose(x, (0, 3, 1, 2)),
    "ops_moveaxis": lambda x: ops.moveaxis(x, -1, 1),
    "ops_swapaxes": lambda x: ops.swapaxes(x, 1, 3),
    "ops_expand_squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 2), 2),
    "ops_mean": lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
    "ops_max": lambda x: ops.max(x, axis=1),
    "ops_sum_of_channels": lambda x: ops.sum(x, axis=-1),
    "ops_pad_space": lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 2), (0, 0))),
    "ops_split": lambda x: ops.multiply(*ops.split(x, 2, axis=-1)),
    "ops_split_uneven": lambda x: ops.concatenate(ops.split(x, [2, 5], axis=-1)[::-1], axis=-1),
    "ops_slice": lambda x: ops.concatenate([x[:, 1:, :, 2:6], x[:, :-1, :, :3]], axis=-1),
    "ops_stack": lambda x: ops.stack([x, ops.relu(x)], axis=3),
    "depth_to_space": lambda x: ops.depth_to_space(x, 2),
    "space_to_depth": lambda x: ops.space_to_depth(x, 2),
    "ops_stacks": lambda x: ops.dstack([ops.hstack([x, -x]), ops.hstack([x, x])]),
    "ops_unstack": lambda x: ops.add(*ops.unstack(x[:, :2], axis=1)),
    "ops_crop_and_pad": lambda x: ops.image.pad_images(
        ops.image.crop_images(x, 1, 1, 1, 1), 1, 0, 0, 1
    ),
    "ops_normalize": lambda x: ops.normalize(x, axis=-1),
    "ops_cumprod": lambda x: ops.ptp(ops.cumprod(x, axis=1), axis=1),
    "ops_like": lambda x: ops.ones_like(x) + ops.full_like(x, 2.0) * x - ops.zeros_like(x),
    "ops_logic": lambda x: ops.where(ops.logical_not(ops.isnan(x)), ops.fmax(x, 0.1), 0.0),
    "ops_softmax_space": lambda x: ops.softmax(x, axis=1),
    "channel_shuffle": lambda x: ops.reshape(
        ops.transpose(ops.reshape(x, (-1, 8, 8, 2, 4)), (0, 1, 2, 4, 3)), (-1, 8, 8, 8)
    ),
    "resize": lambda x: ops.image.resize(x, (5, 5)),
    "attention": lambda x: _attention(layers.Reshape((64, 8))(x)),
}

TWO = {
    "add": lambda a, b: layers.Add()([a, b]),
    "subtract": lambda a, b: layers.Subtract()([a, b]),
    "multiply": lambda a, b: layers.Multiply()([a, b]),
    "average": lambda a, b: layers.Average()([a, b]),
    "maximum": lambda a, b: layers.Maximum()([a, b]),
    "minimum": lambda a, b: layers.Minimum()([a, b]),
    "concatenate": lambda a, b: layers.Concatenate()([a, b]),
    "concatenate_space": lambda a, b: layers.Concatenate(axis=1)([a, b]),
    "broadcast": lambda a, b: layers.Multiply()([a, layers.GlobalMaxPooling2D(keepdims=True)(b)]),
    "broadcast_rank": lambda a, b: layers.Add()([a, layers.GlobalMaxPooling2D()(b)]),
    "ops_where": lambda a, b: ops.where(a > 0, a, b),
    "ops_divide": lambda a, b: ops.divide(a, b + 1.5),
    "shortcut_with_padding": lambda a, b: layers.Add()(
        [ops.pad(a, ((0, 0), (0, 0), (0, 0), (2, 2))), _conv(b, 12, name="third")]
    ),
}

CASES = {name: _then(op) for name, op in ONE.items()}
CASES |= {name: _with_second(op) for name, op in TWO.items()}


def _attention(x: Any) -> Any:
    y = layers.MultiHeadAttention(4, 3, name="mha")(layers.LayerNormalization()(x), x)
    x = layers.Add()([x, y])
    y = layers.Dense(16, activation="gelu", name="widen")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dense(8, name="narrow")(y)])


def _model(name: str) -> Any:
    return functional((8, 8, 3), CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_masked_equals_rebuilt(name: str) -> None:
    model = _model(name)
    graph = analyze(model)
    assert graph.group_of("conv").protected is None
    removal = choose(graph, 0.4)
    small = rebuild(model, removal, fold_constants=False)
    inputs = random_inputs(model)
    assert relative_error(small, mask(model, removal), inputs) < 1e-5
    assert small.count_params() < model.count_params()


@pytest.mark.parametrize(
    "name",
    [
        "ops_split_uneven",
        "ops_slice",
        "attention",
        "prelu",
        "group_norm",
        "gru_both_ways",
        "spectral_norm",
    ],
)
def test_rebuilt_models_save_and_load(name: str, tmp_path: Any) -> None:
    model = _model(name)
    removal = choose(analyze(model), 0.4)
    inputs = random_inputs(model)
    for made in (rebuild(model, removal), mask(model, removal)):
        path = tmp_path / "model.keras"
        made.save(path)
        assert relative_error(keras.models.load_model(path), made, inputs) < 1e-6


UNITS = {
    "reshape_split": ("conv", 4),
    "group_norm": ("conv", 4),
    "channel_shuffle": ("conv", 4),
    "attention": ("mha/heads", 4),
    "concatenate": ("conv", 8),
    "ops_split": ("conv", 4),
    "shortcut_with_padding": ("third", 12),
}


@pytest.mark.parametrize("name", UNITS)
def test_units(name: str) -> None:
    group, units = UNITS[name]
    graph = analyze(_model(name))
    found = graph[group] if "/" in group else graph.group_of(group)
    assert found.num_channels == units


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (layers.Softmax(), "softmax over these channels"),
        (layers.Activation("softmax"), "may mix channels"),
        (lambda x: ops.mean(x, axis=-1), "reduces them to one value"),
        (lambda x: ops.flip(x, axis=-1), "works along the axis"),
        (lambda x: x[..., 0], "by number"),
        (lambda x: x[..., ::2], "every 2th"),
        (lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="reflect"), "reflect"),
        (lambda x: ops.reshape(x, (-1, 4)), "not followed"),
        (
            lambda x: layers.Conv1D(3, 3)(ops.reshape(ops.transpose(x, (0, 3, 1, 2)), (-1, 8, 64))),
            "slides over",
        ),
        (lambda x: ops.einsum("...c,cd->...d", x, np.ones((8, 3), "float32")), "not followed"),
        (layers.Rescaling(np.linspace(1, 2, 8).tolist()), "a constant for each"),
        (layers.Dropout(0.5, noise_shape=(None, 1, 1, 8)), "noise_shape"),
        (layers.Lambda(lambda x: x), "has no rule"),
        (lambda x: layers.GRU(3)(layers.Reshape((8, 64))(ops.swapaxes(x, 1, 3))), "as time"),
        (layers.RandomFlip(), "in training"),
    ],
)
def test_what_cannot_be_followed_is_protected_with_the_reason(operation: Any, reason: str) -> None:
    model = functional((8, 8, 3), lambda x: layers.Dense(2)(operation(_conv(x, name="conv"))))
    group = analyze(model).group_of("conv")
    assert group.protected is not None
    assert reason in group.protected


@pytest.mark.parametrize(
    ("rank", "convolution"),
    [
        (1, layers.Conv1D(6, 3, padding="causal", dilation_rate=2)),
        (1, layers.Conv1D(9, 2, strides=2, groups=3)),
        (3, layers.Conv3D(4, 2, groups=2)),
        (3, layers.Conv3D(6, 2, groups=6)),
        (1, layers.SeparableConv1D(6, 3)),
        (1, layers.DepthwiseConv1D(3)),
        (1, layers.Conv1DTranspose(6, 3)),
        (3, layers.Conv3D(6, 2)),
        (3, layers.Conv3DTranspose(6, 2)),
    ],
)
def test_one_and_three_dimensions(rank: int, convolution: Any) -> None:
    first = {1: layers.Conv1D, 3: layers.Conv3D}[rank](6, 2, name="first")
    pool = {1: layers.GlobalMaxPooling1D, 3: layers.GlobalMaxPooling3D}[rank]
    model = functional((*(8,) * rank, 2), lambda x: layers.Dense(3)(pool()(convolution(first(x)))))
    removal = choose(analyze(model), 0.4)
    assert "first" in removal
    small = rebuild(model, removal, fold_constants=False)
    assert relative_error(small, mask(model, removal), random_inputs(model)) < 1e-5


def test_embedding_width_and_transformer() -> None:
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(11, 12, name="embedding")(tokens)
    x = _block(x, "a")
    x = _block(x, "b")
    model = randomise(keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x))))
    graph = analyze(model)
    assert graph["embedding"].producers == ("embedding", "mha_a", "narrow_a", "mha_b", "narrow_b")
    removal = choose(graph, 0.4)
    assert {"embedding", "mha_a/heads", "widen_a", "mha_b/heads", "widen_b"} == set(removal)
    small = rebuild(model, removal, fold_constants=False)
    assert relative_error(small, mask(model, removal), random_inputs(model)) < 1e-5
    heads = {"mha_a/heads": [1], "mha_b/heads": [0, 2]}
    folded, reference = rebuild(model, heads), mask(model, heads, keep_constants=True)
    assert relative_error(folded, reference, random_inputs(model)) < 1e-5


def _block(x: Any, name: str) -> Any:
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 3, name=f"mha_{name}")(y, y)])
    y = layers.Dense(20, activation="gelu", name=f"widen_{name}")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dense(12, name=f"narrow_{name}")(y)])


def test_channels_first() -> None:
    inputs = keras.Input((3, 8, 8))
    x = layers.Conv2D(8, 3, data_format="channels_first", name="conv")(inputs)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.DepthwiseConv2D(3, data_format="channels_first")(x)
    x = layers.Flatten(data_format="channels_first")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    small = rebuild(model, {"conv": [1, 2]})
    rows = np.asarray(model.get_layer("head").kernel).reshape(4, 4, 8, 3)
    expected = np.delete(rows, [1, 2], axis=2).reshape(-1, 3)
    np.testing.assert_array_equal(np.asarray(small.get_layer("head").kernel), expected)


def test_a_mask_of_time_steps_survives() -> None:
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(11, 12, mask_zero=True, name="embedding")(tokens)
    x = layers.Dense(10, activation="sigmoid", name="dense")(x)
    model = randomise(keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(x))))
    values = np.array([[3, 4, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 0]])
    removal = {"embedding": [0, 7], "dense": [1, 2, 3]}
    small, masked = rebuild(model, removal, fold_constants=False), mask(model, removal)
    np.testing.assert_allclose(np.asarray(small(values)), np.asarray(masked(values)), rtol=1e-5)


@pytest.mark.parametrize("activation", ["relu", keras.ops.silu, "tf.nn.relu"])
def test_activation_functions_of_keras_and_tensorflow(activation: Any) -> None:
    import tensorflow as tf

    function = tf.nn.relu if activation == "tf.nn.relu" else activation
    model = functional(
        (8, 8, 3), lambda x: layers.Dense(2)(_conv(x, name="conv", activation=function))
    )
    assert analyze(model).group_of("conv").protected is None
