"""Converters of transposed convolutions: an ordinary convolution, then a shuffle of its channels.

With stride s, output position s*i + p of a transposed convolution is the sum over t of
x[i - t] * w[s*t + p]. For each of the s phases p, this is an ordinary convolution of the input with
every s-th element of the kernel. All phases together are one convolution with s times the filters
(s*s times in two dimensions, s*s*s in three), whose outputs are then interleaved. This avoids
multiplications by inserted zeros, and the tuner can treat it like any other convolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from tvm import relax

from cprune_tf.compiler.importer.activation import apply_activation
from cprune_tf.compiler.importer.convolution import conv, require_channels_last
from cprune_tf.compiler.importer.emitter import Emitter, shape
from cprune_tf.compiler.importer.padding import tvm_order
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.graph.fused_layers import fold_kernel_and_bias, layer_bias


@dataclass(frozen=True)
class _Axis:
    """What the phase convolutions compute along one spatial axis.

    Attributes:
        stride: The stride of the transposed convolution, which is also the number of phases.
        taps: Number of kernel elements of one phase.
        padding: Numbers of elements (before, after) that the phase convolution pads.
        skip: Number of interleaved elements before the first element of the output.
        size: Extent of the output.
    """

    stride: int
    taps: int
    padding: tuple[int, int]
    skip: int
    size: int


def _plan_axis(size: int, kernel: int, stride: int, output: int, mode: str) -> _Axis:
    """Plans the phase convolutions of one axis.

    Args:
        size: Extent of the input.
        kernel: Extent of the kernel, dilation included.
        stride: Stride of the transposed convolution.
        output: Extent of the output.
        mode: The Keras padding mode, "valid" or "same".

    Raises:
        UnsupportedOperationError: The output does not cover the whole input.
    """
    taps = -(-kernel // stride)
    # As in TensorFlow, this is the padding of the convolution that maps the output to the input.
    begin = max((size - 1) * stride + kernel - output, 0) // 2 if mode == "same" else 0
    first, last = begin // stride, -(-(begin + output) // stride)
    if last < size:
        raise UnsupportedOperationError(
            f"output_padding makes the output extent {output} too short for the input extent "
            f"{size}; expected a larger output_padding"
        )
    return _Axis(stride, taps, (taps - 1 - first, last - size), begin - first * stride, output)


def _phase_kernel(kernel: np.ndarray, axes: Sequence[_Axis]) -> np.ndarray:
    """Reorders (*window, out, in) to (*taps, in, phases * out): taps reversed, phases row-major."""
    rank = len(axes)
    widths = [
        (0, axis.taps * axis.stride - extent)
        for axis, extent in zip(axes, kernel.shape[:rank], strict=True)
    ]
    kernel = np.pad(kernel, [*widths, (0, 0), (0, 0)])
    split = list(itertools.chain.from_iterable((axis.taps, axis.stride) for axis in axes))
    out, inputs = kernel.shape[rank:]
    kernel = kernel.reshape((*split, out, inputs))
    taps, phases = list(range(0, 2 * rank, 2)), list(range(1, 2 * rank, 2))
    kernel = np.flip(kernel, axis=tuple(taps)).transpose((*taps, 2 * rank + 1, *phases, 2 * rank))
    return kernel.reshape((*(axis.taps for axis in axes), inputs, -1))


def _dilate(kernel: np.ndarray, dilation: Sequence[int]) -> np.ndarray:
    """Inserts dilation - 1 zeros between neighbouring elements of each kernel axis."""
    spatial = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    dilated = np.zeros((*spatial, *kernel.shape[len(spatial) :]), kernel.dtype)
    dilated[tuple(slice(None, None, d) for d in dilation)] = kernel
    return dilated


def _interleave(emitter: Emitter, y: Any, axes: Sequence[_Axis], channels: int) -> Any:
    """Turns [batch, *positions, phases * channels] into [batch, *output, channels]."""
    rank = len(axes)
    batch, *positions = shape(y)[:-1]
    strides = [axis.stride for axis in axes]
    if max(strides) > 1:
        y = emitter.emit(relax.op.reshape(y, (batch, *positions, *strides, channels)))
        order = itertools.chain.from_iterable((1 + i, 1 + rank + i) for i in range(rank))
        y = emitter.emit(relax.op.permute_dims(y, [0, *order, 1 + 2 * rank]))
        extents = [p * s for p, s in zip(positions, strides, strict=True)]
        y = emitter.emit(relax.op.reshape(y, (batch, *extents, channels)))
    for index, axis in enumerate(axes):
        if axis.size != shape(y)[1 + index]:
            end = axis.skip + axis.size
            y = emitter.emit(relax.op.strided_slice(y, [1 + index], [axis.skip], [end]))
    return y


@register_converter(
    keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose
)
def convert_conv_transpose(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a transposed convolution; its kernel parameter is (*taps, in, phases * out)."""
    require_channels_last(layer)
    kernel, bias = fold_kernel_and_bias(
        layer.kernel, layer_bias(layer), emitter.absorbed.batch_norm, -2
    )
    kernel = _dilate(kernel, layer.dilation_rate)
    sizes = shape(x)[1:-1]
    _, *outputs, channels = layer.compute_output_shape(shape(x))
    axes = [
        _plan_axis(size, extent, stride, output, layer.padding)
        for size, extent, stride, output in zip(
            sizes, kernel.shape, layer.strides, outputs, strict=False
        )
    ]
    weight = emitter.param("kernel", _phase_kernel(kernel, axes))
    y = emitter.emit(conv(x, weight, padding=tvm_order([axis.padding for axis in axes])))
    if bias is not None:
        phases = int(np.prod([axis.stride for axis in axes]))
        y = emitter.emit(relax.op.add(y, emitter.param("bias", np.tile(bias, phases))))
    return apply_activation(emitter, layer.activation, _interleave(emitter, y, axes, channels))
