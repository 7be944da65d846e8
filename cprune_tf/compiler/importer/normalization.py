"""Converters of normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, as_float, dtype, scalar, shape
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.graph.fused_layers import batch_norm_scale_shift, to_numpy

_op = relax.op


def along_axes(values: Any, axes: Sequence[int], rank: int) -> np.ndarray:
    """Reshapes values over some axes so that they broadcast over a tensor of the given rank."""
    array = to_numpy(values)
    positions = sorted(axis % rank for axis in axes)
    target = [1] * rank
    for position, extent in zip(positions, array.shape, strict=True):
        target[position] = extent
    return array.reshape(target[positions[0] :])


@register_converter(keras.layers.BatchNormalization)
def convert_batch_normalization(emitter: Emitter, layer: Any, x: Any, mask: Any = None) -> Any:
    """Converts a batch norm that could not be folded: x * scale + shift."""
    if mask is not None:
        raise UnsupportedOperationError(
            "a mask is passed; expected none: masks are not supported here"
        )
    scale, shift = batch_norm_scale_shift(layer)
    x, rank = as_float(emitter, x), len(shape(x))
    scale = emitter.param("scale", along_axes(scale, [layer.axis], rank))
    shift = emitter.param("shift", along_axes(shift, [layer.axis], rank))
    return emitter.emit(_op.add(_op.multiply(x, scale), shift))


def normalize(
    emitter: Emitter, x: Any, axes: Sequence[int], epsilon: float, *, centered: bool = True
) -> Any:
    """Normalizes over some axes: (x - mean) / sqrt(variance + epsilon).

    Without `centered`, computes x / sqrt(mean(x^2) + epsilon).
    """
    x = as_float(emitter, x)
    if centered:
        x = emitter.emit(_op.subtract(x, _op.mean(x, axis=list(axes), keepdims=True)))
    power = _op.mean(_op.multiply(x, x), axis=list(axes), keepdims=True)
    power = emitter.emit(_op.add(power, scalar(float(epsilon), x)))
    return emitter.emit(_op.multiply(x, _op.rsqrt(power)))


def _scale_and_shift(emitter: Emitter, y: Any, steps: Sequence[tuple[str, Any, Any]]) -> Any:
    """Applies parameters in turn; a step is (role, array or None, Relax operator)."""
    for role, array, operation in steps:
        if array is not None:
            y = emitter.emit(operation(y, emitter.param(role, array)))
    return y


@register_converter(keras.layers.LayerNormalization)
def convert_layer_normalization(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts layer normalisation over the layer's axes."""
    rank = len(shape(x))
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    axes = [axis % rank for axis in axes]
    gamma = along_axes(layer.gamma, axes, rank) if layer.gamma is not None else None
    beta = along_axes(layer.beta, axes, rank) if layer.beta is not None else None
    if getattr(layer, "rms_scaling", False):
        raise UnsupportedOperationError("rms_scaling=True; expected False: use RMSNormalization")
    last = rank - 1
    if axes == [last] and gamma is not None and beta is not None:
        x = as_float(emitter, x)
        scale, shift = emitter.param("gamma", gamma), emitter.param("beta", beta)
        return emitter.emit(_op.nn.layer_norm(x, scale, shift, axes=[last], epsilon=layer.epsilon))
    y = normalize(emitter, x, axes, layer.epsilon)
    return _scale_and_shift(emitter, y, [("gamma", gamma, _op.multiply), ("beta", beta, _op.add)])


@register_converter(keras.layers.RMSNormalization)
def convert_rms_normalization(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a division by the root mean square, followed by a learned scale."""
    rank = len(shape(x))
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    y = normalize(emitter, x, axes, layer.epsilon, centered=False)
    return _scale_and_shift(
        emitter, y, [("scale", along_axes(layer.scale, axes, rank), _op.multiply)]
    )


@register_converter(keras.layers.GroupNormalization)
def convert_group_normalization(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts normalisation over groups of channels and all positions."""
    extents = shape(x)
    rank = len(extents)
    if layer.axis % rank != rank - 1:
        raise UnsupportedOperationError(f"axis is {layer.axis}; expected the last one")
    split = (*extents[:-1], layer.groups, extents[-1] // layer.groups)
    grouped = emitter.emit(_op.reshape(x, split))
    y = normalize(emitter, grouped, [*range(1, rank - 1), rank], layer.epsilon)
    y = emitter.emit(_op.reshape(y, extents))
    gamma, beta = layer.gamma if layer.scale else None, layer.beta if layer.center else None
    return _scale_and_shift(emitter, y, [("gamma", gamma, _op.multiply), ("beta", beta, _op.add)])


def to_unit_length(emitter: Emitter, x: Any, axes: Sequence[int]) -> Any:
    """Divides a tensor by its Euclidean norm over some axes; a norm below 1e-12 counts as 1e-12."""
    power = _op.sum(_op.multiply(x, x), axis=list(axes), keepdims=True)
    power = emitter.emit(_op.maximum(power, scalar(1e-24, x)))
    return emitter.emit(_op.multiply(x, _op.rsqrt(power)))


@register_converter(keras.layers.UnitNormalization)
def convert_unit_normalization(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a division by the Euclidean norm over the layer's axes."""
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    return to_unit_length(emitter, x, axes)


@register_converter(keras.layers.SpectralNormalization)
def convert_spectral_normalization(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the wrapped layer with the kernel that it holds, as Keras does at inference."""
    return emitter.convert(layer.layer, x)


def _to_float(emitter: Emitter, x: Any) -> Any:
    return x if dtype(x) == "float32" else emitter.emit(_op.astype(x, "float32"))


def _affine(emitter: Emitter, x: Any, scale: np.ndarray, offset: np.ndarray) -> Any:
    """Emits x * scale + offset, without a scale of 1 or an offset of 0."""
    for array, role, operation, neutral in (
        (scale, "scale", _op.multiply, 1.0),
        (offset, "offset", _op.add, 0.0),
    ):
        array = array.astype(np.float32)
        if np.all(array == neutral):
            continue
        operand = scalar(float(array), x) if array.ndim == 0 else emitter.param(role, array)
        x = emitter.emit(operation(x, operand))
    return x


@register_converter(keras.layers.Rescaling)
def convert_rescaling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts x * scale + offset, where each factor is a number or one value per channel."""
    x = _to_float(emitter, x)
    return _affine(emitter, x, np.asarray(layer.scale), np.asarray(layer.offset))


@register_converter(keras.layers.Normalization)
def convert_normalization(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts (x - mean) / standard deviation to one multiplication and one addition."""
    mean = to_numpy(layer.mean).astype(np.float64)
    deviation = np.sqrt(to_numpy(layer.variance).astype(np.float64))
    deviation = np.maximum(deviation, keras.backend.epsilon())
    x = _to_float(emitter, x)
    if layer.invert:
        return _affine(emitter, x, deviation, mean)
    return _affine(emitter, x, 1.0 / deviation, -mean / deviation)
