"""Converters of `keras.ops` that move, scan, reduce or normalise along axes, and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.convolution import conv
from cprune_tf.compiler.importer.emitter import Emitter, dtype, scalar, shape
from cprune_tf.compiler.importer.merging import concatenate
from cprune_tf.compiler.importer.normalization import along_axes, normalize
from cprune_tf.compiler.importer.padding import resolve_padding, tvm_order
from cprune_tf.compiler.importer.raw_ops import cast, operand, operands
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.compiler.importer.shaping import crop, pad
from cprune_tf.graph.fused_layers import depthwise_kernel, to_numpy

_op = relax.op


def _require_channels_last(operation: Any) -> None:
    if operation.data_format != "channels_last":
        raise UnsupportedOperationError(
            f"data_format is {operation.data_format!r}; expected 'channels_last'"
        )


def _axes(axis: Any, rank: int) -> list[int]:
    """The axes that an argument names, from 0; None for all of them."""
    if axis is None:
        return list(range(rank))
    return [a % rank for a in ([axis] if isinstance(axis, int) else axis)]


@register_converter("ops.DepthToSpace")
def convert_depth_to_space(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the move of channels to the positions of blocks."""
    _require_channels_last(operation)
    size = operation.block_size
    batch, height, width, channels = shape(x)
    left = channels // size**2
    y = emitter.emit(_op.reshape(x, (batch, height, width, size, size, left)))
    y = emitter.emit(_op.permute_dims(y, [0, 1, 3, 2, 4, 5]))
    return emitter.emit(_op.reshape(y, (batch, height * size, width * size, left)))


@register_converter("ops.SpaceToDepth")
def convert_space_to_depth(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the move of the positions of blocks to channels."""
    _require_channels_last(operation)
    size = operation.block_size
    batch, height, width, channels = shape(x)
    blocks = (height // size, width // size)
    y = emitter.emit(_op.reshape(x, (batch, blocks[0], size, blocks[1], size, channels)))
    y = emitter.emit(_op.permute_dims(y, [0, 1, 3, 2, 4, 5]))
    return emitter.emit(_op.reshape(y, (batch, *blocks, channels * size**2)))


@register_converter("ops.Roll")
def convert_roll(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a circular shift along axes."""
    if operation.axis is None:
        raise UnsupportedOperationError("axis is None; expected the axes to shift along")
    axes = _axes(operation.axis, len(shape(x)))
    shifts = np.broadcast_to(np.asarray(operation.shift), (len(axes),))
    for axis, shift in zip(axes, shifts, strict=True):
        extent = shape(x)[axis]
        cut = (extent - int(shift)) % extent
        if cut:
            back = emitter.emit(_op.strided_slice(x, [axis], [cut], [extent]))
            front = emitter.emit(_op.strided_slice(x, [axis], [0], [cut]))
            x = emitter.emit(_op.concat([back, front], axis=axis))
    return x


_STACKS = {"Vstack": 0, "Hstack": 1, "Dstack": 2}


@register_converter(*(f"ops.{name}" for name in _STACKS))
def convert_side_by_side(emitter: Emitter, operation: Any, xs: Sequence[Any]) -> Any:
    """Converts a concatenation along the first, second or third axis."""
    axis = _STACKS[type(operation).__name__]
    tensors = operands(emitter, xs)
    if len(shape(tensors[0])) <= max(axis, 1):
        raise UnsupportedOperationError(
            f"the tensors have {len(shape(tensors[0]))} axes; expected more than {max(axis, 1)}"
        )
    return concatenate(emitter, tensors, axis)


@register_converter("ops.Fliplr", "ops.Flipud")
def convert_flip_of_rows(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the reversal of the second or the first axis."""
    return emitter.emit(_op.flip(x, 1 if type(operation).__name__ == "Fliplr" else 0))


@register_converter("ops.Cumsum", "ops.Cumprod")
def convert_cumulative(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts running sums or products along an axis."""
    if operation.axis is None:
        raise UnsupportedOperationError("axis is None; expected an axis")
    function = _op.cumsum if type(operation).__name__ == "Cumsum" else _op.cumprod
    x = cast(emitter, x, emitter.output_dtype)
    return emitter.emit(function(x, axis=operation.axis % len(shape(x))))


@register_converter("ops.Slice")
def convert_slice(emitter: Emitter, operation: Any, x: Any, start_indices: Any) -> Any:
    """Converts `keras.ops.slice` with fixed starts."""
    starts = [int(start) for start in to_numpy(start_indices)]
    sizes = zip(starts, operation.shape, shape(x), strict=True)
    ends = [extent if size == -1 else start + int(size) for start, size, extent in sizes]
    return emitter.emit(_op.strided_slice(x, list(range(len(starts))), starts, ends))


@register_converter("ops.CropImages")
def convert_crop_images(emitter: Emitter, operation: Any, images: Any) -> Any:
    """Converts `keras.ops.image.crop_images`."""
    return crop(emitter, images, _borders(emitter, operation, images, "cropping"))


@register_converter("ops.PadImages")
def convert_pad_images(emitter: Emitter, operation: Any, images: Any) -> Any:
    """Converts `keras.ops.image.pad_images`."""
    return pad(emitter, images, _borders(emitter, operation, images, "padding"))


def _borders(emitter: Emitter, operation: Any, images: Any, what: str) -> list[tuple[int, int]]:
    """The (before, after) of both axes, of which one may follow from the target's size."""
    _require_channels_last(operation)
    if len(shape(images)) != 4:
        raise UnsupportedOperationError(
            f"the images have the shape {shape(images)}; expected 4 axes"
        )
    widths = []
    sides = (("top", "bottom"), ("left", "right"))
    for axis, names in enumerate(sides, start=1):
        before, after = (getattr(operation, f"{name}_{what}") for name in names)
        whole = abs(shape(images)[axis] - (emitter.call.outputs[0].shape[axis] or 0))
        before = whole - after if before is None else before
        widths.append((int(before), whole - int(before)))
    return widths


@register_converter("ops.RGBToGrayscale")
def convert_rgb_to_grayscale(emitter: Emitter, operation: Any, images: Any) -> Any:
    """Converts the weighted sum of three colours, with the weights of ITU-R 601."""
    _require_channels_last(operation)
    weights = np.array([[0.2989], [0.587], [0.114]], "float32")
    x = cast(emitter, images, emitter.output_dtype)
    return emitter.emit(_op.matmul(x, emitter.param("weights", weights)))


@register_converter("ops.All", "ops.Any")
def convert_all_any(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the conjunction or disjunction of values along axes."""
    function = _op.min if type(operation).__name__ == "All" else _op.max
    truth = x if dtype(x) == "bool" else emitter.emit(_op.not_equal(x, scalar(0, x)))
    axes = _axes(operation.axis, len(shape(x)))
    y = function(_op.astype(truth, "int32"), axis=axes, keepdims=bool(operation.keepdims))
    return emitter.emit(_op.astype(y, "bool"))


@register_converter("ops.CountNonzero")
def convert_count_nonzero(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the number of values that are not zero."""
    truth = x if dtype(x) == "bool" else emitter.emit(_op.not_equal(x, scalar(0, x)))
    axes = _axes(operation.axis, len(shape(x)))
    return emitter.emit(_op.sum(_op.astype(truth, emitter.output_dtype), axis=axes))


@register_converter("ops.Logsumexp")
def convert_logsumexp(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts log(sum(exp(x))), without overflow."""
    axes = _axes(operation.axis, len(shape(x)))
    highest = emitter.emit(_op.max(x, axis=axes, keepdims=True))
    total = _op.sum(_op.exp(_op.subtract(x, highest)), axis=axes, keepdims=True)
    y = emitter.emit(_op.add(_op.log(total), highest))
    return y if operation.keepdims else emitter.emit(_op.squeeze(y, axes))


@register_converter("ops.Ptp")
def convert_range(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts the difference of the largest and the smallest value."""
    settings = {"axis": _axes(operation.axis, len(shape(x))), "keepdims": bool(operation.keepdims)}
    return emitter.emit(_op.subtract(_op.max(x, **settings), _op.min(x, **settings)))


@register_converter("ops.Average")
def convert_average(emitter: Emitter, operation: Any, x: Any, weights: Any = None) -> Any:
    """Converts the plain mean; weights are not supported."""
    if weights is not None:
        raise UnsupportedOperationError("weights are given; expected None")
    x = cast(emitter, x, emitter.output_dtype)
    return emitter.emit(_op.mean(x, axis=_axes(operation.axis, len(shape(x)))))


@register_converter("ops.Moments")
def convert_moments(emitter: Emitter, operation: Any, x: Any) -> list[Any]:
    """Converts mean and variance along axes."""
    settings = {"axis": _axes(operation.axes, len(shape(x))), "keepdims": bool(operation.keepdims)}
    return [emitter.emit(function(x, **settings)) for function in (_op.mean, _op.variance)]


@register_converter("ops.Normalize")
def convert_normalize(emitter: Emitter, operation: Any, x: Any) -> Any:
    """Converts a division by the norm of order 1 or 2, which counts as epsilon at least."""
    if operation.order not in (1, 2):
        raise UnsupportedOperationError(f"order is {operation.order!r}; expected 1 or 2")
    epsilon = 1e-7 if operation.epsilon is None else float(operation.epsilon)
    axes = _axes(operation.axis, len(shape(x)))
    size = _op.abs(x) if operation.order == 1 else _op.multiply(x, x)
    total = emitter.emit(_op.sum(size, axis=axes, keepdims=True))
    if operation.order == 1:
        return emitter.emit(_op.divide(x, _op.maximum(total, scalar(epsilon, x))))
    limit = scalar(epsilon**2, x)
    return emitter.emit(_op.multiply(x, _op.rsqrt(_op.maximum(total, limit))))


@register_converter("ops.BatchNorm")
def convert_batch_norm(
    emitter: Emitter,
    operation: Any,
    x: Any,
    mean: Any,
    variance: Any,
    offset: Any = None,
    scale: Any = None,
) -> Any:
    """Converts `keras.ops.batch_normalization` with constant statistics: x * scale + shift."""
    if any(isinstance(value, relax.Var) for value in (mean, variance, offset, scale)):
        raise UnsupportedOperationError("a statistic is computed; expected constants")
    factor = 1.0 / np.sqrt(to_numpy(variance).astype(np.float64) + operation.epsilon)
    factor = factor if scale is None else factor * to_numpy(scale)
    shift = -to_numpy(mean) * factor + (0.0 if offset is None else to_numpy(offset))
    rank = len(shape(x))
    axes = _axes(operation.axis, rank)
    scale_var = emitter.param("scale", along_axes(factor, axes, rank))
    shift_var = emitter.param("shift", along_axes(shift, axes, rank))
    return emitter.emit(_op.add(_op.multiply(x, scale_var), shift_var))


@register_converter("ops.RMSNorm")
def convert_rms_norm(emitter: Emitter, operation: Any, x: Any, scale: Any = None) -> Any:
    """Converts `keras.ops.rms_normalization`."""
    rank = len(shape(x))
    axes = _axes(operation.axis, rank)
    epsilon = 1e-7 if operation.epsilon is None else operation.epsilon
    y = normalize(emitter, x, axes, epsilon, centered=False)
    if scale is None:
        return y
    if not isinstance(scale, relax.Var):
        scale = emitter.param("scale", along_axes(scale, axes, rank))
    return emitter.emit(_op.multiply(y, scale))


@register_converter("ops.Conv", "ops.DepthwiseConv")
def convert_conv_operation(emitter: Emitter, operation: Any, x: Any, kernel: Any) -> Any:
    """Converts `keras.ops.conv` and `keras.ops.depthwise_conv` with a constant kernel."""
    _require_channels_last(operation)
    if isinstance(kernel, relax.Var):
        raise UnsupportedOperationError("the kernel is computed; expected a constant")
    is_depthwise = type(operation).__name__ == "DepthwiseConv"
    rank = len(shape(x)) - 2
    weights = to_numpy(kernel)
    strides, dilation = (
        [value] * rank if isinstance(value, int) else list(value)
        for value in (operation.strides, operation.dilation_rate)
    )
    window = weights.shape[:rank]
    amounts = resolve_padding(operation.padding.lower(), shape(x)[1:-1], window, strides, dilation)
    groups = shape(x)[-1] if is_depthwise else shape(x)[-1] // weights.shape[-2]
    y = conv(
        operand(emitter, x, emitter.output_dtype, "x"),
        emitter.param("kernel", depthwise_kernel(weights) if is_depthwise else weights),
        strides=strides,
        padding=tvm_order(amounts),
        dilation=dilation,
        groups=groups,
        depthwise=is_depthwise,
    )
    return emitter.emit(y)
