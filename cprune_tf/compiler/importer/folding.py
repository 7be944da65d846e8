"""Which calls are absorbed by another call: batch norm after a convolution, zero padding before it.

A batch normalisation is folded where its input is the output of a convolution or dense layer with
a linear activation that nobody else reads and that the model calls once; zero padding where every
reader of the padded tensor is an unpadded convolution, or a max pooling of values that are never
negative. Everything else is converted on its own.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from cprune_tf.compiler.importer.emitter import Absorbed, to_numpy
from cprune_tf.graph.flat import Call, FlatGraph, Tensor

_FOLDS_BATCH_NORM = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
)
_FOLDS_PADDING = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_NOT_NEGATIVE = (keras.activations.relu, keras.activations.relu6, keras.activations.sigmoid)


@dataclasses.dataclass(frozen=True)
class FoldingPlan:
    """What is absorbed where.

    Attributes:
        absorbed: For a call that absorbs others: what.
        alias: Output of an absorbed call -> the tensor that takes its place.
    """

    absorbed: Mapping[Call, Absorbed]
    alias: Mapping[Tensor, Tensor]


def plan_folding(graph: FlatGraph) -> FoldingPlan:
    """Decides what is folded into what in a model's flat graph."""
    readers = _readers(graph)
    num_calls = Counter(id(call.operation) for call in graph.calls)
    producer = {tensor: call for call in graph.calls for tensor in call.outputs}
    absorbed: dict[Call, Absorbed] = {}
    alias: dict[Tensor, Tensor] = {}
    for call in graph.calls:
        if type(call.operation) is keras.layers.BatchNormalization:
            host = producer.get(call.inputs[0])
            if host is not None and _takes_batch_norm(host, call, readers, num_calls):
                absorbed[host] = Absorbed(batch_norm=call.operation, after=(call.name,))
                alias[call.outputs[0]] = host.outputs[0]
    for call in graph.calls:
        if not _is_zero_padding(call):
            continue
        hosts = readers.get(call.outputs[0], [])
        takes = [_takes_padding(host, call, producer.get(call.inputs[0])) for host in hosts]
        if takes and all(takes):
            alias[call.outputs[0]] = call.inputs[0]
            for host in hosts:
                assert host is not None
                absorbed[host] = _add_padding(absorbed.get(host, Absorbed()), call)
    return FoldingPlan(absorbed, alias)


def _readers(graph: FlatGraph) -> dict[Tensor, list[Call | None]]:
    """Who reads each tensor: one entry a use, None for "is a model output"."""
    readers: dict[Tensor, list[Call | None]] = {}
    for call in graph.calls:
        for tensor in call.inputs:
            readers.setdefault(tensor, []).append(call)
    for tensor in keras.tree.flatten(graph.outputs):
        readers.setdefault(tensor, []).append(None)
    return readers


def _takes_batch_norm(
    host: Call,
    batch_norm: Call,
    readers: Mapping[Tensor, list[Call | None]],
    num_calls: Mapping[int, int],
) -> bool:
    if type(host.operation) not in _FOLDS_BATCH_NORM or num_calls[id(host.operation)] != 1:
        return False
    if host.operation.activation is not keras.activations.linear:
        return False
    rank = len(host.outputs[0].shape)
    return batch_norm.operation.axis in (-1, rank - 1) and len(readers[host.outputs[0]]) == 1


def _is_zero_padding(call: Call) -> bool:
    return (
        type(call.operation) is keras.layers.ZeroPadding2D
        and call.operation.data_format == "channels_last"
    )


def _takes_padding(host: Call | None, padding: Call, before: Call | None) -> bool:
    if host is None or getattr(host.operation, "padding", None) != "valid":
        return False
    if type(host.operation) in _FOLDS_PADDING:
        return True
    # A window's maximum ignores absorbed padding; that is the same where zero is never larger
    # than what the window holds besides, so something else must be in every window.
    if type(host.operation) is not keras.layers.MaxPooling2D or not _is_not_negative(before):
        return False
    return all(
        max(amounts) < size
        for amounts, size in zip(padding.operation.padding, host.operation.pool_size, strict=True)
    )


def _is_not_negative(call: Call | None) -> bool:
    if call is None:
        return False
    if type(call.operation) is keras.layers.ReLU:
        return not call.operation.negative_slope
    return getattr(call.operation, "activation", None) in _NOT_NEGATIVE


def _add_padding(absorbed: Absorbed, call: Call) -> Absorbed:
    top_bottom, left_right = call.operation.padding
    return dataclasses.replace(
        absorbed,
        padding=(tuple(top_bottom), tuple(left_right)),
        before=(call.name,),
    )


def batch_norm_scale_shift(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """A batch normalisation at inference as y = x * scale + shift, both float64 [channels]."""
    mean = to_numpy(layer.moving_mean).astype(np.float64)
    variance = to_numpy(layer.moving_variance).astype(np.float64)
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * to_numpy(layer.gamma).astype(np.float64)
    shift = -mean * scale
    if layer.center:
        shift = shift + to_numpy(layer.beta).astype(np.float64)
    return scale, shift


def fold_kernel_and_bias(
    kernel: Any, bias: Any, batch_norm: Any, channel_axis: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """A layer's kernel and bias with the batch normalisation that follows folded in.

    Args:
        kernel: Weights, the output channels on `channel_axis`.
        bias: [channels], or None.
        batch_norm: The layer to fold, or None.
        channel_axis: Of the kernel.

    Returns:
        Kernel and bias in float64; bias None where there is neither bias nor batch norm.
    """
    kernel = to_numpy(kernel).astype(np.float64)
    bias = None if bias is None else to_numpy(bias).astype(np.float64)
    if batch_norm is None:
        return kernel, bias
    scale, shift = batch_norm_scale_shift(batch_norm)
    broadcast = [1] * kernel.ndim
    broadcast[channel_axis] = -1
    return kernel * scale.reshape(broadcast), shift if bias is None else bias * scale + shift
