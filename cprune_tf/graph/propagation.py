"""One pass over the graph: every call's rule is asked, every label is resolved."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.flat import Call, FlatGraph, Tensor
from cprune_tf.graph.labels import Axes, Labels, LabelSpace
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
        name: The layer's name, with "/heads" and the like for an inner width.
        layer: The layer's name.
        labels: One label per channel.
    """

    name: str
    layer: str
    labels: Labels


@dataclass(frozen=True, eq=False)
class Propagation:
    """What the pass found.

    Attributes:
        flat: The graph.
        effects: One per call.
        arriving: Labels of each call's inputs.
        weights: Channel axes of every layer's weights, by layer and weight name.
        productions: In topological order.
        roots: For each label the smallest one it is tied to.
        reason: For each label the number of its protection, or -1.
        reasons: The protections.
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
        protect: fnmatch patterns of layer names or paths whose channels stay.
        registry: Where the rules are.

    Returns:
        The resolved labels.

    Raises:
        GraphError: Where a pattern matches no layer.
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
        given = tuple(labels[id(t)] for t in call.inputs)
        view = LayerCall(call, given, space)
        effect = _ask(view, registry)
        for tensor, axes in zip(call.outputs, effect.outputs, strict=True):
            labels[id(tensor)] = axes
        effects.append(effect)
        arriving.append(given)
        if call.name in first:
            _tie_calls(space, first[call.name], effect)
            continue
        first[call.name] = effect
        for suffix, made in effect.produced.items():
            name = f"{call.name}/{suffix}" if suffix else call.name
            productions.append(Production(name, call.name, made))
            if call.name in patterns:
                space.protect(made, f"matches the protect pattern '{patterns[call.name]}'")
    _protect_outputs(flat, labels, space)
    roots = space.roots()
    reason, reasons = space.protected(roots)
    weights = {name: dict(effect.weights) for name, effect in first.items()}
    return Propagation(
        flat, tuple(effects), tuple(arriving), weights, tuple(productions), roots, reason, reasons
    )


def _ask(view: LayerCall, registry: RuleRegistry) -> Effect:
    """The effect of a call; of a call without a rule, one that protects what it touches."""
    rule = registry.find(view.layer)
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
    """A shared layer has one set of weights and one config, whatever arrives at each call."""
    for name, weight in first.weights.items():
        for a, b in zip(weight.axes, again.weights[name].axes, strict=True):
            _tie_axis(space, a, b)
    for suffix, made in first.produced.items():
        space.tie(made, again.produced[suffix])
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
    """Layer names by the pattern that protects them."""
    if isinstance(protect, str):
        raise GraphError(f"protect is {protect!r}; expected a sequence of patterns: [{protect!r}].")
    pattern_of_layer: dict[str, str] = {}
    for pattern in protect:
        hits = [
            call.name
            for call in flat.calls
            if fnmatch.fnmatchcase(call.name, pattern) or fnmatch.fnmatchcase(call.path, pattern)
        ]
        if not hits:
            examples = ", ".join(sorted({call.path for call in flat.calls})[:8])
            raise GraphError(
                f"The protect pattern {pattern!r} matches no layer; the model has {examples}, ..."
            )
        for name in hits:
            pattern_of_layer.setdefault(name, pattern)
    return pattern_of_layer
