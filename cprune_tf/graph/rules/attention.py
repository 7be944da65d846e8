"""Rules of attention over heads: whole heads, and the width of the output."""

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
    """Heads are made here ("name/heads"), and so is the output; inputs are consumed."""
    layer: Any = call.layer
    if tuple(layer.attention_axes or (1,)) != (1,):
        return call.opaque(f"{call.title} attends along more than one axis")
    heads = call.fresh(layer.num_heads)
    return _attention(
        call,
        heads,
        heads,
        lambda keep, made: {"num_heads": keep.count(heads), "output_shape": (keep.count(made),)},
    )


@register_rule(keras.layers.GroupQueryAttention)
def group_query_attention(call: LayerCall) -> Effect:
    """A unit is a key and value head with all its query heads; of a single one, a query head.

    The output is as wide as the query, so both are tied.
    """
    layer: Any = call.layer
    shared = layer.num_key_value_heads == 1
    heads = call.fresh(layer.num_query_heads if shared else layer.num_key_value_heads)
    queries = heads if shared else np.repeat(heads, layer.num_repeats)

    def resize(keep: Keep, made: Labels) -> dict[str, Any]:
        pairs = 1 if shared else keep.count(heads)
        return {"num_query_heads": keep.count(queries), "num_key_value_heads": pairs}

    effect = _attention(call, queries, None if shared else heads, resize, heads)
    made, width = effect.produced[""], call.inputs[0][-1]
    if width is None:
        call.protect(made, f"the output of {call.title} is as wide as its query")
    else:
        call.tie(made, width)
    return effect


def _attention(
    call: LayerCall,
    queries: Labels,
    pairs: Labels | None,
    resize: Callable[[Keep, Labels], dict[str, Any]],
    heads: Labels | None = None,
) -> Effect:
    """What both attentions share.

    Args:
        call: The call.
        queries: Labels of the query heads.
        pairs: Labels of the key and value heads; None where they stay.
        resize: Config entries from what remains and the labels of the output.
        heads: The labels that are made; those of the query heads where not given.

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
    made = call.fresh(int(call.output_shapes[0][-1] or 0))
    outputs: tuple[Axes, ...] = ((None, None, made), (None, queries, None, None))
    return Effect(
        outputs[: len(call.output_shapes)],
        _weights(widths, queries, pairs, made),
        {"": made, "heads": queries if heads is None else heads},
        lambda keep: resize(keep, made),
    )


def _weights(
    widths: dict[str, Labels | None], queries: Labels, pairs: Labels | None, made: Labels
) -> dict[str, Weight]:
    weights = {}
    for name in (*_TENSORS, "gate"):
        of_query = name in ("query", "gate")
        arriving, heads = (widths["query"], queries) if of_query else (widths[name], pairs)
        out_axis = None if heads is None else 1
        weights[f"{name}/kernel"] = Weight((arriving, heads, None), "kernel", out_axis)
        weights[f"{name}/bias"] = Weight((heads, None), "bias", None if heads is None else 0)
    weights["attention_output/kernel"] = Weight((queries, None, made), "kernel", 2)
    weights["attention_output/bias"] = Weight((made,), "bias", 0)
    return weights


def _width(call: LayerCall, tensor: Any) -> Labels | None:
    """Labels of an input's last axis; channels on its other axes stay."""
    if not isinstance(tensor, Tensor):
        return None
    axes = call.labels_of(tensor)
    for labels in axes[:-1]:
        call.protect(labels, f"{call.title} attends along the axis that holds these channels")
    return axes[-1]


def _check_masks(call: LayerCall, bound: dict[str, Any], heads: Labels) -> None:
    """A mask with an axis for the heads fixes their number."""
    for name, value in bound.items():
        if name in _TENSORS or not isinstance(value, Tensor):
            continue
        call.protect_all(call.labels_of(value), f"{call.title} takes them as its {name}")
        if len(value.shape) == 4 and value.shape[1] != 1:
            call.protect(heads, f"the {name} of {call.title} has an axis for the heads")
