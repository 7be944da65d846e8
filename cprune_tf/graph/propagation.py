"""One pass over the graph: applies every call's rule and resolves every label."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from cprune_tf.graph import unfolding
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.flat import Call, FlatGraph, Tensor
from cprune_tf.graph.labels import Axes, Labels, LabelSpace
from cprune_tf.graph.rules.elementwise import passes
from cprune_tf.graph.rules.registry import (
    REGISTRY,
    Effect,
    LayerCall,
    RuleRegistry,
    Weight,
    no_rule_reason,
    special_weights_reason,
)


@dataclass(frozen=True, eq=False)
class Production:
    """Channels that one layer makes.

    Attributes:
        name: The layer's name, with a suffix like "/heads" for channels inside the layer.
        layer: The layer's name.
        labels: One label per channel.
    """

    name: str
    layer: str
    labels: Labels


@dataclass(frozen=True, eq=False)
class Propagation:
    """The resolved labels of a whole graph.

    Attributes:
        flat: The graph.
        effects: The effect of each call.
        arriving: For each call, the labels of each input.
        weights: The channel axes of every layer's weights, by layer and weight name.
        productions: The channels that layers make, in topological order.
        roots: For each label, the smallest label it is tied to.
        reason: For each label, the index in `reasons` of why it is protected, or -1.
        reasons: Why channels are protected, as the user reads it.
    """

    flat: FlatGraph
    effects: tuple[Effect, ...]
    arriving: tuple[tuple[Axes, ...], ...]
    weights: dict[str, dict[str, Weight]]
    productions: tuple[Production, ...]
    roots: Labels
    reason: Labels
    reasons: tuple[str, ...]


def propagate(
    flat: FlatGraph, protect: Sequence[str] = (), registry: RuleRegistry = REGISTRY
) -> Propagation:
    """Follows every channel through the graph.

    Args:
        flat: The graph.
        protect: fnmatch patterns of layer names or paths whose channels must stay.
        registry: The layer rules.

    Returns:
        The resolved labels.

    Raises:
        GraphError: A pattern matches no layer.
    """
    space = LabelSpace()
    labels: dict[int, Axes] = {}
    for layer, tensor in zip(flat.input_layers, flat.inputs, strict=True):
        labels[id(tensor)] = _input_axes(space, tensor, layer.name)
    effects, arriving = [], []
    first: dict[str, Effect] = {}
    productions: list[Production] = []
    patterns = _matches(flat, protect)
    for call in flat.calls:
        input_axes = tuple(labels[id(t)] for t in call.inputs)
        effect = _effect(LayerCall(call, input_axes, space), registry)
        for tensor, axes in zip(call.outputs, effect.outputs, strict=True):
            labels[id(tensor)] = axes
        effects.append(effect)
        arriving.append(input_axes)
        if call.name in first:
            _tie_calls(space, first[call.name], effect)
            continue
        first[call.name] = effect
        for suffix, produced in effect.produced.items():
            name = f"{call.name}/{suffix}" if suffix else call.name
            productions.append(Production(name, call.name, produced))
            if call.name in patterns:
                space.protect(produced, f"matches the protect pattern '{patterns[call.name]}'")
    _protect_outputs(flat, labels, space)
    roots = space.roots()
    reason, reasons = space.protected(roots)
    weights = {name: dict(effect.weights) for name, effect in first.items()}
    return Propagation(
        flat, tuple(effects), tuple(arriving), weights, tuple(productions), roots, reason, reasons
    )


def _effect(view: LayerCall, registry: RuleRegistry) -> Effect:
    """The effect of a call; a call without a rule protects all channels that it touches."""
    rule = registry.find(view.layer)
    if rule is None and unfolding.passes_at_inference(view.layer, view.call.args, view.call.kwargs):
        rule = passes
    if rule is None or not view.inputs:
        return view.opaque(no_rule_reason(view))
    if refusal := special_weights_reason(view):
        return view.opaque(refusal)
    effect = rule(view)
    for axes, shape in zip(effect.outputs, view.output_shapes, strict=True):
        for labels, size in zip(axes, shape, strict=True):
            if labels is not None and len(labels) != size:
                raise GraphError(
                    f"The rule of {view.title} returned {len(labels)} labels for an axis of size "
                    f"{size} (output shape {shape}); expected one label per index."
                )
    return effect


def _tie_calls(space: LabelSpace, first: Effect, again: Effect) -> None:
    """Ties the channels of two calls of a shared layer, which share weights and config."""
    for name, weight in first.weights.items():
        for a, b in zip(weight.axes, again.weights[name].axes, strict=True):
            _tie_axis(space, a, b)
    for suffix, produced in first.produced.items():
        space.tie(produced, again.produced[suffix])
    for a, b in zip(first.sizes, again.sizes, strict=False):
        _tie_axis(space, a, b)


def _tie_axis(space: LabelSpace, a: Labels | None, b: Labels | None) -> None:
    if a is not None and b is not None and len(a) == len(b):
        space.tie(a, b)
        return
    for labels in (a, b):
        if labels is not None:
            space.protect(labels, "belongs to a shared layer whose calls have different channels")


def _input_axes(space: LabelSpace, tensor: Tensor, name: str) -> Axes:
    shape = tensor.shape
    if len(shape) < 2 or shape[-1] is None:
        return (None,) * len(shape)
    labels = space.fresh(shape[-1])
    space.protect(labels, f"belongs to the model's input '{name}'")
    return (*(None,) * (len(shape) - 1), labels)


def _protect_outputs(flat: FlatGraph, labels: dict[int, Axes], space: LabelSpace) -> None:
    makers: dict[int, Call] = {id(t): call for call in flat.calls for t in call.outputs}
    for tensor in keras.tree.flatten(flat.outputs):
        maker = makers.get(id(tensor))
        name = maker.name if maker else "an input"
        for axis in labels[id(tensor)]:
            if axis is not None:
                space.protect(axis, f"reaches the model's output '{name}'", first=True)


def _matches(flat: FlatGraph, protect: Sequence[str]) -> dict[str, str]:
    """The first pattern that protects a layer, by layer name."""
    if isinstance(protect, str):
        raise GraphError(f"protect is {protect!r}; expected a sequence of patterns: [{protect!r}].")
    pattern_of_layer: dict[str, str] = {}
    for pattern in protect:
        names = [
            call.name
            for call in flat.calls
            if fnmatch.fnmatchcase(call.name, pattern) or fnmatch.fnmatchcase(call.path, pattern)
        ]
        if not names:
            examples = ", ".join(sorted({call.path for call in flat.calls})[:8])
            raise GraphError(
                f"The protect pattern {pattern!r} matches no layer; the model has {examples}, ..."
            )
        for name in names:
            pattern_of_layer.setdefault(name, pattern)
    return pattern_of_layer
