"""Converters of activations: layers, the `activation` of another layer, and `keras.ops` calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tvm import relax

from cprune_tf.compiler.importer import activation_functions as fn
from cprune_tf.compiler.importer.emitter import Emitter, dtype, scalar, shape
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.graph import keras_internals
from cprune_tf.graph.errors import GraphError

# Name of a function in keras.activations or keras.ops -> the function that emits it, and those
# attributes of the Keras operation that are parameters of that function.
_NAMED: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "celu": (fn.celu, ("alpha",)),
    "elu": (fn.elu, ("alpha",)),
    "gelu": (fn.gelu, ("approximate",)),
    "glu": (fn.glu, ("axis",)),
    "hard_shrink": (fn.hard_shrink, ("threshold",)),
    "hard_sigmoid": (fn.hard_sigmoid, ()),
    "hard_silu": (fn.hard_silu, ()),
    "hard_tanh": (fn.hard_tanh, ()),
    "leaky_relu": (fn.leaky_relu, ("negative_slope",)),
    "log_sigmoid": (fn.log_sigmoid, ()),
    "log_softmax": (fn.log_softmax, ("axis",)),
    "relu": (fn.relu, ()),
    "relu6": (fn.relu6, ()),
    "selu": (fn.selu, ()),
    "sigmoid": (fn.sigmoid, ()),
    "silu": (fn.silu, ()),
    "soft_shrink": (fn.soft_shrink, ("threshold",)),
    "softmax": (fn.softmax, ("axis",)),
    "softplus": (fn.softplus, ()),
    "softsign": (fn.softsign, ()),
    "sparse_plus": (fn.sparse_plus, ()),
    "sparse_sigmoid": (fn.sparse_sigmoid, ()),
    "squareplus": (fn.squareplus, ("b",)),
    "tanh": (fn.tanh, ()),
    "tanh_shrink": (fn.tanh_shrink, ()),
    "threshold": (fn.threshold, ("threshold", "default_value")),
}

# The functions that may be a layer's `activation`, compared by identity -> the functions that emit
# them.
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    keras.activations.linear: fn.linear,
    keras.activations.exponential: fn.exponential,
    keras.activations.mish: fn.mish,
    tf.nn.relu: fn.relu,
    tf.nn.relu6: fn.relu6,
    tf.nn.leaky_relu: fn.leaky_relu,
    tf.nn.elu: fn.elu,
    tf.nn.selu: fn.selu,
    tf.nn.gelu: fn.gelu,
    tf.nn.silu: fn.silu,
    tf.nn.sigmoid: fn.sigmoid,
    tf.nn.tanh: fn.tanh,
    tf.nn.softmax: fn.softmax,
    tf.nn.softplus: fn.softplus,
}
for _name, (_function, _) in _NAMED.items():
    for _namespace in (keras.activations, keras.ops):
        if hasattr(_namespace, _name):
            _FUNCTIONS[getattr(_namespace, _name)] = _function


def apply_activation(emitter: Emitter, activation: Any, x: Any) -> Any:
    """Emits the `activation` of a Keras layer: None, a function or a layer.

    Raises:
        UnsupportedOperationError: The activation has no converter.
    """
    if activation is None:
        return x
    if isinstance(activation, keras.Layer):
        return emitter.convert(activation, x)
    if activation in _FUNCTIONS:
        return _FUNCTIONS[activation](emitter, x)
    return _apply_own(emitter, activation, x)


def _apply_own(emitter: Emitter, activation: Any, x: Any) -> Any:
    """Emits a function of the user's as the calls of `keras.ops` that it consists of."""
    name = getattr(activation, "__name__", type(activation).__name__)
    try:
        trace = keras_internals.trace_function(activation)
    except GraphError as error:
        raise UnsupportedOperationError(
            f"activation {name!r} has no converter and {error}; expected a function of "
            "keras.activations, one that calls keras.ops, or a layer"
        ) from error
    values = {id(trace.inputs[0]): x}

    def swap(value: Any) -> Any:
        return values.get(id(value), value)

    for node in trace.nodes:
        args, kwargs = keras.tree.map_structure(swap, (node.args, node.kwargs))
        results = keras.tree.flatten(emitter.convert(node.operation, *args, **kwargs))
        values.update({id(t): result for t, result in zip(node.outputs, results, strict=True)})
    return values[id(trace.outputs[0])]


def _register_operation(name: str) -> None:
    function, parameters = _NAMED[name]
    operation_class = "".join(part.capitalize() for part in name.split("_"))

    @register_converter(f"ops.{operation_class}")
    def convert(emitter: Emitter, operation: Any, x: Any) -> Any:
        return function(emitter, x, **{key: getattr(operation, key) for key in parameters})


for _name in _NAMED:
    _register_operation(_name)


@register_converter(keras.layers.Activation)
def convert_activation(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts an Activation layer."""
    return apply_activation(emitter, layer.activation, x)


@register_converter(keras.layers.ReLU, "keras.src.activations.activations.ReLU")
def convert_relu(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a ReLU layer with its negative slope, maximum and threshold."""
    return fn.relu(
        emitter,
        x,
        negative_slope=float(layer.negative_slope or 0.0),
        max_value=layer.max_value,
        threshold=float(layer.threshold or 0.0),
    )


@register_converter(keras.layers.LeakyReLU)
def convert_leaky_relu(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a LeakyReLU layer."""
    return fn.leaky_relu(emitter, x, negative_slope=layer.negative_slope)


@register_converter(keras.layers.ELU)
def convert_elu(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts an ELU layer."""
    return fn.elu(emitter, x, alpha=layer.alpha)


@register_converter(keras.layers.PReLU)
def convert_prelu(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a PReLU layer: x if x > 0, else alpha * x with a learned alpha."""
    alpha = emitter.param("alpha", layer.alpha)
    zero = scalar(0.0, x)
    below = relax.op.multiply(relax.op.minimum(x, zero), alpha)
    return emitter.emit(relax.op.add(relax.op.maximum(x, zero), below))


@register_converter(keras.layers.Softmax)
def convert_softmax(emitter: Emitter, layer: Any, x: Any, mask: Any = None) -> Any:
    """Converts a softmax over one axis, or over several axes together."""
    if mask is not None:
        keep = mask if dtype(mask) == "bool" else relax.op.astype(mask, "bool")
        x = emitter.emit(relax.op.where(keep, x, scalar(-1e30, x)))
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if len(axes) == 1:
        return fn.softmax(emitter, x, axis=axes[0])
    axes = [axis % len(shape(x)) for axis in axes]
    shifted = relax.op.subtract(x, relax.op.max(x, axis=axes, keepdims=True))
    powers = emitter.emit(relax.op.exp(shifted))
    total = relax.op.sum(powers, axis=axes, keepdims=True)
    return emitter.emit(relax.op.divide(powers, total))
