"""Rules of convolutions: plain, grouped, depthwise, separable, transposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from cprune_tf.graph.labels import Axes, Labels
from cprune_tf.graph.rules.common import (
    channel_axis,
    check_activation,
    protect_others,
    repeat,
)
from cprune_tf.graph.rules.registry import Effect, Keep, LayerCall, Weight, register_rule

_SLIDES = "slides over"


def _arrive(call: LayerCall) -> tuple[int, Labels | None]:
    """Returns the input's channel axis and its labels; channels on other axes are protected."""
    axes = call.inputs[0]
    axis = channel_axis(call.layer, len(axes))
    return axis, protect_others(call, axes, axis, _SLIDES)[axis]


def _leave(call: LayerCall, axis: int, labels: Labels | None) -> tuple[Axes, ...]:
    check_activation(call, labels)
    rank = len(call.output_shapes[0])
    return (tuple(labels if i == axis else None for i in range(rank)),)


def _kernel(call: LayerCall, *last: Labels | None, out: int | None) -> Weight:
    spatial = (None,) * call.layer.rank
    return Weight((*spatial, *last), "kernel", None if out is None else call.layer.rank + out)


def _makes_filters(
    call: LayerCall, axis: int, filters: Labels, kernels: Mapping[str, Weight]
) -> Effect:
    """Makes the effect of a convolution that makes filters.

    Args:
        call: The call.
        axis: The number of the output's channel axis.
        filters: The labels of the filters, [number of filters].
        kernels: The kernels, by their name in the layer.

    Returns:
        The effect: the filters become the output's channels, and each filter owns its bias.
    """
    return Effect(
        _leave(call, axis, filters),
        {**kernels, "bias": Weight((filters,), "bias", 0)},
        {"": filters},
        lambda keep: {"filters": keep.count(filters)},
    )


@register_rule(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
def convolution(call: LayerCall) -> Effect:
    """The layer makes its filters; grouped convolutions have their own rule below."""
    layer: Any = call.layer
    axis, arriving = _arrive(call)
    if layer.groups > 1:
        return _grouped(call, axis, arriving)
    filters = call.fresh(layer.filters)
    return _makes_filters(call, axis, filters, {"kernel": _kernel(call, arriving, filters, out=1)})


def _grouped(call: LayerCall, axis: int, arriving: Labels | None) -> Effect:
    """Prunes a grouped convolution evenly across the groups, or group by group.

    If a group has several inputs and filters, it is pruned evenly: filter j of every group is one
    unit, and so is input i of every group. Otherwise it is pruned group by group: a unit is a whole
    group, its inputs and its filters together (as in a depthwise convolution).
    """
    groups, filters = call.layer.groups, call.layer.filters
    per_input = call.input_shapes[0][axis] // groups
    per_group = filters // groups
    if per_group > 1 and (per_input > 1 or arriving is None):
        return _evenly(call, axis, arriving, per_input)
    if arriving is None:
        return call.opaque(f"{call.title} has groups whose inputs carry no channels")
    inputs = arriving.reshape(groups, per_input)
    call.tie(inputs, inputs[:, :1])
    leaving = np.repeat(inputs[:, 0], per_group)
    weights = {
        "kernel": _kernel(call, None, leaving, out=1),
        "bias": Weight((leaving,), "bias", 0),
    }

    def resize(keep: Keep) -> dict[str, Any]:
        return {"groups": keep.count(inputs[:, 0]), "filters": keep.count(leaving)}

    return Effect(_leave(call, axis, leaving), weights, {}, resize, sizes=(arriving,))


def _evenly(call: LayerCall, axis: int, arriving: Labels | None, per_input: int) -> Effect:
    groups, filters = call.layer.groups, call.layer.filters
    labels = call.fresh(filters)
    by_group = labels.reshape(groups, filters // groups)
    call.tie(by_group, by_group[:1])
    inner = None
    if arriving is not None:
        inputs = arriving.reshape(groups, per_input)
        call.tie(inputs, inputs[:1])
        inner = inputs[0]
    return _makes_filters(call, axis, labels, {"kernel": _kernel(call, inner, labels, out=1)})


@register_rule(
    keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose
)
def transposed(call: LayerCall) -> Effect:
    """Like a convolution, but the kernel's filter axis comes before its input axis."""
    layer: Any = call.layer
    axis, arriving = _arrive(call)
    if getattr(layer, "groups", 1) != 1:
        return call.opaque(f"{call.title} is a grouped transposed convolution")
    filters = call.fresh(layer.filters)
    return _makes_filters(call, axis, filters, {"kernel": _kernel(call, filters, arriving, out=0)})


@register_rule(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
def depthwise(call: LayerCall) -> Effect:
    """The outputs follow the input: input channel i becomes outputs i*m to i*m + m - 1."""
    axis, arriving = _arrive(call)
    leaving = repeat(arriving, call.layer.depth_multiplier)
    weights = {
        "kernel": _kernel(call, arriving, None, out=0),
        "bias": Weight((leaving,), "bias", 0),
    }
    return Effect(_leave(call, axis, leaving), weights)


@register_rule(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
def separable(call: LayerCall) -> Effect:
    """The depthwise kernel follows the input, and the pointwise kernel makes filters."""
    layer: Any = call.layer
    axis, arriving = _arrive(call)
    filters = call.fresh(layer.filters)
    inner = repeat(arriving, layer.depth_multiplier)
    kernels = {
        "depthwise_kernel": _kernel(call, arriving, None, out=None),
        "pointwise_kernel": _kernel(call, inner, filters, out=1),
    }
    return _makes_filters(call, axis, filters, kernels)
