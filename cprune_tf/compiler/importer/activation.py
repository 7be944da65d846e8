"""Activation functions: as layers, as the `activation` of another layer, as `keras.ops` calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, scalar
from cprune_tf.compiler.importer.registry import (
    UnsupportedOperationError,
    find_converter,
    register_converter,
)

ActivationConverter = Callable[[Emitter, Any], Any]


def relu(
    emitter: Emitter,
    x: Any,
    *,
    max_value: float | None = None,
    negative_slope: float = 0.0,
    threshold: float = 0.0,
) -> Any:
    """Keras's general ReLU; the common cases become one operator.

    Args:
        emitter: Where to.
        x: Input.
        max_value: Upper limit, or None.
        negative_slope: Slope below the threshold.
        threshold: Inputs below it are slope * (x - threshold).
    """
    if threshold == 0.0 and negative_slope == 0.0:
        if max_value is None:
            return emitter.emit(relax.op.nn.relu(x))
        return emitter.emit(relax.op.clip(x, 0.0, float(max_value)))
    if threshold == 0.0:
        y = emitter.emit(relax.op.nn.leakyrelu(x, float(negative_slope)))
    else:
        limit = scalar(float(threshold), x)
        below = emitter.emit(relax.op.subtract(x, limit))
        below = emitter.emit(relax.op.multiply(below, scalar(float(negative_slope), x)))
        y = emitter.emit(relax.op.where(relax.op.greater_equal(x, limit), x, below))
    if max_value is not None:
        y = emitter.emit(relax.op.minimum(y, scalar(float(max_value), x)))
    return y


def softmax(emitter: Emitter, x: Any, axis: int = -1) -> Any:
    """Softmax over one axis."""
    return emitter.emit(relax.op.nn.softmax(x, axis=axis))


_ACTIVATIONS: dict[Any, ActivationConverter] = {
    keras.activations.linear: lambda emitter, x: x,
    keras.activations.relu: relu,
    keras.activations.relu6: lambda emitter, x: relu(emitter, x, max_value=6.0),
    keras.activations.softmax: softmax,
    keras.activations.sigmoid: lambda emitter, x: emitter.emit(relax.op.sigmoid(x)),
    keras.activations.tanh: lambda emitter, x: emitter.emit(relax.op.tanh(x)),
    keras.activations.silu: lambda emitter, x: emitter.emit(relax.op.nn.silu(x)),
}


def apply_activation(emitter: Emitter, activation: Any, x: Any) -> Any:
    """Applies what a Keras layer holds as `activation`: None, a known function or a layer.

    Raises:
        UnsupportedOperationError: An activation function without a converter.
    """
    if activation is None:
        return x
    if isinstance(activation, keras.Layer):
        converter = find_converter(activation)
        if converter is not None:
            return converter(emitter, activation, x)
    elif activation in _ACTIVATIONS:
        return _ACTIVATIONS[activation](emitter, x)
    name = getattr(activation, "__name__", type(activation).__name__)
    raise UnsupportedOperationError(
        f"activation {name!r} has no converter; use one of keras.activations or a layer"
    )


@register_converter(keras.layers.Activation)
def convert_activation(emitter: Emitter, layer: Any, x: Any) -> Any:
    """An activation function as a layer."""
    return apply_activation(emitter, layer.activation, x)


@register_converter(keras.layers.ReLU)
def convert_relu(emitter: Emitter, layer: Any, x: Any) -> Any:
    """ReLU with its three knobs."""
    return relu(
        emitter,
        x,
        max_value=layer.max_value,
        negative_slope=float(layer.negative_slope or 0.0),
        threshold=float(layer.threshold or 0.0),
    )


@register_converter(keras.layers.Softmax)
def convert_softmax(emitter: Emitter, layer: Any, x: Any, mask: Any = None) -> Any:
    """Softmax over the layer's axis."""
    if mask is not None:
        raise UnsupportedOperationError("a mask is passed; masks are not supported")
    if not isinstance(layer.axis, int):
        raise UnsupportedOperationError(f"axis is {layer.axis!r}; expected one axis")
    return softmax(emitter, x, layer.axis)
