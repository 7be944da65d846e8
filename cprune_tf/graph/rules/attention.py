"""Rule of multi-head attention: whole heads, and the width of the output."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from cprune_tf.graph.flat import Tensor
from cprune_tf.graph.labels import Axes, Labels
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, Weight, register_rule

_TENSORS = ("query", "value", "key")


@register_rule(keras.layers.MultiHeadAttention)
def multi_head_attention(call: LayerCall) -> Effect:
    """Heads are made here ("name/heads"), and so is the output; inputs are consumed."""
    layer: Any = call.layer
    bound = inspect.signature(layer.call).bind(*call.call.args, **call.call.kwargs).arguments
    rank = len(call.input_shapes[0])
    if rank != 3 or tuple(layer.attention_axes or (1,)) != (1,):
        return call.opaque(f"{call.title} attends along more than one axis")
    heads = call.fresh(layer.num_heads)
    widths = {name: _width(call, bound.get(name)) for name in _TENSORS}
    if bound.get("key") is None:
        widths["key"] = widths["value"]
    _check_masks(call, bound, heads)
    made = call.fresh(int(call.output_shapes[0][-1] or 0))

    def resize(keep: Keep) -> dict[str, Any]:
        return {"num_heads": keep.count(heads), "output_shape": (keep.count(made),)}

    outputs: tuple[Axes, ...] = ((None, None, made), (None, heads, None, None))
    return Effect(
        outputs[: len(call.output_shapes)],
        _weights(widths, heads, made),
        {"": made, "heads": heads},
        resize,
    )


def _weights(widths: dict[str, Labels | None], heads: Labels, made: Labels) -> dict[str, Weight]:
    weights = {}
    for name in (*_TENSORS, "gate"):
        arriving = widths["query" if name == "gate" else name]
        weights[f"{name}/kernel"] = Weight((arriving, heads, None), "kernel", 1)
        weights[f"{name}/bias"] = Weight((heads, None), "bias", 0)
    weights["attention_output/kernel"] = Weight((heads, None, made), "kernel", 2)
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
