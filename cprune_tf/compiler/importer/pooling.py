"""Converters of local and global pooling over NHWC tensors."""

from __future__ import annotations

from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.convolution import require_channels_last
from cprune_tf.compiler.importer.emitter import Emitter, shape
from cprune_tf.compiler.importer.padding import resolve_padding, tvm_order
from cprune_tf.compiler.importer.registry import register_converter


@register_converter(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
def convert_pooling2d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Max or mean over windows; padded elements don't count in the mean, as in TensorFlow."""
    require_channels_last(layer)
    padding = resolve_padding(layer.padding, shape(x)[1:3], layer.pool_size, layer.strides)
    is_max = isinstance(layer, keras.layers.MaxPooling2D)
    pool = relax.op.nn.max_pool2d if is_max else relax.op.nn.avg_pool2d
    return emitter.emit(
        pool(
            x,
            pool_size=tuple(layer.pool_size),
            strides=tuple(layer.strides),
            padding=tuple(tvm_order(padding)),
            count_include_pad=False,
            layout="NHWC",
        )
    )


@register_converter(keras.layers.GlobalAveragePooling2D)
def convert_global_average_pooling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Mean over all positions."""
    require_channels_last(layer)
    axes = list(range(1, len(shape(x)) - 1))
    return emitter.emit(relax.op.mean(x, axis=axes, keepdims=bool(layer.keepdims)))


@register_converter(keras.layers.GlobalMaxPooling2D)
def convert_global_max_pooling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Maximum over all positions."""
    require_channels_last(layer)
    axes = list(range(1, len(shape(x)) - 1))
    return emitter.emit(relax.op.max(x, axis=axes, keepdims=bool(layer.keepdims)))
