"""Converters of local and global pooling over channels-last tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.convolution import require_channels_last
from cprune_tf.compiler.importer.emitter import Emitter, as_float, shape
from cprune_tf.compiler.importer.padding import resolve_padding, tvm_order
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter

_POOLS = {
    (True, 1): relax.op.nn.max_pool1d,
    (True, 2): relax.op.nn.max_pool2d,
    (True, 3): relax.op.nn.max_pool3d,
    (False, 1): relax.op.nn.avg_pool1d,
    (False, 2): relax.op.nn.avg_pool2d,
    (False, 3): relax.op.nn.avg_pool3d,
}
_LAYOUTS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
_MAXIMA = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D)
_MEANS = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
)


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
    x = x if is_max else as_float(emitter, x)
    sizes = shape(x)[1:-1]
    amounts = list(extra) or resolve_padding(padding, sizes, pool_size, strides)
    return emitter.emit(
        _POOLS[is_max, len(sizes)](
            x,
            pool_size=tuple(pool_size),
            strides=tuple(strides),
            padding=tuple(tvm_order(amounts)),
            count_include_pad=False,
            layout=_LAYOUTS[len(sizes)],
        )
    )


@register_converter(*_MAXIMA, *_MEANS)
def convert_pooling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts pooling over windows."""
    require_channels_last(layer)
    is_max = isinstance(layer, _MAXIMA)
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


@register_converter(
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)
def convert_global_average_pooling(emitter: Emitter, layer: Any, x: Any, mask: Any = None) -> Any:
    """Converts the mean over all positions."""
    if mask is not None:
        raise UnsupportedOperationError(
            "a mask is passed; expected none: masks are not supported here"
        )
    return _global(emitter, layer, as_float(emitter, x), relax.op.mean)


@register_converter(
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
)
def convert_global_max_pooling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts the maximum over all positions."""
    return _global(emitter, layer, x, relax.op.max)


@register_converter(
    *(
        getattr(keras.layers, f"Adaptive{kind}Pooling{rank}D")
        for kind in ("Average", "Max")
        for rank in (1, 2, 3)
        if hasattr(keras.layers, f"Adaptive{kind}Pooling{rank}D")
    )
)
def convert_adaptive_pooling(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts pooling to a fixed number of positions."""
    require_channels_last(layer)
    is_max = type(layer).__name__.startswith("AdaptiveMax")
    return _adaptive(emitter, x, layer.output_size, is_max=is_max)


def _adaptive(emitter: Emitter, x: Any, output_size: int | Sequence[int], *, is_max: bool) -> Any:
    """Pools to a number of positions on each axis; windows may overlap and differ in size."""
    sizes = shape(x)[1:-1]
    targets = _per_axis(output_size, len(sizes))
    if all(size % target == 0 for size, target in zip(sizes, targets, strict=True)):
        window = [size // target for size, target in zip(sizes, targets, strict=True)]
        return pool(emitter, x, is_max=is_max, pool_size=window, strides=window, padding="valid")
    reduce = relax.op.max if is_max else relax.op.mean
    x = x if is_max else as_float(emitter, x)
    for axis, (size, target) in enumerate(zip(sizes, targets, strict=True), start=1):
        parts = []
        for index in range(target):
            begin, end = index * size // target, -(-(index + 1) * size // target)
            window = emitter.emit(relax.op.strided_slice(x, [axis], [begin], [end]))
            parts.append(emitter.emit(reduce(window, axis=axis, keepdims=True)))
        x = emitter.emit(relax.op.concat(parts, axis=axis)) if len(parts) > 1 else parts[0]
    return x
