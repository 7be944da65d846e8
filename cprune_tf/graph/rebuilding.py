"""Makes a new, smaller model: the removed channels no longer exist."""

from __future__ import annotations

from typing import Any

from cprune_tf.graph.channel_graph import ChannelGraph, Removal, analyze
from cprune_tf.graph.flat import Call, flatten
from cprune_tf.graph.folding import Folding, plan_folding
from cprune_tf.graph.propagation import Propagation
from cprune_tf.graph.replaying import copy_compile_state, copy_weights, make_operation, replay
from cprune_tf.graph.rules.registry import Effect, Keep
from cprune_tf.graph.vanishing import find_vanishing


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
        removal: Unit indices to remove, by channel group name, counted in this model. With all
            units of a group of `ChannelGraph.removable_whole`, its branch is left out.
        fold_constants: Whether to add the constants that removed channels still contribute to their
            consumers' biases, if that is exact; `cprune_tf.graph.folding` defines this.
        graph: The model's channel groups, if the caller has them already.

    Returns:
        A new keras.Model with the same layer names, dtype policies, regularisers, constraints,
        trainable flags and compile state (the optimizer starts anew). Nested models are inlined,
        and a Sequential becomes a functional model.

    Raises:
        GraphError: The model or the removal cannot be used; raised before anything is built.
    """
    graph = graph_of(model, graph)
    keep = graph.keep(removal)
    folding = plan_folding(graph.propagation, keep) if fold_constants else None
    smaller = resized_model(graph.propagation, keep, folding)
    copy_compile_state(model, smaller)
    return smaller


def functional_twin(model: Any) -> Any:
    """Makes an independent functional copy of a model, with nested models inlined.

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
    """Returns `graph` if it is an analysis of `model`, or a new analysis if it is None.

    Raises:
        ValueError: `graph` belongs to another model.
    """
    if graph is None:
        return analyze(model)
    if graph.model is not model:
        raise ValueError(
            f"The graph belongs to another model object ('{graph.model.name}'); analyze this one."
        )
    return graph


def resized_model(propagation: Propagation, keep: Keep, folding: Folding | None) -> Any:
    """Makes the model with only the kept channels; weights are copied, it is not compiled.

    Args:
        propagation: The analysed model.
        keep: The labels that remain.
        folding: The constants to fold; None to fold none.

    Returns:
        The smaller keras.Model.
    """
    calls = propagation.flat.calls
    vanishing = find_vanishing(propagation, keep)
    stand_ins = vanishing.stand_ins()
    additions = folding.additions if folding else {}
    configs = folding.configs if folding else {}
    present = [position for position in range(len(calls)) if position not in stand_ins]
    effects = {calls[i].name: propagation.effects[i] for i in reversed(present)}
    resized: dict[str, Any] = {}

    def make(call: Call) -> Any:
        changes = {**resize_config(effects[call.name], keep), **configs.get(call.name, {})}
        resized[call.name] = make_operation(call, changes)
        return resized[call.name]

    def arguments(position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call, effect = calls[position], propagation.effects[position]
        if position in vanishing.sums:
            return vanishing.arguments(call)
        if effect.reargument is not None and is_touched(effect, keep):
            return effect.reargument(keep)
        return call.args, call.kwargs

    smaller = replay(propagation.flat, make, arguments=arguments, stand_ins=stand_ins)
    for call in _first_calls(tuple(calls[i] for i in present)):
        axes = dict(effects[call.name].weights)
        copy_weights(call, resized[call.name], axes, keep, additions.get(call.name))
    return smaller


def resize_config(effect: Effect, keep: Keep) -> dict[str, Any]:
    """Returns the config entries that a removal changes in a layer."""
    if effect.resize is None or not is_touched(effect, keep):
        return {}
    return effect.resize(keep)


def is_touched(effect: Effect, keep: Keep) -> bool:
    """Whether a removal affects any channel of a call's outputs, weights or sizes."""
    axes = [labels for output in effect.outputs for labels in output]
    axes += [labels for weight in effect.weights.values() for labels in weight.axes]
    axes += [*effect.sizes, *effect.produced.values()]
    return any(keep.touches(labels) for labels in axes)


def _first_calls(calls: tuple[Call, ...]) -> list[Call]:
    """Returns the first call of each distinct layer."""
    return list({call.name: call for call in reversed(calls)}.values())[::-1]
