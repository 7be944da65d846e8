"""A tiny model of every layer of `keras.layers` and of every function of `keras.ops`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

layers, ops = keras.layers, keras.ops

IMAGE, STEPS, VOLUME = (8, 8, 4), (6, 4), (4, 4, 4, 2)

# Constructor arguments without a default, by name.
_SETTINGS = {
    "activation": "relu",
    "alpha": 0.5,
    "cropping": 1,
    "dims": (2, 1, 3),
    "factor": (0.1, 0.3),
    "filters": 2,
    "height": 4,
    "height_factor": 0.2,
    "input_dim": 9,
    "kernel_size": 2,
    "key_dim": 2,
    "head_dim": 2,
    "max_number": 4,
    "n": 2,
    "num_bins": 3,
    "num_heads": 2,
    "num_key_value_heads": 1,
    "num_query_heads": 2,
    "output_dim": 3,
    "output_size": 2,
    "pool_size": 2,
    "rate": 0.5,
    "scale": 0.5,
    "stddev": 0.1,
    "target_shape": (-1, 4),
    "units": 3,
    "width": 4,
    "width_factor": 0.2,
}
_MERGES = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
# Layers whose case is not one tensor through the layer with the settings above.
_LAYERS: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    **{name: (IMAGE, lambda x, n=name: getattr(layers, n)()([x, x])) for name in _MERGES},
    "AdditiveAttention": (STEPS, lambda x: layers.AdditiveAttention()([x, x])),
    "Attention": (STEPS, lambda x: layers.Attention()([x, x])),
    "Bidirectional": (STEPS, lambda x: layers.Bidirectional(layers.LSTM(3))(x)),
    "CategoryEncoding": ((4,), lambda x: layers.CategoryEncoding(5)(ops.cast(x, "int32"))),
    "ConvLSTM1D": ((3, *STEPS), lambda x: layers.ConvLSTM1D(2, 2)(x)),
    "ConvLSTM2D": ((3, *IMAGE), lambda x: layers.ConvLSTM2D(2, 2)(x)),
    "ConvLSTM3D": ((3, *VOLUME), lambda x: layers.ConvLSTM3D(2, 2)(x)),
    "Discretization": ((4,), lambda x: layers.Discretization(bin_boundaries=[0.2, 0.6])(x)),
    "Dot": (STEPS, lambda x: layers.Dot(axes=2)([x, x])),
    "EinsumDense": (STEPS, lambda x: layers.EinsumDense("abc,cd->abd", (None, 3))(x)),
    "Embedding": ((6,), lambda x: layers.Embedding(9, 3)(ops.cast(x, "int32"))),
    "GroupNormalization": (IMAGE, lambda x: layers.GroupNormalization(2)(x)),
    "GroupQueryAttention": (STEPS, lambda x: layers.GroupQueryAttention(2, 2, 1)(x, x)),
    "Lambda": (IMAGE, lambda x: layers.Lambda(lambda y: y * 2.0)(x)),
    "MelSpectrogram": ((600,), lambda x: layers.MelSpectrogram(fft_length=256)(x)),
    "MultiHeadAttention": (STEPS, lambda x: layers.MultiHeadAttention(2, 2)(x, x)),
    "Normalization": (IMAGE, lambda x: layers.Normalization(mean=0.5, variance=2.0)(x)),
    "RNN": (STEPS, lambda x: layers.RNN(layers.GRUCell(3))(x)),
    "RepeatVector": ((6,), lambda x: layers.RepeatVector(2)(x)),
    "ReversibleEmbedding": ((6,), lambda x: layers.ReversibleEmbedding(9, 3)(x)),
    "SpectralNormalization": (
        IMAGE,
        lambda x: layers.SpectralNormalization(layers.Conv2D(2, 2))(x),
    ),
    "STFTSpectrogram": ((600, 1), lambda x: layers.STFTSpectrogram()(x)),
    "TimeDistributed": (STEPS, lambda x: layers.TimeDistributed(layers.Dense(3))(x)),
}
# Bases, parts of other layers, and layers of other frameworks, which no model holds alone.
NO_LAYERS = frozenset(
    {
        "FlaxLayer",
        "GRUCell",
        "InputLayer",
        "JaxLayer",
        "LSTMCell",
        "Layer",
        "Pipeline",
        "SimpleRNNCell",
        "StackedRNNCells",
        "TFSMLayer",
        "TorchModuleWrapper",
        "Wrapper",
    }
)


def layer_rows() -> dict[str, type]:
    """Every layer class of `keras.layers` that a model can hold, by the first of its names."""
    found: dict[type, str] = {}
    for name in sorted(dir(layers)):
        kind = getattr(layers, name)
        if inspect.isclass(kind) and issubclass(kind, layers.Layer) and name not in NO_LAYERS:
            found.setdefault(kind, kind.__name__ if hasattr(layers, kind.__name__) else name)
    return {name: kind for kind, name in sorted(found.items(), key=lambda item: item[1])}


def layer_model(name: str) -> keras.Model:
    """Builds a tiny model of one layer.

    Raises:
        Exception: Anything that Keras raises if the layer is none that a tiny tensor passes.
    """
    if name in _LAYERS:
        shape, call = _LAYERS[name]
        return _model(shape, call)
    layer = _layer(getattr(layers, name))
    if isinstance(layer, layers.RNN) or "1D" in name:
        return _model(STEPS, layer)
    colours = hasattr(layer, "transform_images")  # augmentation, which may want three channels
    return _model(VOLUME if "3D" in name else (*IMAGE[:2], 3) if colours else IMAGE, layer)


def _layer(kind: type) -> Any:
    given = {}
    for parameter in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variable:
            given[parameter.name] = _SETTINGS[parameter.name]
    if kind.__name__ == "RandomPosterization":
        given["factor"] = 4
    return kind(**given)


def _model(shape: tuple[int, ...], call: Callable[[Any], Any], dtype: str = "float32") -> Any:
    inputs = keras.Input(shape, dtype=dtype, name="image")
    outputs = [y for y in keras.tree.flatten(call(inputs)) if keras.utils.is_keras_tensor(y)]
    if not outputs:
        raise TypeError("it makes no tensor of a graph")
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0])


_SQUARE = np.linspace(-1, 1, 16, dtype="float32").reshape(4, 4)
_KERNEL = np.linspace(-1, 1, 32, dtype="float32").reshape(2, 2, 4, 2)
_DEPTH = np.linspace(-1, 1, 16, dtype="float32").reshape(2, 2, 4, 1)
_POINT = np.linspace(-1, 1, 8, dtype="float32").reshape(1, 1, 4, 2)
_FOUR = np.array([0.1, 0.2, 0.3, 0.4], "float32")

# Functions whose arguments the templates below do not guess, or guess as something unusual.
_CALLS: dict[str, Callable[[Any], Any]] = {
    "adaptive_average_pool": lambda x: ops.adaptive_average_pool(x, (2, 2)),
    "adaptive_max_pool": lambda x: ops.adaptive_max_pool(x, (2, 2)),
    "average": lambda x: ops.average(x, axis=1),
    "average_pool": lambda x: ops.average_pool(x, 2),
    "batch_normalization": lambda x: ops.batch_normalization(x, _FOUR, _FOUR, -1),
    "broadcast_to": lambda x: ops.broadcast_to(ops.reshape(x, (1, 8, 8, 4)), (1, 8, 8, 4)),
    "cast": lambda x: ops.cast(x, "float16"),
    "clip": lambda x: ops.clip(x, 0.3, 0.6),
    "conv": lambda x: ops.conv(x, _KERNEL),
    "conv_transpose": lambda x: ops.conv_transpose(x, _KERNEL.transpose(0, 1, 3, 2), strides=2),
    "cross": lambda x: ops.cross(x[..., :3], x[..., 1:]),
    "depth_to_space": lambda x: ops.depth_to_space(x, 2),
    "depthwise_conv": lambda x: ops.depthwise_conv(x, _DEPTH),
    "diagonal": lambda x: ops.diagonal(x, axis1=1, axis2=2),
    "dot_product_attention": lambda x: ops.dot_product_attention(x, x, x),
    "einsum": lambda x: ops.einsum("bhwc,cd->bhwd", x, _SQUARE),
    "flip": lambda x: ops.flip(x, 1),
    "full_like": lambda x: ops.full_like(x, 2.0),
    "get_item": lambda x: x[:, 1:, 0],
    "image.affine_transform": lambda x: ops.image.affine_transform(
        x, np.array([1.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], "float32")
    ),
    "image.crop_images": lambda x: ops.image.crop_images(x, 1, 1, 1, 1),
    "image.extract_patches": lambda x: ops.image.extract_patches(x, 2),
    "image.hsv_to_rgb": lambda x: ops.image.hsv_to_rgb(x[..., :3]),
    "image.pad_images": lambda x: ops.image.pad_images(x, 1, 1, 1, 1),
    "image.resize": lambda x: ops.image.resize(x, (5, 6)),
    "image.rgb_to_grayscale": lambda x: ops.image.rgb_to_grayscale(x[..., :3]),
    "image.rgb_to_hsv": lambda x: ops.image.rgb_to_hsv(x[..., :3]),
    "linalg.norm": lambda x: ops.norm(x, axis=-1),
    "logical_and": lambda x: ops.logical_and(x > 0.3, x < 0.6),
    "logical_not": lambda x: ops.logical_not(x > 0.3),
    "logical_or": lambda x: ops.logical_or(x < 0.3, x > 0.6),
    "logical_xor": lambda x: ops.logical_xor(x < 0.3, x > 0.6),
    "matmul": lambda x: ops.matmul(x, _SQUARE),
    "max_pool": lambda x: ops.max_pool(x, 2),
    "moveaxis": lambda x: ops.moveaxis(x, -1, 1),
    "multi_hot": lambda x: ops.multi_hot(ops.cast(x[:, 0, 0] * 4.0, "int32"), 4),
    "norm": lambda x: ops.norm(x, axis=-1),
    "one_hot": lambda x: ops.one_hot(ops.cast(x[..., 0] * 4.0, "int32"), 4),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "rearrange": lambda x: ops.rearrange(x, "b h w c -> b c h w"),
    "reshape": lambda x: ops.reshape(x, (-1, 64, 4)),
    "rms_normalization": lambda x: ops.rms_normalization(x),
    "roll": lambda x: ops.roll(x, 1, axis=1),
    "saturate_cast": lambda x: ops.saturate_cast(x * 300.0, "uint8"),
    "select": lambda x: ops.select([x > 0.6, x > 0.3], [x, x * 2.0], 0.5),
    "separable_conv": lambda x: ops.separable_conv(x, _DEPTH, _POINT),
    "slice": lambda x: ops.slice(x, (0, 1, 1, 0), (1, 4, 4, 4)),
    "slice_update": lambda x: ops.slice_update(x, (0, 1, 1, 0), np.ones((1, 2, 2, 4), "float32")),
    "softmax": lambda x: ops.softmax(x),
    "space_to_depth": lambda x: ops.space_to_depth(x, 2),
    "split": lambda x: ops.split(x, 2, axis=-1),
    "squeeze": lambda x: ops.squeeze(x[:, :1], 1),
    "swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "take": lambda x: ops.take(x, [2, 0], axis=1),
    "take_along_axis": lambda x: ops.take_along_axis(x, ops.cast(x, "int32"), axis=1),
    "tensordot": lambda x: ops.tensordot(x, _SQUARE, 1),
    "threshold": lambda x: ops.threshold(x, 0.5, 0.0),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 1)),
    "top_k": lambda x: ops.top_k(x, 2),
    "unstack": lambda x: ops.unstack(x, axis=1),
    "where": lambda x: ops.where(x > 0.5, x, 0.0),
}
_TEMPLATES: tuple[Callable[[Callable[..., Any], Any], Any], ...] = (
    lambda function, x: function(x, axis=1),
    lambda function, x: function(x),
    lambda function, x: function(x, x),
    lambda function, x: function([x, x]),
    lambda function, x: function(x, 2),
    lambda function, x: function(x, 2, axis=1),
    lambda function, x: function(x, x, x),
    lambda function, x: function(ops.cast(x * 8.0, "int32")),
    lambda function, x: function(ops.cast(x * 8.0, "int32"), ops.cast(x * 8.0, "int32")),
    lambda function, x: function(ops.cast(x * 8.0, "int32"), 2),
    lambda function, x: function((x, x)),
)


def op_rows() -> dict[str, Callable[..., Any]]:
    """Every function of `keras.ops`, by the shortest of its names; a class is not a function."""
    found: dict[int, tuple[str, Callable[..., Any]]] = {}
    for name, function in sorted(_functions(ops, ""), key=lambda item: (item[0].count("."), item)):
        found.setdefault(id(function), (name, function))
    return dict(sorted(found.values()))


def _functions(module: Any, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in dir(module):
        value = getattr(module, name)
        if name.startswith("_"):
            continue
        if inspect.ismodule(value):
            yield from _functions(value, f"{prefix}{name}.")
        elif callable(value) and not inspect.isclass(value):
            yield f"{prefix}{name}", value


def op_model(name: str) -> keras.Model:
    """Builds a tiny model of one function.

    Raises:
        TypeError: No call of it that is tried makes a tensor of a graph.
    """
    if name in _CALLS:
        return _model(IMAGE, _CALLS[name])
    function = op_rows()[name]
    for template in _TEMPLATES:
        try:
            model = _model(IMAGE, lambda x, call=template: call(function, x))
            model(np.full((1, *IMAGE), 0.5, "float32"))  # some types are refused only now
            return model
        except Exception:  # whatever Keras raises: these arguments are not those of the function
            continue
    raise TypeError("none of the calls that were tried makes a tensor of a graph")


def kinds(model: keras.Model) -> list[str]:
    """The operations that make a model's outputs, by their keys in the registries."""
    outputs = {id(tensor) for tensor in model.outputs}
    made = [
        operation
        for operation in model.operations
        if any(id(tensor) in outputs for tensor in keras.tree.flatten(operation.output))
    ]
    return sorted({f"ops.{type(operation).__name__}" for operation in made})
