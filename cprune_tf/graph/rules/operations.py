"""Rules of raw `keras.ops` operations in a functional graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from cprune_tf.graph.flat import Shape, Tensor
from cprune_tf.graph.labels import Axes
from cprune_tf.graph.rules.common import (
    BINARY,
    UNARY,
    UNARY_KEEPING_ZERO,
    pad_rank,
    same_axes,
)
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, register_rule


def _ops(names: Iterable[str]) -> list[str]:
    return [f"ops.{name}" for name in sorted(names)]


@register_rule(*_ops(UNARY_KEEPING_ZERO))
def unary_keeping_zero(call: LayerCall) -> Effect:
    """A function of each value with f(0) = 0."""
    if len(call.inputs) != 1:
        return call.opaque(f"{call.title} takes {len(call.inputs)} tensors")
    return Effect((call.inputs[0],), keeps_zero=True, flow="pointwise")


@register_rule(*_ops(UNARY))
def unary(call: LayerCall) -> Effect:
    """A function of each value."""
    if len(call.inputs) != 1:
        return call.opaque(f"{call.title} takes {len(call.inputs)} tensors")
    return Effect((call.inputs[0],), flow="pointwise")


@register_rule(*_ops(BINARY))
def binary(call: LayerCall) -> Effect:
    """Ties the operands as numpy broadcasts them; constant arrays shrink with their channels."""
    out_shape = call.output_shapes[0]
    rank = len(out_shape)
    operands: list[tuple[Shape, Axes]] = []
    for value in (*call.call.args, *call.call.kwargs.values()):
        if isinstance(value, Tensor):
            operands.append(pad_rank(value.shape, call.labels_of(value), rank, 0))
    out = same_axes(call, operands, out_shape)

    def shrink(keep: Keep) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = tuple(_shrunk(v, out, keep) for v in call.call.args)
        return args, {k: _shrunk(v, out, keep) for k, v in call.call.kwargs.items()}

    sums = type(call.layer).__name__ == "Add" and len(operands) == 2
    return Effect((out,), reargument=shrink, flow="pointwise", sums=sums)


def _shrunk(value: Any, out: Axes, keep: Keep) -> Any:
    """Removes channels from a constant operand; returns anything else unchanged."""
    if isinstance(value, Tensor) or not hasattr(value, "shape") or not len(value.shape):
        return value
    array = np.asarray(keras.ops.convert_to_numpy(value))
    offset = len(out) - array.ndim
    for axis in range(array.ndim):
        labels = out[offset + axis]
        if labels is not None and array.shape[axis] == len(labels):
            array = array.take(keep.indices(labels), axis=axis)
    return array
