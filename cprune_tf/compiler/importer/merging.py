"""Converters of layers that join several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, scalar, shape
from cprune_tf.compiler.importer.normalization import to_unit_length
from cprune_tf.compiler.importer.registry import register_converter

_PAIRWISE = {
    keras.layers.Add: relax.op.add,
    keras.layers.Average: relax.op.add,
    keras.layers.Subtract: relax.op.subtract,
    keras.layers.Multiply: relax.op.multiply,
    keras.layers.Maximum: relax.op.maximum,
    keras.layers.Minimum: relax.op.minimum,
}


@register_converter(*_PAIRWISE)
def convert_elementwise(emitter: Emitter, layer: Any, tensors: Sequence[Any]) -> Any:
    """Converts an elementwise merge of two or more tensors, from left to right."""
    operation = _PAIRWISE[type(layer)]
    rank = max(len(shape(tensor)) for tensor in tensors)
    tensors = [_with_rank(emitter, tensor, rank) for tensor in tensors]
    result = tensors[0]
    for tensor in tensors[1:]:
        result = emitter.emit(operation(result, tensor))
    if type(layer) is keras.layers.Average:
        result = emitter.emit(relax.op.multiply(result, scalar(1.0 / len(tensors), result)))
    return result


def _with_rank(emitter: Emitter, x: Any, rank: int) -> Any:
    """Inserts axes of extent 1 after the batch axis, where Keras's merge layers insert them."""
    extents = shape(x)
    if len(extents) == rank:
        return x
    new_axes = (1,) * (rank - len(extents))
    return emitter.emit(relax.op.reshape(x, (extents[0], *new_axes, *extents[1:])))


@register_converter(keras.layers.Concatenate)
def convert_concatenate(emitter: Emitter, layer: Any, tensors: Sequence[Any]) -> Any:
    """Converts a concatenation along the layer's axis."""
    return concatenate(emitter, tensors, layer.axis)


def concatenate(emitter: Emitter, tensors: Sequence[Any], axis: int) -> Any:
    """Emits the concatenation of tensors along an axis."""
    if len(tensors) == 1:
        return tensors[0]
    return emitter.emit(relax.op.concat(list(tensors), axis=axis % len(shape(tensors[0]))))


@register_converter(keras.layers.Dot)
def convert_dot(emitter: Emitter, layer: Any, tensors: Sequence[Any]) -> Any:
    """Converts a batchwise product of two tensors over one axis of each."""
    x, y = tensors
    axes = [layer.axes] * 2 if isinstance(layer.axes, int) else list(layer.axes)
    axes = [axis % len(shape(t)) for axis, t in zip(axes, tensors, strict=True)]
    if layer.normalize:
        x, y = (to_unit_length(emitter, t, [axis]) for t, axis in zip((x, y), axes, strict=True))
    # One letter per axis: "z" is the batch, "k" the axis that is summed over.
    letters = "abcdefghijklmnop"
    x_axes = ["z", *letters[1 : len(shape(x))]]
    y_axes = ["z", *letters[len(x_axes) : len(x_axes) + len(shape(y)) - 1]]
    x_axes[axes[0]] = y_axes[axes[1]] = "k"
    output_axes = [letter for letter in x_axes + y_axes[1:] if letter != "k"]
    equation = f"{''.join(x_axes)},{''.join(y_axes)}->{''.join(output_axes)}"
    result = emitter.emit(relax.op.einsum([x, y], equation))
    if len(output_axes) == 1:
        result = emitter.emit(relax.op.expand_dims(result, 1))
    return result
