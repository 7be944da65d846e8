"""TensorFlow functions that Keras 2 saved as layers, as calls of `keras.ops`.

Where a Keras 2 model applies a function of TensorFlow to a symbolic tensor, as in `x / 127.5` or
`tf.nn.relu6(x)`, the file has a layer TFOpLambda or SlicingOpLambda with the function's name and
its arguments. TensorFlow 2.0 to 2.3 wrote TensorFlowOpLayer, with a node of a TensorFlow graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from cprune_tf.models.errors import ModelError

_ops: Any = keras.ops  # its functions are made at run time, so their types are not known
Function = Callable[..., Any]


def _softmax(logits: Any, axis: int = -1) -> Any:
    return _ops.softmax(logits, axis=axis)


def _log_softmax(logits: Any, axis: int = -1) -> Any:
    return _ops.log_softmax(logits, axis=axis)


def _silu(features: Any, beta: float = 1.0) -> Any:
    if beta == 1.0:
        return _ops.silu(features)
    return _ops.multiply(features, _ops.sigmoid(_ops.multiply(features, beta)))


def _leaky_relu(features: Any, alpha: float = 0.2) -> Any:
    return _ops.leaky_relu(features, negative_slope=alpha)


def _gelu(features: Any, approximate: bool = False) -> Any:
    return _ops.gelu(features, approximate=approximate)


def _bias_add(value: Any, bias: Any, data_format: str = "NHWC") -> Any:
    if not data_format.endswith("C"):
        raise ValueError(f"data_format={data_format!r}; expected channels last")
    return _ops.add(value, bias)


def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    total = _ops.sum(_ops.square(x), axis=axis, keepdims=True)
    return _ops.multiply(x, _ops.rsqrt(_ops.maximum(total, epsilon)))


def _squared_difference(x: Any, y: Any) -> Any:
    return _ops.square(_ops.subtract(x, y))


def _add_n(inputs: Any) -> Any:
    total, *others = inputs
    for other in others:
        total = _ops.add(total, other)
    return total


def _reduction(name: str) -> Function:
    function = getattr(_ops, name)

    def reduce(input_tensor: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return function(input_tensor, axis=axis, keepdims=keepdims)

    return reduce


def _binary(name: str) -> Function:
    function = getattr(_ops, name)
    return lambda x, y: function(x, y)


def _unary(name: str) -> Function:
    function = getattr(_ops, name)
    return lambda x: function(x)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a, b = (_ops.swapaxes(v, -1, -2) if t else v for v, t in ((a, transpose_a), (b, transpose_b)))
    return _ops.matmul(a, b)


def _reshape(tensor: Any, shape: Any) -> Any:
    return _ops.reshape(tensor, _whole_numbers(shape))


def _transpose(a: Any, perm: Any = None, conjugate: bool = False) -> Any:
    if conjugate:
        raise ValueError("conjugate=True; expected False")
    return _ops.transpose(a, axes=None if perm is None else _whole_numbers(perm))


def _expand_dims(input: Any, axis: int) -> Any:
    return _ops.expand_dims(input, int(axis))


def _squeeze(input: Any, axis: Any = None) -> Any:
    axes = axis if isinstance(axis, list) else [axis]
    if axis in (None, []):
        raise ValueError("no axis; expected one, since the batch could have the size 1")
    for one in sorted((a % len(input.shape) for a in axes), reverse=True):
        input = _ops.squeeze(input, axis=one)
    return input


def _concat(values: Any, axis: int) -> Any:
    return _ops.concatenate(values if isinstance(values, list) else [values], axis=int(axis))


def _stack(values: Any, axis: int = 0) -> Any:
    return _ops.stack(values if isinstance(values, list) else [values], axis=int(axis))


def _split(value: Any, num_or_size_splits: Any, axis: int = 0, num: int | None = None) -> Any:
    if isinstance(num_or_size_splits, list):
        ends = np.cumsum(num_or_size_splits)[:-1]
        return _ops.split(value, [int(end) for end in ends], axis=int(axis))
    return _ops.split(value, int(num_or_size_splits), axis=int(axis))


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: float = 0) -> Any:
    widths = tuple(_whole_numbers(pair) for pair in paddings)
    if mode.lower() != "constant":
        return _ops.pad(tensor, widths, mode=mode.lower())
    if constant_values == 0:
        return _ops.pad(tensor, widths)
    return _ops.pad(tensor, widths, mode="constant", constant_values=constant_values)


def _tile(input: Any, multiples: Any) -> Any:
    return _ops.tile(input, _whole_numbers(multiples))


def _cast(x: Any, dtype: str) -> Any:
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else _ops.cast(x, dtype)


def _clip(t: Any, clip_value_min: float, clip_value_max: float) -> Any:
    return _ops.clip(t, clip_value_min, clip_value_max)


def _resize(images: Any, size: Any, method: str = "bilinear", antialias: bool = False) -> Any:
    if method not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(f"method={method!r}; expected 'bilinear', 'nearest' or 'bicubic'")
    return keras.ops.image.resize(
        images, _whole_numbers(size), interpolation=method, antialias=antialias,
        data_format="channels_last",
    )  # fmt: skip


def _getitem(tensor: Any, slice_spec: Any) -> Any:
    spec = slice_spec if isinstance(slice_spec, list) else [slice_spec]
    items = [_index(item) for item in spec]
    whole = slice(None, None, -1)  # x[..., ::-1], which swaps red and blue
    if whole not in items or not all(isinstance(item, slice) or item is ... for item in items):
        return tensor[tuple(items)]
    after = len(items) - items.index(...) if ... in items else 0
    axes = [
        number - len(items) if after and number > len(items) - after else number
        for number, item in enumerate(items)
        if item == whole
    ]
    kept = tuple(slice(None) if item == whole else item for item in items)
    if any(item not in (slice(None), ...) for item in kept):
        tensor = tensor[kept]
    return _ops.flip(tensor, axis=axes)


def _index(item: Any) -> Any:
    if not isinstance(item, dict):
        return item if item is None else int(item)
    if item.get("class_name") == "__ellipsis__":
        return Ellipsis
    bounds = (item.get(key) for key in ("start", "stop", "step"))
    return slice(*(bound if bound is None else int(bound) for bound in bounds))


def _whole_numbers(values: Any) -> tuple[int, ...]:
    values = values if isinstance(values, (list, tuple)) else np.asarray(values).tolist()
    if not all(isinstance(value, (int, float)) for value in values):
        raise ValueError("sizes that the model computes; expected numbers")
    return tuple(int(value) for value in values)


_UNARY = {
    "abs": "absolute", "ceil": "ceil", "cos": "cos", "elu": "elu", "erf": "erf", "exp": "exp",
    "floor": "floor", "log": "log", "negative": "negative", "reciprocal": "reciprocal",
    "relu": "relu", "relu6": "relu6", "round": "round", "rsqrt": "rsqrt", "selu": "selu",
    "sigmoid": "sigmoid", "sign": "sign", "sin": "sin", "softplus": "softplus",
    "softsign": "softsign", "sqrt": "sqrt", "square": "square", "tanh": "tanh",
}  # fmt: skip
_BINARY = {
    "add": "add", "divide": "divide", "floordiv": "floor_divide", "floormod": "mod",
    "maximum": "maximum", "minimum": "minimum", "mod": "mod", "mul": "multiply",
    "multiply": "multiply", "pow": "power", "sub": "subtract", "subtract": "subtract",
    "truediv": "true_divide",
}  # fmt: skip
_REDUCTIONS = {name: f"reduce_{name}" for name in ("max", "mean", "min", "prod", "sum")}
# By the last part of the function's name: tf.math.add, tf.__operators__.add and tf.add are one.
_FUNCTIONS: dict[str, Function] = {
    **{old: _unary(new) for old, new in _UNARY.items()},
    **{old: _binary(new) for old, new in _BINARY.items()},
    **{old: _reduction(new) for new, old in _REDUCTIONS.items()},
    "add_n": _add_n,
    "bias_add": _bias_add,
    "cast": _cast,
    "clip_by_value": _clip,
    "concat": _concat,
    "convert_to_tensor": lambda value: value,
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "getitem": _getitem,
    "identity": lambda input: input,
    "image.resize": _resize,
    "l2_normalize": _l2_normalize,
    "leaky_relu": _leaky_relu,
    "log_softmax": _log_softmax,
    "matmul": _matmul,
    "pad": _pad,
    "reshape": _reshape,
    "silu": _silu,
    "softmax": _softmax,
    "split": _split,
    "squared_difference": _squared_difference,
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": lambda input: input,
    "swish": _silu,
    "tile": _tile,
    "transpose": _transpose,
}
# The namespaces whose functions are meant: an image.resize is no other module's resize.
_NAMESPACES = ("", "__operators__", "math", "nn", "linalg", "compat.v1", "compat.v1.math")
# Nodes of TensorFlow graphs that take tensors and constants only.
_NODES = {
    "Add": "add", "AddV2": "add", "AddN": "add_n", "BiasAdd": "bias_add", "Maximum": "maximum",
    "Minimum": "minimum", "Mul": "multiply", "Neg": "negative", "RealDiv": "truediv",
    "Relu": "relu", "Relu6": "relu6", "Reshape": "reshape", "Sigmoid": "sigmoid",
    "Softmax": "softmax", "Sqrt": "sqrt", "Square": "square", "Sub": "subtract", "Tanh": "tanh",
}  # fmt: skip
OPERATION_CLASSES = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})


def call_operation(
    saved: Mapping[str, Any], name: str, operand: Any, kwargs: Mapping[str, Any]
) -> Any:
    """Repeats a call of a TensorFlow function on Keras tensors.

    Args:
        saved: The layer as Keras 2 wrote it.
        name: The layer's name, for messages.
        operand: The first argument: a tensor, a number or a list of tensors.
        kwargs: The other arguments.

    Returns:
        A Keras tensor or a list of them.

    Raises:
        ModelError: There is no such function here, or not with such arguments.
    """
    config = saved["config"]
    if saved["class_name"] == "TensorFlowOpLayer":
        function, title, args = _node(config, name, operand)
        kwargs = {}
    else:
        title = str(config["function"])
        function, args = _function(title, name), [operand]
    known = {key: _constant(v) for key, v in kwargs.items() if v is not None and key != "name"}
    try:
        return function(*map(_constant, args), **known)
    except (TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(
            f"the layer {name!r} calls TensorFlow's {title} with arguments that cannot be repeated "
            f"in Keras 3: {reason}. Rebuild the model with layers."
        ) from error


def _function(title: str, layer: str) -> Function:
    namespace, _, short = title.rpartition(".")
    key = short if namespace in _NAMESPACES else title
    if key not in _FUNCTIONS:
        raise ModelError(
            f"the layer {layer!r} calls TensorFlow's {title}; expected one of "
            f"{', '.join(sorted(_FUNCTIONS))}. Rebuild the model with layers in its place."
        )
    return _FUNCTIONS[key]


def _node(config: Mapping[str, Any], name: str, operand: Any) -> tuple[Function, str, list[Any]]:
    """Reads a TensorFlowOpLayer: the function, its name and its arguments."""
    node = config["node_def"]
    node = json.loads(node) if isinstance(node, str) else node
    kind = str(node["op"])
    if kind not in _NODES:
        raise ModelError(
            f"the layer {name!r} is the TensorFlow operation {kind}; expected one of "
            f"{', '.join(sorted(_NODES))}. Rebuild the model with layers in its place."
        )
    args = list(operand) if isinstance(operand, list) else [operand]
    for position, value in sorted((int(k), v) for k, v in config.get("constants", {}).items()):
        args.insert(position, value)
    if kind == "AddN":
        args = [args]
    return _FUNCTIONS[_NODES[kind]], kind, args


def _constant(value: Any) -> Any:
    """Makes arrays of lists of numbers with a fraction; sizes and axes stay as they are."""
    if isinstance(value, list) and value and not isinstance(value[0], keras.KerasTensor):
        try:
            array = np.asarray(value)
        except ValueError:  # ragged: a list of slices, or of other things
            return value
        if array.dtype.kind == "f":
            return array.astype("float32")
    return value
