"""Converters of convolutions over NHWC tensors."""

from __future__ import annotations

from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.activation import apply_activation
from cprune_tf.compiler.importer.emitter import Emitter, shape
from cprune_tf.compiler.importer.folding import fold_kernel_and_bias
from cprune_tf.compiler.importer.padding import resolve_padding, tvm_order
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter


def require_channels_last(layer: Any) -> None:
    """Refuses layers that want NCHW: the whole module is NHWC."""
    if layer.data_format != "channels_last":
        raise UnsupportedOperationError(
            f"data_format is {layer.data_format!r}; expected 'channels_last'"
        )


def _explicit_padding(emitter: Emitter, layer: Any, x: Any) -> list[int]:
    """The layer's own padding plus what was absorbed from a zero padding layer before it."""
    own = resolve_padding(
        layer.padding, shape(x)[1:-1], layer.kernel_size, layer.strides, layer.dilation_rate
    )
    if len(own) != 2:
        return tvm_order(own)
    absorbed = emitter.absorbed.padding
    return tvm_order([(b + pb, a + pa) for (b, a), (pb, pa) in zip(own, absorbed, strict=True)])


def _conv2d(
    x: Any, kernel: Any, layer: Any, padding: list[int], *, groups: int, kernel_layout: str
) -> Any:
    return relax.op.nn.conv2d(
        x,
        kernel,
        strides=tuple(layer.strides),
        padding=tuple(padding),
        dilation=tuple(layer.dilation_rate),
        groups=groups,
        data_layout="NHWC",
        kernel_layout=kernel_layout,
    )


def add_bias_and_activation(emitter: Emitter, layer: Any, y: Any, bias: Any) -> Any:
    """The epilogue every weighted layer shares."""
    if bias is not None:
        y = emitter.emit(relax.op.add(y, emitter.param("bias", bias)))
    return apply_activation(emitter, layer.activation, y)


@register_converter(keras.layers.Conv2D)
def convert_conv2d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Plain and grouped convolution; kernel (kh, kw, in/groups, out)."""
    require_channels_last(layer)
    kernel, bias = fold_kernel_and_bias(
        layer.kernel, layer.bias if layer.use_bias else None, emitter.absorbed.batch_norm, 3
    )
    weight = emitter.param("kernel", kernel)
    padding = _explicit_padding(emitter, layer, x)
    y = emitter.emit(_conv2d(x, weight, layer, padding, groups=layer.groups, kernel_layout="HWIO"))
    return add_bias_and_activation(emitter, layer, y, bias)


@register_converter(keras.layers.DepthwiseConv2D)
def convert_depthwise_conv2d(emitter: Emitter, layer: Any, x: Any) -> Any:
    """One filter (or depth_multiplier filters) a channel; the parameter is (kh, kw, out, 1)."""
    require_channels_last(layer)
    kh, kw, channels, multiplier = layer.kernel.shape
    # Keras numbers the outputs channel * multiplier + m, which is the order of this reshape.
    kernel = keras.ops.reshape(layer.kernel, (kh, kw, channels * multiplier, 1))
    kernel, bias = fold_kernel_and_bias(
        kernel, layer.bias if layer.use_bias else None, emitter.absorbed.batch_norm, 2
    )
    weight = emitter.param("kernel", kernel)
    padding = _explicit_padding(emitter, layer, x)
    y = emitter.emit(_conv2d(x, weight, layer, padding, groups=channels, kernel_layout="HWOI"))
    return add_bias_and_activation(emitter, layer, y, bias)
