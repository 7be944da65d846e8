"""Converters of local and global pooling over channels-last tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.convolution import require_channels_last
from cprune_tf.compiler.importer.emitter import Emitter, shape
from cprune_tf.compiler.importer.padding import resolve_padding, tvm_order
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter

_POOLS = {
    (True, 1): relax.op.nn.max_pool1d,
    (True, 2): relax.op.nn.max_pool2d,
    (False, 1): relax.op.nn.avg_pool1d,
    (False, 2): relax.op.nn.avg_pool2d,
}


def pool(
    emitter: Emitter,
    x: Any,
    *,
    is_max: bool,
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: str,
    extra: Sequence[tuple[int, int]] = (),
) -> Any:
    """Emits the maximum or mean over windows. As in TensorFlow, padded elements do not count.

    Args:
        emitter: Receives the operator.
        x: The input [batch, *spatial, channels].
        is_max: Whether the maximum is computed instead of the mean.
        pool_size: Window extents, one per spatial axis.
        strides: Steps between windows, one per spatial axis.
        padding: The Keras padding mode, "valid" or "same".
        extra: Elements (before, after) to pad each spatial axis with, in place of `padding`.

    Returns:
        The result's variable.
    """
    sizes = shape(x)[1:-1]
    amounts = list(extra) or resolve_padding(padding, sizes, pool_size, strides)
    return emitter.emit(
        _POOLS[is_max, len(sizes)](
            x,
            pool_size=tuple(pool_size),
            strides=tuple(strides),
            padding=tuple(tvm_order(amounts)),
            count_include_pad=False,
            layout={1: "NWC", 2: "NHWC"}[len(sizes)],
        )
    )


@register_converter(
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
)
def convert_pooling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts pooling over windows."""
    require_channels_last(layer)
    is_max = isinstance(layer, keras.layers.MaxPooling1D | keras.layers.MaxPooling2D)
    return pool(
        emitter,
        x,
        is_max=is_max,
        pool_size=layer.pool_size,
        strides=layer.strides,
        padding=layer.padding,
        extra=emitter.absorbed.padding,
    )


@register_converter("ops.MaxPool", "ops.AveragePool")
def convert_pool_operation(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts `keras.ops.max_pool` and `keras.ops.average_pool`."""
    if operation.data_format == "channels_first":
        raise UnsupportedOperationError("data_format is 'channels_first'; expected 'channels_last'")
    rank = len(shape(x)) - 2
    size = _per_axis(operation.pool_size, rank)
    return pool(
        emitter,
        x,
        is_max=type(operation).__name__ == "MaxPool",
        pool_size=size,
        strides=size if operation.strides is None else _per_axis(operation.strides, rank),
        padding=operation.padding.lower(),
    )


def _per_axis(value: int | Sequence[int], rank: int) -> Sequence[int]:
    return [value] * rank if isinstance(value, int) else value


def _global(emitter: Emitter, layer: Any, x: Any, operation: Any) -> Any:
    require_channels_last(layer)
    axes = list(range(1, len(shape(x)) - 1))
    return emitter.emit(operation(x, axis=axes, keepdims=bool(layer.keepdims)))


@register_converter(keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D)
def convert_global_average_pooling(emitter: Emitter, layer: Any, x: Any, mask: Any = None) -> Any:
    """Converts the mean over all positions."""
    if mask is not None:
        raise UnsupportedOperationError(
            "a mask is passed; expected none: masks are not supported here"
        )
    return _global(emitter, layer, x, relax.op.mean)


@register_converter(keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D)
def convert_global_max_pooling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the maximum over all positions."""
    return _global(emitter, layer, x, relax.op.max)
