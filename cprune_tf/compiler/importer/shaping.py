"""Converters of layers that move elements, and of those that do nothing at inference."""

from __future__ import annotations

import math
from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.convolution import require_channels_last
from cprune_tf.compiler.importer.emitter import Emitter, shape
from cprune_tf.compiler.importer.registry import register_converter


@register_converter(
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
)
def convert_identity(emitter: Emitter, layer: Any, x: Any, training: Any = None) -> Any:
    """Layers that only act in training."""
    return x


@register_converter(keras.layers.Flatten)
def convert_flatten(emitter: Emitter, layer: Any, x: Any) -> Any:
    """All axes but the first into one, in NHWC order."""
    extents = shape(x)
    if len(extents) == 2:
        return x
    return emitter.emit(relax.op.reshape(x, (extents[0], math.prod(extents[1:]))))


@register_converter(keras.layers.Reshape)
def convert_reshape(emitter: Emitter, layer: Any, x: Any) -> Any:
    """To the layer's target shape; one -1 is filled in."""
    extents = shape(x)
    target = list(layer.target_shape)
    if -1 in target:
        known = math.prod(extent for extent in target if extent != -1)
        target[target.index(-1)] = math.prod(extents[1:]) // known
    return emitter.emit(relax.op.reshape(x, (extents[0], *target)))


@register_converter(keras.layers.ZeroPadding2D)
def convert_zero_padding2d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Zeros around the image."""
    require_channels_last(layer)
    (top, bottom), (left, right) = layer.padding
    widths = [0, 0, top, bottom, left, right, 0, 0]
    return emitter.emit(relax.op.nn.pad(x, widths))
