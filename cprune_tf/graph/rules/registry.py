"""The interface of layer rules, and the registry of all rules.

A rule is a function of one call (`LayerCall`) that returns an `Effect`: the labels of the outputs,
the labels of the weights, and what changes in the layer's config (or in the call's arguments) when
channels are removed. Analysis, rebuilding, masking, importance and statistics all read the effects,
so none of them depends on layer classes. `docs/extending.md` shows how to write one for a custom
layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.graph import keras_internals, unfolding
from cprune_tf.graph.flat import Call, Shape, Tensor
from cprune_tf.graph.labels import Axes, Labels, LabelSpace

Indices = npt.NDArray[np.int64]


class Keep:
    """Answers which labels remain after a removal."""

    def __init__(self, removed: npt.NDArray[np.bool_]) -> None:
        self._removed = removed

    def mask(self, labels: Labels) -> npt.NDArray[np.bool_]:
        """Whether each index stays, [len(labels)]."""
        return ~self._removed[labels]

    def indices(self, labels: Labels) -> Indices:
        """The indices that stay, ascending."""
        return np.flatnonzero(self.mask(labels))

    def count(self, labels: Labels) -> int:
        """How many indices stay."""
        return int(self.mask(labels).sum())

    def touches(self, labels: Labels | None) -> bool:
        """Whether any of these indices is removed."""
        return labels is not None and bool(self._removed[labels].any())

    def size(self, labels: Labels | None, unchanged: int) -> int:
        """The new size of an axis; `unchanged` if the axis carries no channels."""
        return unchanged if labels is None else self.count(labels)


@dataclass(frozen=True)
class Weight:
    """The channel axes of one weight.

    Attributes:
        axes: The labels of each axis of the weight.
        role: "kernel" (multiplies inputs), "bias", "scale" (a normalisation's gamma), "shift" (its
            beta), "statistic" (its mean or variance) or "other".
        out_axis: The number of the axis whose index is the output channel of a value; None if the
            weight belongs only to channels of the input.
    """

    axes: Axes
    role: str = "other"
    out_axis: int | None = None


@dataclass(frozen=True)
class Effect:
    """How one call maps channels.

    Attributes:
        outputs: For each output tensor, the labels of each axis.
        weights: The channel axes of the layer's weights, by name relative to the layer; a weight
            that is not listed is copied whole.
        produced: New labels that this call makes, by suffix of the group's name: "" for the layer's
            output channels, e.g. "heads" for channels inside the layer.
        resize: Returns the config entries that a removal changes; called only if the layer loses
            channels. None if the config does not depend on channels.
        reargument: Returns the new (args, kwargs) of the call for a removal; None if the arguments
            stay.
        sizes: Label arrays that `resize` and the layer's state depend on; they are tied across the
            calls of a shared layer.
        keeps_zero: Whether a channel that is zero in all inputs is zero in the outputs.
        mixes: Whether the call mixes channels in a way that zeros disturb (the mean of a layer
            normalisation), so that masking must take the removed channels out before the call.
        flow: The output of a channel that has the same value everywhere: "pointwise" (a function of
            that value), "same" (that value), "zero" (that value if it is zero), "moves" (that
            value, at another index), "" (not known).
        sums: Whether the output is the sum of the input tensors, so that an operand may vanish. If
            it can have more than two, the call takes them as a list.
    """

    outputs: tuple[Axes, ...]
    weights: Mapping[str, Weight] = field(default_factory=dict)
    produced: Mapping[str, Labels] = field(default_factory=dict)
    resize: Callable[[Keep], dict[str, Any]] | None = None
    reargument: Callable[[Keep], tuple[tuple[Any, ...], dict[str, Any]]] | None = None
    sizes: tuple[Labels, ...] = ()
    keeps_zero: bool = False
    mixes: bool = False
    flow: str = ""
    sums: bool = False


class LayerCall:
    """One call as a rule sees it: the layer, the shapes, the labels that arrive."""

    def __init__(self, call: Call, inputs: tuple[Axes, ...], space: LabelSpace) -> None:
        self.call = call
        self.layer = call.operation
        self.name = call.name
        self.inputs = inputs
        self._space = space

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the input tensors, the batch axis first."""
        return tuple(t.shape for t in self.call.inputs)

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the output tensors."""
        return tuple(t.shape for t in self.call.outputs)

    @property
    def title(self) -> str:
        """The layer for a message: "'conv1' (Conv2D)"."""
        return f"'{self.name}' ({type(self.layer).__name__})"

    def labels_of(self, tensor: Tensor) -> Axes:
        """The labels of each axis of an input tensor."""
        return self.inputs[next(i for i, t in enumerate(self.call.inputs) if t is tensor)]

    def fresh(self, count: int) -> Labels:
        """Makes labels for new channels that this layer makes."""
        return self._space.fresh(count)

    def tie(self, first: Labels, second: Labels) -> None:
        """Declares that these channels live and die together, index by index."""
        self._space.tie(first, second)

    def protect(self, labels: Labels | None, reason: str) -> None:
        """Declares that these channels can never be removed."""
        if labels is not None:
            self._space.protect(labels, reason)

    def protect_all(self, axes: Axes, reason: str) -> None:
        """Declares that no channel of this tensor can be removed."""
        for labels in axes:
            self.protect(labels, reason)

    def inside(self, layer: Any) -> LayerCall:
        """This call as seen by the layer inside a wrapper, which runs on each index of axis 1."""
        arriving = tuple((axes[0], *axes[2:]) for axes in self.inputs)
        return LayerCall(self.call.inside(layer), arriving, self._space)

    def of(self, layer: Any) -> LayerCall:
        """This call as seen by the layer inside a wrapper, which gets the same tensors."""
        return LayerCall(
            dataclasses.replace(
                self.call,
                operation=layer,
                name=f"{self.name}/{layer.name}",
                path=f"{self.call.path}/{layer.name}",
            ),
            self.inputs,
            self._space,
        )

    def opaque(self, reason: str) -> Effect:
        """Protects all channels that a call without a usable rule touches.

        Args:
            reason: Why they are protected, as the user reads it.

        Returns:
            An effect whose outputs carry protected channels on their last axis.
        """
        for axes in self.inputs:
            self.protect_all(axes, reason)
        return Effect(tuple(self._fixed(shape, reason) for shape in self.output_shapes))

    def _fixed(self, shape: Shape, reason: str) -> Axes:
        if len(shape) < 2 or shape[-1] is None:
            return (None,) * len(shape)
        labels = self.fresh(shape[-1])
        self.protect(labels, reason)
        return (None,) * (len(shape) - 1) + (labels,)


Rule = Callable[[LayerCall], Effect]


class RuleRegistry:
    """Rules by layer class or operation name; a subclass does not inherit its class's rule."""

    def __init__(self) -> None:
        self._rules: dict[type | str, Rule] = {}

    def register(self, *kinds: type | str) -> Callable[[Rule], Rule]:
        """Decorates a rule.

        Args:
            *kinds: Layer classes, raw operations as "ops.Relu", or "module.QualifiedName" of a
                class that is not imported here.

        Returns:
            The decorator.
        """

        def decorate(rule: Rule) -> Rule:
            for kind in kinds:
                self._rules[kind] = rule
                unfolding.keep_whole(kind)
            return rule

        return decorate

    def unregister(self, kind: type | str) -> None:
        """Forgets the rule of one kind."""
        self._rules.pop(kind, None)
        unfolding.may_unfold(kind)

    def has(self, kind: type | str) -> bool:
        """Whether a layer class or a raw operation, as "ops.Relu", has a rule."""
        return kind in self._rules

    def find(self, operation: Any) -> Rule | None:
        """Returns the rule of a layer or raw operation; None if it has no rule."""
        kind = type(operation)
        key = keras_internals.operation_kind(operation)
        return self._rules.get(key) or self._rules.get(f"{kind.__module__}.{kind.__qualname__}")


REGISTRY = RuleRegistry()
register_rule = REGISTRY.register


def no_rule_reason(call: LayerCall) -> str:
    """Explains why a call without a rule protects its channels, and what to do about it."""
    return (
        f"touches {call.title}, which has no rule{_why_whole(call)}; "
        "register one with cprune_tf.graph.register_rule, see docs/extending.md"
    )


def _why_whole(call: LayerCall) -> str:
    """Says why a layer of the user's is not followed inside; "" for Keras's own."""
    one = call.call
    if not one.is_layer or unfolding.is_of_keras(one.operation):
        return ""
    try:
        unfolding.unfold(one.operation, one.args, one.kwargs, one.outputs)
    except unfolding.CannotUnfoldError as error:
        return f" and is not followed inside, because {error}"
    return ""


def special_weights_reason(call: LayerCall) -> str:
    """Explains why a layer's rule does not describe its weights; "" if it does."""
    layer = call.layer
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return f"touches {call.title}, which is quantised or has LoRA weights"
    return ""
