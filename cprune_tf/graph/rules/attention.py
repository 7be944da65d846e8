"""Rules of attention layers: the units are whole heads, and channels of the output."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cprune_tf.graph.flat import Tensor
from cprune_tf.graph.labels import Axes, Labels
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, Weight, register_rule

_TENSORS = ("query", "value", "key")


@register_rule(keras.layers.MultiHeadAttention)
def multi_head_attention(call: LayerCall) -> Effect:
    """The layer makes heads ("name/heads") and output channels, and consumes its inputs."""
    layer: Any = call.layer
    if tuple(layer.attention_axes or (1,)) != (1,):
        return call.opaque(f"{call.title} attends along more than one axis")
    heads = call.fresh(layer.num_heads)
    return _attention(
        call,
        heads,
        heads,
        lambda keep, outputs: {
            "num_heads": keep.count(heads),
            "output_shape": (keep.count(outputs),),
        },
    )


@register_rule(keras.layers.GroupQueryAttention)
def group_query_attention(call: LayerCall) -> Effect:
    """A unit is a key and value head with all its query heads.

    If there is only one key and value head, a unit is a query head. The output is as wide as the
    query, so both are tied.
    """
    layer: Any = call.layer
    shared = layer.num_key_value_heads == 1
    heads = call.fresh(layer.num_query_heads if shared else layer.num_key_value_heads)
    queries = heads if shared else np.repeat(heads, layer.num_repeats)

    def resize(keep: Keep, outputs: Labels) -> dict[str, Any]:
        num_pairs = 1 if shared else keep.count(heads)
        return {"num_query_heads": keep.count(queries), "num_key_value_heads": num_pairs}

    effect = _attention(call, queries, None if shared else heads, resize, heads)
    outputs, width = effect.produced[""], call.inputs[0][-1]
    if width is None:
        call.protect(outputs, f"the output of {call.title} is as wide as its query")
    else:
        call.tie(outputs, width)
    return effect


def _attention(
    call: LayerCall,
    queries: Labels,
    pairs: Labels | None,
    resize: Callable[[Keep, Labels], dict[str, Any]],
    heads: Labels | None = None,
) -> Effect:
    """Makes the effect of either attention layer.

    Args:
        call: The call.
        queries: The labels of the query heads.
        pairs: The labels of the key and value heads; None if these heads are never removed.
        resize: Returns config entries from the remaining labels and the labels of the output.
        heads: The labels that the layer makes for its heads; None for those of the query heads.

    Returns:
        The effect.
    """
    bound = inspect.signature(call.layer.call).bind(*call.call.args, **call.call.kwargs).arguments
    if len(call.input_shapes[0]) != 3:
        return call.opaque(f"{call.title} attends along more than one axis")
    widths = {name: _width(call, bound.get(name)) for name in _TENSORS}
    if bound.get("key") is None:
        widths["key"] = widths["value"]
    _check_masks(call, bound, queries)
    outputs = call.fresh(int(call.output_shapes[0][-1] or 0))
    axes: tuple[Axes, ...] = ((None, None, outputs), (None, queries, None, None))
    return Effect(
        axes[: len(call.output_shapes)],
        _weights(widths, queries, pairs, outputs),
        {"": outputs, "heads": queries if heads is None else heads},
        lambda keep: resize(keep, outputs),
    )


def _weights(
    widths: dict[str, Labels | None], queries: Labels, pairs: Labels | None, outputs: Labels
) -> dict[str, Weight]:
    weights = {}
    for name in (*_TENSORS, "gate"):
        of_query = name in ("query", "gate")
        arriving, heads = (widths["query"], queries) if of_query else (widths[name], pairs)
        out_axis = None if heads is None else 1
        weights[f"{name}/kernel"] = Weight((arriving, heads, None), "kernel", out_axis)
        weights[f"{name}/bias"] = Weight((heads, None), "bias", None if heads is None else 0)
    weights["attention_output/kernel"] = Weight((queries, None, outputs), "kernel", 2)
    weights["attention_output/bias"] = Weight((outputs,), "bias", 0)
    return weights


def _width(call: LayerCall, tensor: Any) -> Labels | None:
    """Returns the labels of an input's last axis; channels on its other axes are protected."""
    if not isinstance(tensor, Tensor):
        return None
    axes = call.labels_of(tensor)
    for labels in axes[:-1]:
        call.protect(labels, f"{call.title} attends along the axis that holds these channels")
    return axes[-1]


def _check_masks(call: LayerCall, bound: dict[str, Any], heads: Labels) -> None:
    """Protects the heads if a mask has an axis for them, which fixes their number."""
    for name, value in bound.items():
        if name in _TENSORS or not isinstance(value, Tensor):
            continue
        call.protect_all(call.labels_of(value), f"{call.title} takes them as its {name}")
        if len(value.shape) == 4 and value.shape[1] != 1:
            call.protect(heads, f"the {name} of {call.title} has an axis for the heads")
