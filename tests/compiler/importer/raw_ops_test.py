"""Imports of `keras.ops` calls on Keras tensors are compared with Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

SHAPE = (4, 6, 3)
KERNEL = np.linspace(-1, 1, 15, dtype="float32").reshape(3, 5)
CHANNELS = np.array([0.2, 0.7, 1.5], "float32")
WINDOW = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype("float32")

OPERATIONS = {
    "python_scalar": lambda x: x * 2.0 - 1,
    "reversed_scalar": lambda x: 1.0 - x,
    "array": lambda x: x + np.array([1.0, 2.0, 3.0], "float32"),
    "division": lambda x: x / (ops.absolute(x) + 1.0),
    "power": lambda x: (ops.absolute(x) + 0.5) ** 1.5,
    "maximum": lambda x: ops.maximum(x, 0.25),
    "minimum": lambda x: ops.minimum(x, -x),
    "negative": lambda x: -x,
    "square": lambda x: ops.square(x),
    "rsqrt": lambda x: ops.rsqrt(ops.absolute(x) + 1.0),
    "exp_log": lambda x: ops.log(ops.exp(x) + 1.0),
    "erf": lambda x: ops.erf(x),
    "floor": lambda x: ops.floor(x * 3.0),
    "sin_cos": lambda x: ops.sin(x) + ops.cos(x),
    "clip": lambda x: ops.clip(x, -0.5, 0.5),
    "reciprocal": lambda x: ops.reciprocal(ops.absolute(x) + 1.0),
    "relu": lambda x: ops.relu(x),
    "relu6": lambda x: ops.relu6(x * 5.0),
    "relu_function": lambda x: keras.activations.relu(x, max_value=1.0, negative_slope=0.1),
    "silu": lambda x: ops.silu(x),
    "hard_swish": lambda x: ops.hard_silu(x),
    "gelu_approximate": lambda x: ops.gelu(x, approximate=True),
    "leaky_relu": lambda x: ops.leaky_relu(x, negative_slope=0.3),
    "glu": lambda x: ops.glu(x, axis=1),
    "threshold": lambda x: ops.threshold(x, 0.2, -7.0),
    "softmax": lambda x: ops.softmax(x, axis=1),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
    "mean_keepdims": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "sum": lambda x: ops.sum(x, axis=1),
    "max": lambda x: ops.max(x, axis=[1, 2], keepdims=True),
    "min": lambda x: ops.min(x, axis=2),
    "variance": lambda x: ops.var(x, axis=1),
    "standard_deviation": lambda x: ops.std(x, axis=1),
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "reshape": lambda x: ops.reshape(x, (-1, 24, 3)),
    "reshape_flat": lambda x: ops.reshape(x, (-1, 72)),
    "transpose": lambda x: ops.transpose(x, (0, 3, 1, 2)),
    "swapaxes": lambda x: ops.swapaxes(x, 1, -1),
    "moveaxis": lambda x: ops.moveaxis(x, -1, 1),
    "moveaxis_several": lambda x: ops.moveaxis(x, (1, 2), (3, 1)),
    "expand_dims": lambda x: ops.expand_dims(x, (1, -1)),
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 2), 2),
    "concatenate": lambda x: ops.concatenate([x, x * 2.0], axis=-1),
    "stack": lambda x: ops.stack([x, -x], axis=1),
    "split": lambda x: ops.split(x, 3, axis=2),
    "split_at": lambda x: ops.split(x, [1, 4], axis=2),
    "unstack": lambda x: ops.unstack(x, axis=3),
    "pad": lambda x: ops.pad(x, [[0, 0], [1, 2], [0, 3], [0, 0]]),
    "pad_value": lambda x: ops.pad(x, [[0, 0], [1, 2], [0, 3], [0, 0]], constant_values=2.5),
    "pad_reflect": lambda x: ops.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]], mode="reflect"),
    "tile": lambda x: ops.tile(x, [1, 2, 1, 3]),
    "repeat": lambda x: ops.repeat(x, 2, axis=1),
    "flip": lambda x: ops.flip(x, axis=2),
    "matmul": lambda x: ops.matmul(x, KERNEL),
    "matmul_tensors": lambda x: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
    "einsum": lambda x: ops.einsum("bhwc,bhwd->bcd", x, x * 2.0),
    "where": lambda x: ops.where(x > 0.1, x, 0.5),
    "comparison": lambda x: ops.cast(ops.less_equal(x, 0.0), "float32"),
    "logical": lambda x: ops.cast(ops.logical_and(x > -1, ops.logical_not(x > 1)), "float32"),
    "take": lambda x: ops.take(x, [2, 0, -1], axis=1),
    "one_hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 3),
    "max_pool": lambda x: ops.max_pool(x, 2),
    "average_pool": lambda x: ops.average_pool(x, 3, strides=2, padding="same"),
    "resize": lambda x: ops.image.resize(x, (8, 5), interpolation="nearest"),
    "index": lambda x: x[:, 0],
    "index_last": lambda x: x[:, -1, :, 1],
    "slice": lambda x: x[:, 1:3, ::2],
    "ellipsis": lambda x: x[..., 1:],
    "new_axis": lambda x: x[:, None, :, 2],
    "stop_gradient": lambda x: ops.stop_gradient(x) * 2.0,
    "logarithms": lambda x: [f(ops.exp(x)) for f in (ops.log2, ops.log10)],
    "log1p": lambda x: [ops.log1p(ops.absolute(x) * scale) for scale in (1.0, 1e-6, 1e-12)],
    "expm1": lambda x: [ops.expm1(x * scale) for scale in (1.0, 1e-6, 1e-12)],
    "exp2": lambda x: [ops.exp2(x), ops.erfc(x), ops.cbrt(x), ops.sinc(x)],
    "angles": lambda x: [ops.tan(x), ops.deg2rad(x), ops.rad2deg(x), ops.arctan2(x, x + 0.3)],
    "arcs": lambda x: [f(ops.tanh(x) * 0.9) for f in (ops.arccos, ops.arcsin, ops.arctanh)],
    "hyperbolic": lambda x: [ops.sinh(x), ops.cosh(x), ops.arcsinh(x), ops.arccosh(x * x + 1.1)],
    "round": lambda x: [ops.round(ops.round(x * 4.0) * 0.5), ops.trunc(x * 3.0)],
    "like": lambda x: [ops.ones_like(x) + x, ops.zeros_like(x) * x, ops.full_like(x, 2.0) + x],
    "divide_no_nan": lambda x: ops.divide_no_nan(x, ops.relu(x)),
    "fmax": lambda x: [ops.fmax(ops.log(x), 0.1), ops.fmin(ops.log(x), x), ops.fmod(x, 0.3)],
    "tests": lambda x: [
        ops.where(f(ops.log(ops.relu(x - 1.0)) * x), x, 0.0)
        for f in (ops.isinf, ops.isnan, ops.isfinite)
    ],
    "nan_to_num": lambda x: ops.tanh(ops.nan_to_num(ops.log(ops.relu(x - 1.0)) * x, 3.0)),
    "hypot": lambda x: [ops.hypot(x, x * 0.5), ops.logaddexp(x, -x)],
    "logical_xor": lambda x: ops.cast(ops.logical_xor(x > 0, x > 0.5), "float32"),
    "select": lambda x: ops.select([x > 0.5, x > -0.5], [x * 2.0, ops.square(x)], 7.0),
    "depth_to_space": lambda x: ops.depth_to_space(ops.concatenate([x, -x, x, x * 2.0], -1), 2),
    "space_to_depth": lambda x: ops.space_to_depth(x, 2),
    "roll": lambda x: [ops.roll(x, 1, axis=1), ops.roll(x, (-2, 5), axis=(1, 2))],
    "stacks": lambda x: [ops.hstack([x, -x]), ops.dstack([x, -x])],
    "flip_rows": lambda x: ops.fliplr(x),
    "cumulative": lambda x: [ops.cumsum(x, axis=1), ops.cumprod(x, axis=-1)],
    "dynamic_slice": lambda x: ops.slice(x, (0, 1, 2, 0), (2, 2, 3, 3)),
    "crop_images": lambda x: ops.image.crop_images(x, 1, 2, target_height=2, target_width=3),
    "pad_images": lambda x: ops.image.pad_images(x, 1, 2, 0, 1),
    "grayscale": lambda x: ops.image.rgb_to_grayscale(x),
    "all_any": lambda x: [
        ops.cast(f(ops.greater(x, -0.5), axis=(1, 2)), "float32") for f in (ops.all, ops.any)
    ],
    "count_nonzero": lambda x: ops.cast(ops.count_nonzero(ops.relu(x), axis=1), "float32"),
    "logsumexp": lambda x: ops.logsumexp(x * 50.0, axis=(1, 3)),
    "range": lambda x: [ops.ptp(x, axis=1), ops.average(x, axis=2)],
    "moments": lambda x: ops.moments(x, axes=[1, 2]),
    "normalize": lambda x: [ops.normalize(x, axis=-1), ops.normalize(x, axis=1, order=1)],
    "batch_normalization": lambda x: ops.batch_normalization(
        x, CHANNELS, CHANNELS + 0.5, -1, offset=CHANNELS * 2, scale=CHANNELS - 1
    ),
    "rms_normalization": lambda x: ops.rms_normalization(x, CHANNELS, epsilon=1e-3),
    "conv": lambda x: ops.conv(x, WINDOW, strides=(2, 1), padding="same"),
    "depthwise_conv": lambda x: ops.depthwise_conv(x, WINDOW[..., :2], dilation_rate=2),
    "layer_normalization": lambda x: ops.layer_normalization(x, epsilon=1e-3),
}


@pytest.mark.parametrize("function", list(OPERATIONS.values()), ids=list(OPERATIONS))
def test_operation(function, check_against_keras):
    inputs = keras.Input(SHAPE, name="image")
    check_against_keras(keras.Model(inputs, function(inputs)), batch_size=2)


def test_operations_are_named(check_against_keras):
    inputs = keras.Input(SHAPE, name="image")
    model = keras.Model(inputs, ops.relu(ops.add(inputs, np.ones(3, "float32"))))
    _, add, relu = (operation.name for operation in model.operations)
    imported = check_against_keras(model)
    assert set(imported.layers_of_var.values()) == {(add,), (relu,)}
    assert imported.layers_of_param == {f"{add}/x2": (add,)}


def test_mixed_types(check_against_keras):
    numbers, image = keras.Input((3,), dtype="int32"), keras.Input((3,))
    check_against_keras(keras.Model([numbers, image], [numbers * 2, numbers + image]))
