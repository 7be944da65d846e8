"""Finds what removed channels still contribute, and the biases it can be added to.

There are two definitions of removing a channel. In the first (`fold_constants=False`) the channel
no longer exists, and its consumers receive nothing. In the second (`fold_constants=True`) only the
kernels of the removed units become zero (convolution filters, dense columns, depthwise kernels). A
constant then remains: the bias, passed through its normalisation and activation, for example
relu(beta - gamma * mean / sqrt(variance + epsilon)). If a consumer receives the same constant at
every position, the constant can be added to its bias exactly: this holds for a dense layer and for
a convolution without zero padding or with kernel size one. If the consumer has no bias, the
constant is subtracted from the mean of the batch normalisation behind it, or the consumer gets a
bias. If folding is not exact (zero padding beside a constant that is not zero, a transposed
convolution, a shared layer, an operation that mixes channels), the constant is dropped, as in the
first definition, and `Folding.dropped` lists it with its size.

If nothing is dropped, `rebuild(model, removal, fold_constants=True)` equals
`mask(model, removal, keep_constants=True)`.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cprune_tf.graph.flat import Call, Tensor
from cprune_tf.graph.keras_internals import relative_weight_names
from cprune_tf.graph.labels import Axes
from cprune_tf.graph.propagation import Propagation
from cprune_tf.graph.rules.registry import Effect, Keep

Array = npt.NDArray[np.float64]

_logger = logging.getLogger(__name__)
_DENSE = (keras.layers.Dense,)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_ATTENTIONS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_PRODUCERS = (
    *_DENSE,
    *_CONVOLUTIONS,
    *_SEPARABLE,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)


@dataclass(frozen=True)
class Dropped:
    """A constant that could not be folded.

    Attributes:
        consumer: The name of the layer that received it.
        reason: Why folding is not exact in this layer.
        largest: The largest absolute value of the constants; NaN if it is not known.
    """

    consumer: str
    reason: str
    largest: float

    def __str__(self) -> str:
        size = "unknown" if np.isnan(self.largest) else f"up to {self.largest:.3g}"
        return f"{self.consumer}: {self.reason} (constants {size})"


@dataclass
class Folding:
    """The changes that folding makes in a rebuilt model.

    Attributes:
        additions: Arrays to add to weights, by layer and weight name, in the original's shape.
        configs: Config entries to change, by layer name.
        dropped: The constants that were not folded.
    """

    additions: dict[str, dict[str, Array]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)

    def add(self, layer: str, weight: str, value: Array) -> None:
        """Increases the addition to a weight by `value`."""
        layer_additions = self.additions.setdefault(layer, {})
        layer_additions[weight] = layer_additions.get(weight, 0.0) + value


@dataclass(frozen=True, eq=False)
class _Constant:
    """The constants of a tensor's removed channels.

    Attributes:
        axis: The axis of the channels.
        values: One value per channel, [size of the axis]; 0 for channels that remain.
    """

    axis: int
    values: Array


def plan_folding(propagation: Propagation, keep: Keep) -> Folding:
    """Finds the constants of removed channels and the weights that absorb them.

    Args:
        propagation: The analysed model.
        keep: The labels that remain.

    Returns:
        The plan; `dropped` is also logged.
    """
    plan = _Planner(propagation, keep).run()
    for dropped in plan.dropped:
        _logger.info("Constants of removed channels are dropped at %s", dropped)
    return plan


class _Planner:
    """Walks through the graph once and follows the constants."""

    def __init__(self, propagation: Propagation, keep: Keep) -> None:
        self._p = propagation
        self._keep = keep
        self._constants: dict[int, _Constant] = {}  # by the id of the tensor
        self._plan = Folding()
        self._times = Counter(call.name for call in propagation.flat.calls)
        self._readers: dict[int, list[int]] = {}
        for position, call in enumerate(propagation.flat.calls):
            for tensor in call.inputs:
                self._readers.setdefault(id(tensor), []).append(position)
        self._outputs = {id(t) for t in keras.tree.flatten(propagation.flat.outputs)}

    def run(self) -> Folding:
        """The plan for the whole graph."""
        for position, call in enumerate(self._p.flat.calls):
            effect, arriving = self._p.effects[position], self._p.arriving[position]
            touched = [i for i, axes in enumerate(arriving) if self._axes_touched(axes)]
            if touched and effect.mixes:
                self._drop(call, "it normalises over the removed channels too", np.nan)
            elif touched and _consumes(effect, arriving, touched):
                self._fold(call, arriving, touched)
            if type(call.operation) in _ATTENTIONS:
                self._fold_heads(call, effect)
            for index, axes in enumerate(effect.outputs):
                if self._axes_touched(axes):
                    constant = self._leaving(position, index)
                    if constant is not None:
                        self._constants[id(call.outputs[index])] = constant
        return self._plan

    def _axes_touched(self, axes: Axes) -> list[int]:
        return [a for a, labels in enumerate(axes) if self._keep.touches(labels)]

    def _leaving(self, position: int, index: int) -> _Constant | None:
        """The constants of one output; None if its removed channels may vary by position."""
        call, effect = self._p.flat.calls[position], self._p.effects[position]
        axes = effect.outputs[index]
        touched = self._axes_touched(axes)
        if len(touched) != 1:
            return None
        axis = touched[0]
        if type(call.operation) in _PRODUCERS and effect.weights["bias"].axes[0] is axes[axis]:
            return self._of_bias(call, axis, axes)
        constants = [self._constants.get(id(t)) for t in call.inputs]
        if not effect.flow or not constants or any(c is None for c in constants):
            return None
        if effect.flow in ("same", "zero"):
            first = constants[0]
            assert first is not None
            if effect.flow == "zero" and first.values.any():
                return None
            return _Constant(axis, first.values)
        return self._evaluated(position, axis, index)

    def _of_bias(self, call: Call, axis: int, axes: Axes) -> _Constant:
        """The outputs of removed filters: their biases after the layer's activation."""
        labels = axes[axis]
        assert labels is not None
        names = relative_weight_names(call.operation)
        weights = dict(zip(names, call.operation.weights, strict=True))
        bias = np.asarray(weights["bias"]) if "bias" in weights else np.zeros(len(labels))
        activation = getattr(call.operation, "activation", None)
        if activation is not None:
            bias = keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(bias)))
        return _Constant(axis, np.where(self._keep.mask(labels), 0.0, bias.astype(np.float64)))

    def _evaluated(self, position: int, axis: int, index: int) -> _Constant | None:
        """The constants of an output, computed by calling the layer on constant inputs.

        Returns:
            The constants; None if the output varies by position or the sizes are unknown.
        """
        call, effect = self._p.flat.calls[position], self._p.effects[position]
        unknown = any(None in tensor.shape[1:] for tensor in call.inputs)
        joins = isinstance(call.operation, keras.layers.Concatenate)
        if effect.flow == "moves" and unknown and not joins:
            return None
        values: dict[int, Any] = {}
        for tensor, axes in zip(call.inputs, self._p.arriving[position], strict=True):
            constant = self._constants[id(tensor)]
            shape = [1 if effect.flow == "pointwise" else (s or 1) for s in tensor.shape]
            shape = [
                s if labels is None else len(labels) for s, labels in zip(shape, axes, strict=True)
            ]
            along = [1] * len(shape)
            along[constant.axis] = -1
            full = np.broadcast_to(constant.values.reshape(along), shape)
            values[id(tensor)] = keras.ops.convert_to_tensor(full, dtype=tensor.dtype)

        def swap(value: Any) -> Any:
            return values[id(value)] if isinstance(value, Tensor) else value

        args = keras.tree.map_structure(swap, call.args)
        kwargs = keras.tree.map_structure(swap, call.kwargs)
        outputs = keras.tree.flatten(call.operation(*args, **kwargs))
        result = keras.ops.convert_to_numpy(keras.ops.cast(outputs[index], "float32"))
        flat = np.moveaxis(result, axis, -1).reshape(-1, result.shape[axis]).astype(np.float64)
        labels = effect.outputs[index][axis]
        assert labels is not None
        removed = ~self._keep.mask(labels)
        if (flat[:, removed] != flat[:1, removed]).any():
            return None
        return _Constant(axis, np.where(removed, flat[0], 0.0))

    def _fold(self, call: Call, arriving: tuple[Axes, ...], touched: list[int]) -> None:
        """Adds the constants that a consumer receives to its bias, or records why it cannot."""
        constants = [self._constants.get(id(call.inputs[i])) for i in touched]
        if any(c is None for c in constants):
            self._drop(call, "the removed channels are not the same everywhere", np.nan)
            return
        constant = constants[0]
        assert constant is not None
        largest = float(np.abs(constant.values).max())
        if largest == 0.0:
            return
        reason = self._obstacle(call, constant, arriving[touched[0]])
        if reason:
            self._drop(call, reason, largest)
            return
        self._add(call, contribution(call.operation, constant.values))

    def _fold_heads(self, call: Call, effect: Effect) -> None:
        """Folds the value biases of removed heads, which attention passes on unchanged.

        A head without kernels outputs its value bias, because attention weights sum to one.
        """
        layer, heads = call.operation, effect.produced["heads"]
        if not self._keep.touches(heads) or not layer.use_bias:
            return
        weights = dict(zip(relative_weight_names(layer), layer.weights, strict=True))
        pairs = effect.weights["value/bias"].axes[0]
        bias = np.asarray(weights["value/bias"], dtype=np.float64)
        if pairs is None:
            self._drop(call, "the heads share one value head", float(np.abs(bias).max()))
            return
        bias = np.where(self._keep.mask(pairs)[:, None], 0.0, bias)
        kernel = np.asarray(weights["attention_output/kernel"], dtype=np.float64)
        if not bias.any():
            return
        if "gate/kernel" in weights:
            self._drop(call, "the heads are gated", float(np.abs(bias).max()))
        elif self._times[call.name] > 1:
            self._drop(call, "the layer is shared by several calls", float(np.abs(bias).max()))
        else:
            # Several query heads may share one value head and its bias.
            bias = np.repeat(bias, len(kernel) // len(bias), axis=0)
            value = np.einsum("hd,hdo->o", bias, kernel)
            self._plan.add(call.name, "attention_output/bias", value)

    def _obstacle(self, call: Call, constant: _Constant, axes: Axes) -> str:
        layer = call.operation
        if self._times[call.name] > 1:
            return "the layer is shared by several calls"
        if isinstance(layer, _DENSE):
            return "" if constant.axis == len(axes) - 1 else "they lie on another axis"
        if not isinstance(layer, (*_CONVOLUTIONS, *_SEPARABLE)):
            return f"constants are not folded into layers of the type {type(layer).__name__}"
        if layer.padding != "valid" and any(size != 1 for size in layer.kernel_size):
            return f"zero padding ({layer.padding!r}) meets constants that are not zero"
        return ""

    def _add(self, call: Call, value: Array) -> None:
        layer = call.operation
        if layer.use_bias:
            self._plan.add(call.name, "bias", value)
            return
        follower = self._sole_reader(call)
        if follower is not None:
            self._plan.add(follower.name, "moving_mean", -value)
            return
        self._plan.configs[call.name] = {"use_bias": True}
        self._plan.add(call.name, "bias", value)

    def _sole_reader(self, call: Call) -> Call | None:
        """The batch normalisation that is the only reader of a linear layer's output, or None."""
        tensor = call.outputs[0]
        readers = self._readers.get(id(tensor), [])
        activation = getattr(call.operation, "activation", None)
        linear = activation is None or activation is keras.activations.linear
        if len(readers) != 1 or id(tensor) in self._outputs or not linear:
            return None
        reader = self._p.flat.calls[readers[0]]
        batch = type(reader.operation) is keras.layers.BatchNormalization
        return reader if batch and self._times[reader.name] == 1 else None

    def _drop(self, call: Call, reason: str, largest: float) -> None:
        self._plan.dropped.append(Dropped(call.name, reason, largest))


def _consumes(effect: Effect, arriving: tuple[Axes, ...], touched: list[int]) -> bool:
    """Whether a call consumes channels: its outputs carry none of the labels of its inputs."""
    if effect.flow:
        return False
    leaving = [a for axes in effect.outputs for a in axes if a is not None]
    output_labels = np.concatenate(leaving) if leaving else np.zeros(0, dtype=np.int64)
    inputs = [a for i in touched for a in arriving[i] if a is not None]
    return not any(np.isin(labels, output_labels).any() for labels in inputs)


def contribution(layer: Any, constants: Array) -> Array:
    """Computes what constant input channels add to each output of a layer.

    Args:
        layer: A dense layer, or a convolution without zero padding.
        constants: One value per input channel, [inputs]; 0 for channels that remain.

    Returns:
        One value per output channel, [outputs].
    """
    if isinstance(layer, _SEPARABLE):
        depthwise = np.asarray(layer.depthwise_kernel, dtype=np.float64)
        spatial = depthwise.reshape(-1, *depthwise.shape[-2:]).sum(axis=0)
        inner = (constants[:, None] * spatial).ravel()
        pointwise = np.asarray(layer.pointwise_kernel, dtype=np.float64)
        return np.asarray(inner @ pointwise.reshape(len(inner), -1))
    kernel = np.asarray(layer.kernel, dtype=np.float64)
    summed = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
    groups = getattr(layer, "groups", 1)
    inputs = constants.reshape(groups, -1)
    filters = summed.reshape(summed.shape[0], groups, -1)
    return np.asarray(np.einsum("gi,igo->go", inputs, filters).ravel())
