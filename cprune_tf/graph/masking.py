"""Masking: the same shapes as the original, with the removed channels forced to zero.

Definition: `mask(model, removal)` computes what the model would compute if the removed channels did
not exist. In every tensor that a channel-mixing layer consumes, the removed channels are exactly
zero, after normalisation and activation. A normalisation that mixes channels (layer normalisation)
takes its mean and variance over the remaining channels only. This equals `rebuild(model, removal,
fold_constants=False)` up to the order of floating-point sums. A branch that vanishes
(`cprune_tf.graph.vanishing`) is still computed, but the sums that read it receive zeros.

`keep_constants=True` selects the other definition of `cprune_tf.graph.folding`: only the kernels of
the removed units are zero, and the constants from their biases and normalisations remain.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cprune_tf.graph.channel_graph import ChannelGraph, Removal
from cprune_tf.graph.flat import Call
from cprune_tf.graph.labels import Axes, Labels
from cprune_tf.graph.propagation import Propagation
from cprune_tf.graph.rebuilding import graph_of, resize_config
from cprune_tf.graph.replaying import (
    copy_compile_state,
    copy_weights,
    make_operation,
    replay,
    twin_weights,
)
from cprune_tf.graph.rules.registry import Effect, Keep, Weight
from cprune_tf.graph.vanishing import find_vanishing


@keras.saving.register_keras_serializable(package="cprune_tf")
class ChannelMask(keras.layers.Layer):
    """Sets some indices of one axis to zero.

    Attributes:
        axis: The number of the masked axis.
        kept: The indices that keep their values.
        size: The size of the axis.
    """

    def __init__(self, axis: int, kept: list[int], size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis, self.kept, self.size = axis, list(kept), size
        self.supports_masking = True  # lets Keras pass on masks of time steps

    def call(self, inputs: Any) -> Any:
        """Returns the inputs with zeros at all other indices."""
        shape = [1] * len(inputs.shape)
        shape[self.axis] = self.size
        flags = np.zeros(self.size, dtype=bool)
        flags[self.kept] = True
        return keras.ops.where(flags.reshape(shape), inputs, keras.ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "axis": self.axis, "kept": self.kept, "size": self.size}


@keras.saving.register_keras_serializable(package="cprune_tf")
class TakeChannels(ChannelMask):
    """Picks the kept indices of one axis."""

    def call(self, inputs: Any) -> Any:
        """Returns the smaller tensor."""
        return keras.ops.take(inputs, np.asarray(self.kept, dtype="int32"), axis=self.axis)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape with the smaller axis."""
        shape = list(input_shape)
        shape[self.axis] = len(self.kept)
        return tuple(shape)


@keras.saving.register_keras_serializable(package="cprune_tf")
class SpreadChannels(ChannelMask):
    """Puts the kept indices back in their places, with zeros in the others."""

    def call(self, inputs: Any) -> Any:
        """Returns the larger tensor."""
        # Every removed place reads one extra index, which holds zeros.
        widths = [(0, 0)] * len(inputs.shape)
        widths[self.axis] = (0, 1)
        source = np.full(self.size, len(self.kept), dtype="int32")
        source[self.kept] = np.arange(len(self.kept))
        return keras.ops.take(keras.ops.pad(inputs, widths), source, axis=self.axis)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape with the larger axis."""
        shape = list(input_shape)
        shape[self.axis] = self.size
        return tuple(shape)


def mask(
    model: Any,
    removal: Removal,
    *,
    keep_constants: bool = False,
    graph: ChannelGraph | None = None,
) -> Any:
    """Makes a model of unchanged shapes in which the removed channels are zero.

    Args:
        model: A functional or built Sequential model; it is not modified.
        removal: Unit indices by channel group name.
        keep_constants: Whether to set only the kernels of the removed units to zero.
        graph: The model's channel groups, if the caller has them already.

    Returns:
        A new keras.Model, compiled like `model`; it can be trained and saved.

    Raises:
        GraphError: The model or the removal cannot be used.
    """
    graph = graph_of(model, graph)
    keep = graph.keep(removal)
    if keep_constants:
        masked = _without_kernels(graph.propagation, keep)
    else:
        masked = _Masker(graph.propagation, keep).build()
    copy_compile_state(model, masked)
    return masked


def _without_kernels(propagation: Propagation, keep: Keep) -> Any:
    """Copies the model and sets the kernels of the removed units to zero."""
    copies: dict[str, Any] = {}

    def make(call: Call) -> Any:
        copies[call.name] = make_operation(call, {})
        return copies[call.name]

    model = replay(propagation.flat, make)
    for call in {call.name: call for call in propagation.flat.calls}.values():
        copy_weights(call, copies[call.name], {}, None)
        for name, weight in propagation.weights[call.name].items():
            if weight.role == "kernel" and weight.out_axis is not None:
                _zero(call, copies[call.name], name, weight, weight.out_axis, keep)
    return model


def _zero(call: Call, twin: Any, name: str, weight: Weight, axis: int, keep: Keep) -> None:
    """Sets the removed indices along one axis of a layer's weight to zero, if it has the weight."""
    labels = weight.axes[axis]
    variable = twin_weights(call, twin).get(name) if call.is_layer else None
    if labels is None or variable is None or not keep.touches(labels):
        return
    shape = [1] * len(weight.axes)
    shape[axis] = len(labels)
    variable.assign(np.where(keep.mask(labels).reshape(shape), np.asarray(variable), 0))


def inner_width(effect: Effect) -> Labels:
    """Returns the labels of channels inside a layer (heads) that no output carries."""
    produced = [labels for suffix, labels in effect.produced.items() if suffix]
    leaving = [labels for axes in effect.outputs for labels in axes if labels is not None]
    inner = np.concatenate(produced) if produced else np.zeros(0, dtype=np.int64)
    return inner[~np.isin(inner, np.concatenate(leaving))] if leaving else inner


class _Masker:
    """Replays a graph with masks between the calls."""

    def __init__(self, propagation: Propagation, keep: Keep) -> None:
        self._p = propagation
        self._keep = keep
        self._mixes: dict[str, bool] = {}
        self._first: dict[str, Effect] = {}
        self._copies: dict[str, Any] = {}
        self._masked: set[int] = set()
        self._count = 0
        self._vanishing = find_vanishing(propagation, keep)
        read = {id(t) for i in self._vanishing.sums for t in propagation.flat.calls[i].inputs}
        self._zeroed = read & self._vanishing.gone
        self._needed = {id(t) for t in keras.tree.flatten(propagation.flat.outputs)}
        for call, effect in zip(propagation.flat.calls, propagation.effects, strict=True):
            if not effect.flow:  # a call that acts channel by channel can be masked after it
                self._needed.update(id(t) for t in call.inputs)
        for position, call in enumerate(propagation.flat.calls):
            effect, axes = propagation.effects[position], propagation.arriving[position]
            self._first.setdefault(call.name, effect)
            exists = position not in self._vanishing.dead
            mixed = exists and effect.mixes and any(keep.touches(a) for a in axes[0])
            self._mixes[call.name] = self._mixes.get(call.name, False) or mixed

    def build(self) -> Any:
        """Returns the masked model with the original's weights."""
        model = replay(self._p.flat, self._make, self._invoke)
        for call in {call.name: call for call in self._p.flat.calls}.values():
            effect = self._first[call.name]
            smaller = self._keep if self._mixes[call.name] else None
            copy_weights(call, self._copies[call.name], dict(effect.weights), smaller)
            # An inner width never leaves its layer: it is zeroed where the layer consumes it.
            inner = inner_width(effect)
            for name, weight in effect.weights.items():
                for axis, labels in enumerate(weight.axes):
                    if labels is None or axis == weight.out_axis or weight.role != "kernel":
                        continue
                    if np.isin(labels, inner).all():
                        _zero(call, self._copies[call.name], name, weight, axis, self._keep)
        return model

    def _make(self, call: Call) -> Any:
        changes: dict[str, Any] = {}
        if self._mixes[call.name]:
            changes = resize_config(self._first[call.name], self._keep)
        self._copies[call.name] = make_operation(call, changes)
        return self._copies[call.name]

    def _invoke(self, position: int, operation: Any, args: Any, kwargs: Any) -> Any:
        call, effect = self._p.flat.calls[position], self._p.effects[position]
        if self._mixes[call.name]:
            return self._mixed(position, operation, args, kwargs)
        outputs = operation(*args, **kwargs)
        if position in self._vanishing.dead:
            return self._dead(position, keras.tree.flatten(outputs))
        zeros_arrive_and_stay = effect.keeps_zero and all(
            id(t) in self._masked or not any(self._keep.touches(a) for a in axes)
            for t, axes in zip(call.inputs, self._p.arriving[position], strict=True)
        )
        flat = keras.tree.flatten(outputs)
        for index, tensor in enumerate(call.outputs):
            if not zeros_arrive_and_stay and id(tensor) in self._needed:
                flat[index] = self._through(ChannelMask, flat[index], effect.outputs[index])
            if zeros_arrive_and_stay or id(tensor) in self._needed:
                self._masked.add(id(tensor))
        return flat

    def _dead(self, position: int, values: list[Any]) -> list[Any]:
        """Replaces the outputs that a sum reads by zeros; what else reads them is dead, too."""
        for index, tensor in enumerate(self._p.flat.calls[position].outputs):
            if id(tensor) in self._zeroed:
                sizes = enumerate(tensor.shape)
                axis, size = next((a, s) for a, s in sizes if a and s is not None)
                values[index] = self._insert(ChannelMask, values[index], axis, [], size)
                self._masked.add(id(tensor))
        return values

    def _mixed(self, position: int, operation: Any, args: Any, kwargs: Any) -> Any:
        """Takes the removed channels out, calls the smaller layer, and puts zeros back."""
        effect = self._p.effects[position]
        small = self._through(TakeChannels, args[0], self._p.arriving[position][0])
        value = operation(small, *args[1:], **kwargs)
        self._masked.update(id(t) for t in self._p.flat.calls[position].outputs)
        return self._through(SpreadChannels, value, effect.outputs[0])

    def _through(self, layer: type, value: Any, axes: Axes) -> Any:
        """Applies a mask layer along every axis that loses channels."""
        for axis, labels in enumerate(axes):
            if labels is not None and self._keep.touches(labels):
                kept = self._keep.indices(labels).tolist()
                value = self._insert(layer, value, axis, kept, len(labels))
        return value

    def _insert(self, layer: type, value: Any, axis: int, kept: list[int], size: int) -> Any:
        """Applies a mask layer along one axis of this size."""
        name = f"cprune_mask_{self._count}"
        self._count += 1
        return layer(axis, kept, size, name=name)(value)
