"""Converters of convolutions in one to three dimensions over channels-last tensors.

Kernels keep Keras's axes (kh, kw, in/groups, out) unless the converter's docstring says otherwise.
The axis of output channels is always the filter axis of the module.
"""

from __future__ import annotations

from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.activation import apply_activation
from cprune_tf.compiler.importer.emitter import Emitter, shape
from cprune_tf.compiler.importer.padding import resolve_padding, tvm_order
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.graph.fused_layers import depthwise_kernel, fold_kernel_and_bias, layer_bias

_DATA_LAYOUT = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
_KERNEL_LAYOUT = {1: "WIO", 2: "HWIO", 3: "DHWIO"}
_DEPTHWISE_LAYOUT = {1: "WOI", 2: "HWOI"}


def require_channels_last(layer: Any) -> None:
    """Raises UnsupportedOperationError for an NCHW layer: the whole module is channels last."""
    if layer.data_format != "channels_last":
        raise UnsupportedOperationError(
            f"data_format is {layer.data_format!r}; expected 'channels_last'"
        )


def explicit_padding(emitter: Emitter, layer: Any, x: Any) -> list[int]:
    """Returns a layer's padding plus that of an absorbed zero padding layer, in TVM's order."""
    sizes = shape(x)[1:-1]
    layer_amounts = resolve_padding(
        layer.padding, sizes, layer.kernel_size, layer.strides, layer.dilation_rate
    )
    absorbed_amounts = emitter.absorbed.padding or [(0, 0)] * len(sizes)
    return tvm_order(
        [
            (before + absorbed_before, after + absorbed_after)
            for (before, after), (absorbed_before, absorbed_after) in zip(
                layer_amounts, absorbed_amounts, strict=True
            )
        ]
    )


def conv(
    x: Any,
    kernel: Any,
    *,
    strides: Any = None,
    padding: Any,
    dilation: Any = None,
    groups: int = 1,
    depthwise: bool = False,
) -> Any:
    """Creates a convolution expression in one to three dimensions, depending on the rank of `x`.

    Args:
        x: The input [batch, *spatial, in].
        kernel: The kernel [*window, in/groups, out], or [*window, out, 1] if `depthwise`.
        strides: Steps between windows, one per spatial axis; None for 1.
        padding: Elements to add before each spatial axis, then those to add after each.
        dilation: Steps within a window, one per spatial axis; None for 1.
        groups: Number of groups that the input channels are split into.
        depthwise: Whether the kernel has the depthwise layout.

    Returns:
        The expression, not bound to a variable yet.
    """
    rank = len(shape(x)) - 2
    operation = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}[rank]
    return operation(
        x,
        kernel,
        strides=tuple(strides or [1] * rank),
        padding=tuple(padding),
        dilation=tuple(dilation or [1] * rank),
        groups=groups,
        data_layout=_DATA_LAYOUT[rank],
        kernel_layout=(_DEPTHWISE_LAYOUT if depthwise else _KERNEL_LAYOUT)[rank],
    )


def add_bias_and_activation(emitter: Emitter, layer: Any, y: Any, bias: Any) -> Any:
    """Emits the bias addition, if there is a bias [out], and the layer's activation."""
    if bias is not None:
        y = emitter.emit(relax.op.add(y, emitter.param("bias", bias)))
    return apply_activation(emitter, layer.activation, y)


@register_converter(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
def convert_conv(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a plain or grouped convolution."""
    require_channels_last(layer)
    kernel, bias = fold_kernel_and_bias(
        layer.kernel, layer_bias(layer), emitter.absorbed.batch_norm, -1
    )
    y = conv(
        x,
        emitter.param("kernel", kernel),
        strides=layer.strides,
        padding=explicit_padding(emitter, layer, x),
        dilation=layer.dilation_rate,
        groups=layer.groups,
    )
    return add_bias_and_activation(emitter, layer, emitter.emit(y), bias)


@register_converter(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
def convert_depthwise_conv(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a depthwise convolution; its kernel parameter has the shape (*window, out, 1)."""
    require_channels_last(layer)
    kernel, bias = fold_kernel_and_bias(
        depthwise_kernel(layer.kernel), layer_bias(layer), emitter.absorbed.batch_norm, -2
    )
    y = conv(
        x,
        emitter.param("kernel", kernel),
        strides=layer.strides,
        padding=explicit_padding(emitter, layer, x),
        dilation=layer.dilation_rate,
        groups=shape(x)[-1],
        depthwise=True,
    )
    return add_bias_and_activation(emitter, layer, emitter.emit(y), bias)


@register_converter(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
def convert_separable_conv(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a separable convolution; a batch norm is folded into the pointwise kernel."""
    require_channels_last(layer)
    y = conv(
        x,
        emitter.param("depthwise_kernel", depthwise_kernel(layer.depthwise_kernel)),
        strides=layer.strides,
        padding=explicit_padding(emitter, layer, x),
        dilation=layer.dilation_rate,
        groups=shape(x)[-1],
        depthwise=True,
    )
    pointwise, bias = fold_kernel_and_bias(
        layer.pointwise_kernel, layer_bias(layer), emitter.absorbed.batch_norm, -1
    )
    no_padding = [0] * (2 * (len(shape(x)) - 2))
    y = conv(emitter.emit(y), emitter.param("pointwise_kernel", pointwise), padding=no_padding)
    return add_bias_and_activation(emitter, layer, emitter.emit(y), bias)
