"""Converters of layers that join several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter
from cprune_tf.compiler.importer.registry import register_converter

_PAIRWISE = {
    keras.layers.Add: relax.op.add,
    keras.layers.Subtract: relax.op.subtract,
    keras.layers.Multiply: relax.op.multiply,
    keras.layers.Maximum: relax.op.maximum,
    keras.layers.Minimum: relax.op.minimum,
}


@register_converter(*_PAIRWISE)
def convert_elementwise(emitter: Emitter, layer: Any, tensors: Sequence[Any]) -> Any:
    """Two or more tensors, element by element, from left to right."""
    operation = _PAIRWISE[type(layer)]
    result = tensors[0]
    for tensor in tensors[1:]:
        result = emitter.emit(operation(result, tensor))
    return result


@register_converter(keras.layers.Concatenate)
def convert_concatenate(emitter: Emitter, layer: Any, tensors: Sequence[Any]) -> Any:
    """One after the other along an axis."""
    return emitter.emit(relax.op.concat(list(tensors), axis=layer.axis))
