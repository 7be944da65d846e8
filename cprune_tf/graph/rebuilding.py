"""Makes a new, smaller model: the removed channels no longer exist."""

from __future__ import annotations

from typing import Any

from cprune_tf.graph.channel_graph import ChannelGraph, Removal, analyze
from cprune_tf.graph.flat import Call, flatten
from cprune_tf.graph.folding import Folding, plan_folding
from cprune_tf.graph.propagation import Propagation
from cprune_tf.graph.replaying import copy_compile_state, copy_weights, make_operation, replay
from cprune_tf.graph.rules.registry import Effect, Keep


def rebuild(
    model: Any,
    removal: Removal,
    *,
    fold_constants: bool = True,
    graph: ChannelGraph | None = None,
) -> Any:
    """Removes channels from a model.

    Args:
        model: A functional or built Sequential model; it is not modified.
        removal: Unit indices to remove, by channel group name, counted in this model.
        fold_constants: Whether what removed channels would still contribute with zeroed kernels is
            added to their consumers' biases, where exact: see `cprune_tf.graph.folding`.
        graph: The model's groups where the caller has them (saves an analysis).

    Returns:
        A new keras.Model with the same layer names, dtype policies, regularisers, constraints,
        trainable flags and compile state (the optimizer starts anew). Nested models come out
        inlined, a Sequential as a functional model.

    Raises:
        GraphError: For a model or removal that cannot work, before anything is built.
    """
    graph = graph_of(model, graph)
    keep = graph.keep(removal)
    folding = plan_folding(graph.propagation, keep) if fold_constants else None
    smaller = resized_model(graph.propagation, keep, folding)
    copy_compile_state(model, smaller)
    return smaller


def functional_twin(model: Any) -> Any:
    """An independent functional copy of a model: nested models inlined, a Sequential unrolled.

    Args:
        model: A functional or built Sequential model; it is not modified.

    Returns:
        A new functional keras.Model with equal weights and outputs.
    """
    flat = flatten(model)
    copies: dict[str, Any] = {}

    def make(call: Call) -> Any:
        copies[call.name] = make_operation(call, {})
        return copies[call.name]

    twin = replay(flat, make)
    for call in _first_calls(flat.calls):
        copy_weights(call, copies[call.name], {}, None)
    copy_compile_state(model, twin)
    return twin


def graph_of(model: Any, graph: ChannelGraph | None) -> ChannelGraph:
    """The given analysis of `model`, or a new one.

    Raises:
        ValueError: Where the given one is another model's.
    """
    if graph is None:
        return analyze(model)
    if graph.model is not model:
        raise ValueError(
            f"The graph belongs to another model object ('{graph.model.name}'); analyze this one."
        )
    return graph


def resized_model(propagation: Propagation, keep: Keep, folding: Folding | None) -> Any:
    """The model with the kept channels only, weights copied, not compiled."""
    additions = folding.additions if folding else {}
    configs = folding.configs if folding else {}
    effects = {
        call.name: effect
        for call, effect in zip(
            reversed(propagation.flat.calls), reversed(propagation.effects), strict=True
        )
    }
    resized: dict[str, Any] = {}

    def make(call: Call) -> Any:
        changes = {**resize_config(effects[call.name], keep), **configs.get(call.name, {})}
        resized[call.name] = make_operation(call, changes)
        return resized[call.name]

    def arguments(position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call, effect = propagation.flat.calls[position], propagation.effects[position]
        if effect.reargument is not None and is_touched(effect, keep):
            return effect.reargument(keep)
        return call.args, call.kwargs

    smaller = replay(propagation.flat, make, arguments=arguments)
    for call in _first_calls(propagation.flat.calls):
        axes = dict(effects[call.name].weights)
        copy_weights(call, resized[call.name], axes, keep, additions.get(call.name))
    return smaller


def resize_config(effect: Effect, keep: Keep) -> dict[str, Any]:
    """The config entries that a removal changes in a layer."""
    if effect.resize is None or not is_touched(effect, keep):
        return {}
    return effect.resize(keep)


def is_touched(effect: Effect, keep: Keep) -> bool:
    """Whether a removal takes any channel of a call's outputs, weights or sizes."""
    axes = [labels for output in effect.outputs for labels in output]
    axes += [labels for weight in effect.weights.values() for labels in weight.axes]
    axes += [*effect.sizes, *effect.produced.values()]
    return any(keep.touches(labels) for labels in axes)


def _first_calls(calls: tuple[Call, ...]) -> list[Call]:
    """One call per distinct layer."""
    return list({call.name: call for call in reversed(calls)}.values())[::-1]
