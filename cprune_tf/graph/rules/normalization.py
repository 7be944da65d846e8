"""Rules of normalisations: their parameters per channel, and which of them mix channels."""

from __future__ import annotations

from typing import Any

import keras

from cprune_tf.graph.labels import Axes
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, Weight, register_rule

_ROLES = {
    "gamma": "scale",
    "scale": "scale",
    "beta": "shift",
    "moving_mean": "statistic",
    "moving_variance": "statistic",
}


def _parameters(axes: Axes) -> dict[str, Weight]:
    """Describes all parameters a normalisation may have, which have the same axes."""
    return {name: Weight(axes, role, 0) for name, role in _ROLES.items()}


@register_rule(keras.layers.BatchNormalization)
def batch(call: LayerCall) -> Effect:
    """Each channel has its own statistics, so channels do not mix."""
    axes = call.inputs[0]
    return Effect((axes,), _parameters((axes[call.layer.axis],)), flow="pointwise")


@register_rule(keras.layers.LayerNormalization, keras.layers.RMSNormalization)
def layer_or_rms(call: LayerCall) -> Effect:
    """Mean and variance run over the channels, so removed channels no longer count in them."""
    axes = call.inputs[0]
    axis = call.layer.axis
    over = [a % len(axes) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
    mixed = any(axes[a] is not None for a in over)
    return Effect((axes,), _parameters(tuple(axes[a] for a in over)), mixes=mixed)


@register_rule(keras.layers.GroupNormalization)
def group(call: LayerCall) -> Effect:
    """Whole groups of channels are removed; a single group acts as a layer normalisation."""
    axes = call.inputs[0]
    layer: Any = call.layer
    axis = layer.axis % len(axes)
    for position, labels in enumerate(axes):
        if position != axis:
            call.protect(labels, f"{call.title} normalises over the axis that holds these channels")
    labels = axes[axis]
    weights = _parameters((labels,))
    if labels is None or layer.groups == 1:
        return Effect((axes,), weights, mixes=labels is not None)
    groups = labels.reshape(layer.groups, -1)
    call.tie(groups, groups[:, :1])

    def resize(keep: Keep) -> dict[str, Any]:
        return {"groups": keep.count(groups[:, 0])}

    return Effect((axes,), weights, resize=resize, sizes=(labels,))


@register_rule(keras.layers.UnitNormalization)
def unit(call: LayerCall) -> Effect:
    """Divides by the vector's length, in which removed channels no longer count."""
    axes = call.inputs[0]
    axis = call.layer.axis
    over = axis if isinstance(axis, (list, tuple)) else [axis]
    return Effect((axes,), keeps_zero=True, mixes=any(axes[a] is not None for a in over))


@register_rule(keras.layers.Normalization)
def preprocessing(call: LayerCall) -> Effect:
    """The statistics belong to the data, so all channels are protected."""
    call.protect_all(call.inputs[0], f"{call.title} holds one statistic of the data for each")
    return Effect((call.inputs[0],))
