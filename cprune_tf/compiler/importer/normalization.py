"""Converters of normalisation layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, dtype, scalar, shape, to_numpy
from cprune_tf.compiler.importer.folding import batch_norm_scale_shift
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter


def _along_axis(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """[channels] shaped so that it broadcasts along one axis of a tensor of that rank."""
    trailing = rank - 1 - (axis % rank)
    return values.reshape((-1,) + (1,) * trailing)


@register_converter(keras.layers.BatchNormalization)
def convert_batch_normalization(
    emitter: Emitter, layer: Any, x: Any, training: Any = None, mask: Any = None
) -> Any:
    """A batch norm that could not be folded: x * scale + shift."""
    if mask is not None:
        raise UnsupportedOperationError("a mask is passed; masks are not supported")
    scale, shift = batch_norm_scale_shift(layer)
    rank = len(shape(x))
    scale = emitter.param("scale", _along_axis(scale, layer.axis, rank))
    shift = emitter.param("shift", _along_axis(shift, layer.axis, rank))
    y = emitter.emit(relax.op.multiply(x, scale))
    return emitter.emit(relax.op.add(y, shift))


@register_converter(keras.layers.Rescaling)
def convert_rescaling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Input * scale + offset, each a number or one value a channel."""
    if dtype(x) != "float32":
        x = emitter.emit(relax.op.astype(x, "float32"))
    for value, role, operation in (
        (layer.scale, "scale", relax.op.multiply),
        (layer.offset, "offset", relax.op.add),
    ):
        array = to_numpy(value).astype(np.float32)
        if array.ndim == 0 and float(array) == (1.0 if role == "scale" else 0.0):
            continue
        operand = scalar(float(array), x) if array.ndim == 0 else emitter.param(role, array)
        x = emitter.emit(operation(x, operand))
    return x
