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

A branch that vanishes (`cprune_tf.graph.vanishing`) leaves a constant, too, which is added to the
layers beside or behind the sum that loses it.

If nothing is dropped, `rebuild(model, removal, fold_constants=True)` equals
`mask(model, removal, keep_constants=True)`.
"""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np

from cprune_tf.graph.absorbing import PRODUCERS, Absorber, Constant, Dropped, Folding, contribution
from cprune_tf.graph.branches import BranchConstants
from cprune_tf.graph.flat import Call, Tensor
from cprune_tf.graph.keras_internals import relative_weight_names
from cprune_tf.graph.labels import Axes
from cprune_tf.graph.propagation import Propagation
from cprune_tf.graph.rules.registry import Effect, Keep
from cprune_tf.graph.vanishing import find_vanishing

_logger = logging.getLogger(__name__)
_ATTENTIONS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


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
        self._constants: dict[int, Constant] = {}  # by the id of the tensor
        self._plan = Folding()
        self._vanishing = find_vanishing(propagation, keep)
        self._absorber = Absorber(propagation, self._vanishing, self._plan)
        self._branches = BranchConstants(
            propagation, keep, self._vanishing, self._constants, self._drop
        )

    def run(self) -> Folding:
        """The plan for the whole graph."""
        for position, call in enumerate(self._p.flat.calls):
            effect = self._p.effects[position]
            if position not in self._vanishing.left_out:
                self._fold_arriving(position)
            for index, axes in enumerate(effect.outputs):
                if self._axes_touched(axes):
                    constant = self._leaving(position, index)
                    if constant is not None:
                        self._constants[id(call.outputs[index])] = constant
            if position in self._vanishing.dead:
                self._branches.follow(position)
        for position in self._vanishing.sums:
            self._fold_branch(position)
        return self._plan

    def _fold_arriving(self, position: int) -> None:
        """Folds the constants of removed channels that a call receives or has inside."""
        call, effect = self._p.flat.calls[position], self._p.effects[position]
        arriving = self._p.arriving[position]
        touched = [i for i, axes in enumerate(arriving) if self._axes_touched(axes)]
        if touched and effect.mixes:
            self._drop(call, "it normalises over the removed channels too", np.nan)
        elif touched and self._consumes(effect, arriving, touched):
            self._fold(call, arriving, touched)
        if type(call.operation) in _ATTENTIONS:
            self._fold_heads(call, effect)

    def _consumes(self, effect: Effect, arriving: tuple[Axes, ...], touched: list[int]) -> bool:
        """Whether a call sums over removed channels: no axis of its outputs carries them."""
        if effect.flow:
            return False
        leaving = [a for axes in effect.outputs for a in axes if a is not None]
        labels = np.concatenate(leaving) if leaving else np.zeros(0, dtype=np.int64)
        removed = [a for i in touched for a in arriving[i] if self._keep.touches(a)]
        return any(not np.isin(a, labels).any() for a in removed if a is not None)

    def _fold_branch(self, position: int) -> None:
        """Folds the constants that vanished branches would add to a sum."""
        call = self._p.flat.calls[position]
        constant = self._branches.entering(position)
        if constant is None:
            self._drop(call, "what the vanished branch leaves is no known constant", np.nan)
        elif constant.values.any() and not self._absorber.absorb(position, constant):
            largest = float(np.abs(constant.values).max())
            self._drop(call, "no layer beside or behind the sum can hold the constant", largest)

    def _axes_touched(self, axes: Axes) -> list[int]:
        return [a for a, labels in enumerate(axes) if self._keep.touches(labels)]

    def _leaving(self, position: int, index: int) -> Constant | None:
        """The constants of one output; None if its removed channels may vary by position."""
        call, effect = self._p.flat.calls[position], self._p.effects[position]
        axes = effect.outputs[index]
        touched = self._axes_touched(axes)
        if len(touched) != 1:
            return None
        axis = touched[0]
        if type(call.operation) in PRODUCERS and effect.weights["bias"].axes[0] is axes[axis]:
            return self._of_bias(call, axis, axes)
        constants = [self._constants.get(id(t)) for t in call.inputs]
        if not effect.flow or not constants or any(c is None for c in constants):
            return None
        if effect.flow in ("same", "zero"):
            first = constants[0]
            assert first is not None
            if effect.flow == "zero" and first.values.any():
                return None
            return Constant(axis, first.values)
        return self._evaluated(position, axis, index)

    def _of_bias(self, call: Call, axis: int, axes: Axes) -> Constant:
        """The outputs of removed filters: their biases after the layer's activation."""
        labels = axes[axis]
        assert labels is not None
        names = relative_weight_names(call.operation)
        weights = dict(zip(names, call.operation.weights, strict=True))
        bias = np.asarray(weights["bias"]) if "bias" in weights else np.zeros(len(labels))
        activation = getattr(call.operation, "activation", None)
        if activation is not None:
            bias = keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(bias)))
        return Constant(axis, np.where(self._keep.mask(labels), 0.0, bias.astype(np.float64)))

    def _evaluated(self, position: int, axis: int, index: int) -> Constant | None:
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
        return Constant(axis, np.where(removed, flat[0], 0.0))

    def _fold(self, call: Call, arriving: tuple[Axes, ...], touched: list[int]) -> None:
        """Adds the constants that a consumer receives to its bias, or records why it cannot."""
        constants = [self._constants.get(id(call.inputs[i])) for i in touched]
        if any(c is None for c in constants):
            self._drop(call, "the removed channels are not the same everywhere", np.nan)
            return
        constant = constants[0]
        assert constant is not None
        largest = max(float(np.abs(c.values).max()) for c in constants if c is not None)
        if largest == 0.0:
            return
        reason = self._absorber.obstacle(call, constant, arriving[touched[0]])
        if reason:
            self._drop(call, reason, largest)
            return
        self._absorber.add_to_bias(call, contribution(call.operation, constant.values))

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
        elif self._absorber.is_shared(call):
            self._drop(call, "the layer is shared by several calls", float(np.abs(bias).max()))
        else:
            # Several query heads may share one value head and its bias.
            bias = np.repeat(bias, len(kernel) // len(bias), axis=0)
            value = np.einsum("hd,hdo->o", bias, kernel)
            self._plan.add(call.name, "attention_output/bias", value)

    def _drop(self, call: Call, reason: str, largest: float) -> None:
        self._plan.dropped.append(Dropped(call.name, reason, largest))
