"""Parameters, multiply-accumulates, activation and weight bytes, by layer and by channel group."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cprune_tf.graph import keras_internals
from cprune_tf.graph.channel_graph import ChannelGraph
from cprune_tf.graph.flat import Call, Shape, flatten

_layers = keras.layers


@dataclass(frozen=True)
class LayerStatistics:
    """The counts of one layer; a shared layer's work counts once per call, its parameters once.

    Attributes:
        name: The layer's name in the flat graph.
        kind: The name of the layer's class.
        output_shape: The shape of the first call's output, the batch axis first.
        params: Number of values in the layer's weights.
        macs: Number of multiply-accumulates for one sample; None if a size is unknown.
        activation_bytes: Size of the outputs for one sample in bytes; None if a size is unknown.
        weight_bytes: Size of the weights as stored, in bytes.
    """

    name: str
    kind: str
    output_shape: Shape
    params: int
    macs: int | None
    activation_bytes: int | None
    weight_bytes: int


@dataclass(frozen=True)
class GroupStatistics:
    """The counts of one group: what a model would lose with all channels of the group.

    Attributes:
        name: The group's name.
        num_channels: Number of the group's units.
        protected: Why the group must stay; None if it can be pruned.
        params: Number of values in the weight slices that the units own.
        macs: Number of multiply-accumulates of the kernels' slices for one sample; None if a size
            is unknown. A kernel between two groups counts in both.
        activation_bytes: Size of the group's channels in all layers' outputs for one sample, in
            bytes; None if a size is unknown.
        weight_bytes: Size of those weight slices as stored, in bytes.
    """

    name: str
    num_channels: int
    protected: str | None
    params: int
    macs: int | None
    activation_bytes: int | None
    weight_bytes: int


@dataclass(frozen=True)
class ModelStatistics:
    """The counts of a whole model.

    Attributes:
        name: The model's name.
        layers: The counts of each layer and raw operation, in topological order.
    """

    name: str
    layers: tuple[LayerStatistics, ...]

    @property
    def params(self) -> int:
        """Number of values in all weights."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int | None:
        """Number of multiply-accumulates for one sample; None if a size is unknown."""
        return _total([layer.macs for layer in self.layers])

    @property
    def activation_bytes(self) -> int | None:
        """Size of all layers' outputs for one sample in bytes; None if a size is unknown."""
        return _total([layer.activation_bytes for layer in self.layers])

    @property
    def weight_bytes(self) -> int:
        """Size in bytes of all weights as stored: a model file without its config."""
        return sum(layer.weight_bytes for layer in self.layers)

    def __getitem__(self, name: str) -> LayerStatistics:
        """The layer of this name.

        Raises:
            KeyError: There is no such layer.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"No layer is called {name!r} in '{self.name}'.")


def statistics(model: Any) -> ModelStatistics:
    """Counts the parameters, work and memory of a model.

    Args:
        model: A functional or built Sequential model; nested models are inlined.

    Returns:
        The counts by layer.

    Raises:
        GraphError: The model has no graph.
    """
    flat = flatten(model)
    calls: dict[str, list[Call]] = {}
    for call in flat.calls:
        calls.setdefault(call.name, []).append(call)
    return ModelStatistics(model.name, tuple(_layer(group) for group in calls.values()))


def group_statistics(graph: ChannelGraph) -> tuple[GroupStatistics, ...]:
    """Counts the parameters, work and memory of each channel group.

    Args:
        graph: The analysed model.

    Returns:
        The counts of each group, in the graph's order.
    """
    flat = graph.propagation.flat
    operations = flat.layers()
    counts = {layer.name: layer for layer in statistics(flat.model).layers}
    result = []
    for group in graph.groups:
        params, macs, weight_bytes, activation_bytes = 0, 0.0, 0, 0.0
        for weight in group.weights:
            layer = operations[weight.layer]
            names = keras_internals.relative_weight_names(layer)
            variable = layer.weights[names.index(weight.weight)]
            size = math.prod(variable.shape)
            share = float(np.mean(weight.units >= 0))
            params += round(size * share)
            weight_bytes += round(size * share) * _item_bytes(variable.dtype)
            if weight.role == "kernel":
                kernels = _kernel_size(layer)
                work = counts[weight.layer].macs
                macs += math.nan if work is None else work * share * size / kernels
        for member in group.members:
            if member.what in ("filters", "channels"):
                whole = counts[member.layer].activation_bytes
                share = float(np.mean(member.units >= 0))
                activation_bytes += math.nan if whole is None else whole * share
        result.append(
            GroupStatistics(
                group.name,
                group.num_channels,
                group.protected,
                params,
                _whole_number(macs),
                _whole_number(activation_bytes),
                weight_bytes,
            )
        )
    return tuple(result)


def _whole_number(value: float) -> int | None:
    """Rounds a count; NaN, which stands for an unknown count, becomes None."""
    return None if math.isnan(value) else round(value)


def _kernel_size(layer: Any) -> int:
    names = keras_internals.relative_weight_names(layer)
    pairs = zip(names, layer.weights, strict=True)
    return sum(math.prod(w.shape) for n, w in pairs if "kernel" in n or "embeddings" in n) or 1


def _layer(calls: list[Call]) -> LayerStatistics:
    first = calls[0]
    weights = first.operation.weights if first.is_layer else []
    params = sum(math.prod(w.shape) for w in weights)
    weight_bytes = sum(math.prod(w.shape) * _item_bytes(w.dtype) for w in weights)
    return LayerStatistics(
        first.name,
        type(first.operation).__name__,
        first.outputs[0].shape,
        params,
        _total([_macs(call) for call in calls]),
        _total([_activation_bytes(call) for call in calls]),
        weight_bytes,
    )


def _activation_bytes(call: Call) -> int | None:
    total = 0
    for tensor in call.outputs:
        count = _elements(tensor.shape)
        if count is None:
            return None
        total += count * _item_bytes(tensor.dtype)
    return total


def _macs(call: Call) -> int | None:
    for kinds, count in _MACS:
        if isinstance(call.operation, kinds):
            return count(call)
    return 0


def _per_output_position(call: Call) -> int | None:
    """Counts one use of every kernel value at every output position."""
    layer, shape = call.operation, call.outputs[0].shape
    return _times(_positions(shape, layer), _kernel_size(layer))


def _per_input_position(call: Call) -> int | None:
    return _times(_positions(call.inputs[0].shape, call.operation), _kernel_size(call.operation))


def _dense(call: Call) -> int | None:
    return _times(_elements(call.outputs[0].shape[:-1]), math.prod(call.operation.kernel.shape))


def _einsum(call: Call) -> int | None:
    """Counts the products of an einsum: each output sums over the letters it lacks."""
    _, kernel, outputs = re.split(",|->", call.operation.equation)
    sizes = zip(kernel, call.operation.kernel.shape, strict=True)
    summed = math.prod(size for letter, size in sizes if letter not in outputs)
    return _times(_elements(call.outputs[0].shape), summed)


def _attention(call: Call) -> int | None:
    """Counts the projections of query, key, value and output, and the products between them."""
    layer = call.operation
    query, value = call.inputs[0].shape, call.inputs[1].shape
    key = call.inputs[2].shape if len(call.inputs) > 2 else value
    q, k, v = (_elements(s[:-1]) for s in (query, key, value))
    if q is None or k is None or v is None:
        return None
    names = keras_internals.relative_weight_names(layer)
    sizes = {n: w.shape for n, w in zip(names, layer.weights, strict=True)}
    gate = math.prod(sizes["gate/kernel"]) if "gate/kernel" in sizes else 0
    output = sizes["attention_output/kernel"]
    work = q * (math.prod(sizes["query/kernel"]) + math.prod(output) + gate)
    work += k * math.prod(sizes["key/kernel"]) + v * math.prod(sizes["value/kernel"])
    _, heads, width = sizes["query/kernel"]
    return work + q * k * heads * (width + output[1])


def _every_step(call: Call) -> int | None:
    """Counts a wrapped layer's work once per time step."""
    steps, work = call.inputs[0].shape[1], _macs(call.inside(call.operation.layer))
    return None if steps is None else _times(work, steps)


_MACS: tuple[tuple[Any, Callable[[Call], int | None]], ...] = (
    (_layers.Dense, _dense),
    (_layers.EinsumDense, _einsum),
    ((_layers.MultiHeadAttention, _layers.GroupQueryAttention), _attention),
    (_layers.TimeDistributed, _every_step),
    (
        (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose),
        _per_input_position,
    ),
    (
        (
            _layers.Conv1D,
            _layers.Conv2D,
            _layers.Conv3D,
            _layers.DepthwiseConv1D,
            _layers.DepthwiseConv2D,
            _layers.SeparableConv1D,
            _layers.SeparableConv2D,
        ),
        _per_output_position,
    ),
)


def _positions(shape: Shape, layer: Any) -> int | None:
    spatial = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    return None if None in spatial else math.prod(s or 0 for s in spatial)


def _elements(shape: Shape) -> int | None:
    """Number of values in one sample; None if a size is unknown."""
    return None if None in shape[1:] else math.prod(s or 0 for s in shape[1:])


def _item_bytes(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _times(a: int | None, b: int) -> int | None:
    return None if a is None else a * b


def _total(values: list[int | None]) -> int | None:
    return None if None in values else sum(v or 0 for v in values)
