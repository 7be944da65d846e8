"""Plans which calls absorb others: the batch norm after a convolution, the zero padding before it.

Compilers compute such layers as one operator, and so do the importer and the ties of a `.tflite`
file.

A batch normalisation is folded into the layer before it if that is a convolution or dense layer
with a linear activation, the model calls that layer once, and nothing else reads its output. Zero
padding is folded if every reader of the padded tensor is an unpadded convolution, or a max pooling
of values that are never negative. Every other call is converted on its own.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

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
class Absorbed:
    """The layers that one call absorbs, so that they need no conversion of their own.

    Attributes:
        batch_norm: The batch normalisation layer to fold into the call's kernel and bias, or None.
        padding: The zero padding ((top, bottom), (left, right)) to apply before the call; empty if
            there is none.
        layers_before: The names of the absorbed layers that the model computes before the call.
        layers_after: The names of the absorbed layers that the model computes after the call. Their
            weights are merged into the call's weights.
    """

    batch_norm: Any = None
    padding: tuple[tuple[int, int], ...] = ()
    layers_before: tuple[str, ...] = ()
    layers_after: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FoldingPlan:
    """Which calls absorb which layers.

    Attributes:
        absorbed: Call -> the layers it absorbs. Only calls that absorb something are in it.
        alias: Output of an absorbed call -> the tensor that takes its place.
    """

    absorbed: Mapping[Call, Absorbed]
    alias: Mapping[Tensor, Tensor]


def plan_folding(graph: FlatGraph) -> FoldingPlan:
    """Decides which batch norms and zero paddings of a model's flat graph are folded."""
    readers = _readers(graph)
    num_calls = Counter(id(call.operation) for call in graph.calls)
    producer = {tensor: call for call in graph.calls for tensor in call.outputs}
    absorbed: dict[Call, Absorbed] = {}
    alias: dict[Tensor, Tensor] = {}
    for call in graph.calls:
        if type(call.operation) is keras.layers.BatchNormalization:
            absorber = producer.get(call.inputs[0])
            if absorber is not None and _can_fold_batch_norm(absorber, call, readers, num_calls):
                absorbed[absorber] = Absorbed(batch_norm=call.operation, layers_after=(call.name,))
                alias[call.outputs[0]] = absorber.outputs[0]
    for call in graph.calls:
        if not _is_zero_padding(call):
            continue
        absorbers = readers.get(call.outputs[0], [])
        source = producer.get(call.inputs[0])
        if absorbers and all(_can_fold_padding(reader, call, source) for reader in absorbers):
            alias[call.outputs[0]] = call.inputs[0]
            for absorber in absorbers:
                assert absorber is not None
                absorbed[absorber] = _add_padding(absorbed.get(absorber, Absorbed()), call)
    return FoldingPlan(absorbed, alias)


def _readers(graph: FlatGraph) -> dict[Tensor, list[Call | None]]:
    """Maps each tensor to the calls that read it, one entry per use; None means a model output."""
    readers: dict[Tensor, list[Call | None]] = {}
    for call in graph.calls:
        for tensor in call.inputs:
            readers.setdefault(tensor, []).append(call)
    for tensor in keras.tree.flatten(graph.outputs):
        readers.setdefault(tensor, []).append(None)
    return readers


def _can_fold_batch_norm(
    absorber: Call,
    batch_norm: Call,
    readers: Mapping[Tensor, list[Call | None]],
    num_calls: Mapping[int, int],
) -> bool:
    layer, output = absorber.operation, absorber.outputs[0]
    if type(layer) not in _FOLDS_BATCH_NORM or num_calls[id(layer)] != 1:
        return False
    if layer.activation is not keras.activations.linear:
        return False
    rank = len(output.shape)
    return batch_norm.operation.axis in (-1, rank - 1) and len(readers[output]) == 1


def _is_zero_padding(call: Call) -> bool:
    return (
        type(call.operation) is keras.layers.ZeroPadding2D
        and call.operation.data_format == "channels_last"
    )


def _can_fold_padding(reader: Call | None, padding: Call, source: Call | None) -> bool:
    """Whether a reader of a padded tensor can pad its input itself.

    Args:
        reader: The call that reads the padded tensor; None if the tensor is a model output.
        padding: The call of the zero padding layer.
        source: The call that computes the padding's input; None if that is a model input.
    """
    if reader is None or getattr(reader.operation, "padding", None) != "valid":
        return False
    if type(reader.operation) in _FOLDS_PADDING:
        return True
    # A max pooling ignores elements that it pads itself, while zeros of a padding layer count. The
    # maximum is the same if no value is negative and every window holds at least one real value.
    if type(reader.operation) is not keras.layers.MaxPooling2D or not _is_not_negative(source):
        return False
    return all(
        max(amounts) < size
        for amounts, size in zip(padding.operation.padding, reader.operation.pool_size, strict=True)
    )


def _is_not_negative(call: Call | None) -> bool:
    """Whether a call's output is known to have no negative values."""
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
        layers_before=(call.name,),
    )


def to_numpy(value: Any) -> np.ndarray:
    """Converts a Keras variable, a Keras tensor or anything array-like to a NumPy array."""
    # Keras's implicit conversion uses a deprecated NumPy protocol; the numpy() method does not.
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def batch_norm_scale_shift(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scale and shift (float64 [channels]) of a batch norm at inference.

    At inference, a batch normalisation computes y = x * scale + shift.
    """
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
    """Folds the batch normalisation after a layer into the layer's kernel and bias.

    Args:
        kernel: The layer's kernel, with the output channels on the axis `channel_axis`.
        bias: The layer's bias [channels], or None if it has none.
        batch_norm: The batch normalisation layer to fold, or None.
        channel_axis: The axis of the kernel that holds the output channels.

    Returns:
        Kernel and bias in float64. The bias is None if there is neither a bias nor a batch norm.
    """
    kernel = to_numpy(kernel).astype(np.float64)
    bias = None if bias is None else to_numpy(bias).astype(np.float64)
    if batch_norm is None:
        return kernel, bias
    scale, shift = batch_norm_scale_shift(batch_norm)
    broadcast = [1] * kernel.ndim
    broadcast[channel_axis] = -1
    return kernel * scale.reshape(broadcast), shift if bias is None else bias * scale + shift


def layer_bias(layer: Any) -> Any:
    """Returns the layer's bias variable, or None if the layer has no bias."""
    return layer.bias if layer.use_bias else None


def depthwise_kernel(kernel: Any) -> np.ndarray:
    """Reshapes (*window, channels, multiplier) to (*window, channels * multiplier, 1).

    Keras numbers the output channels channel * multiplier + m, which is the order of this reshape.
    """
    array = to_numpy(kernel)
    return array.reshape((*array.shape[:-2], -1, 1))
