"""Rules of layers that act on single values: activations, dropouts, rescaling, merges."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cprune_tf.graph.labels import Axes
from cprune_tf.graph.rules.common import (
    check_activation,
    is_zero_at_zero,
    pad_rank,
    same_axes,
)
from cprune_tf.graph.rules.registry import Effect, LayerCall, Weight, register_rule

_layers = keras.layers


@register_rule(_layers.ReLU, "keras.src.activations.activations.ReLU")
def relu(call: LayerCall) -> Effect:
    """A function of each value; a threshold with a negative slope maps zero to another value."""
    layer: Any = call.layer
    keeps_zero = not (layer.threshold and layer.negative_slope)
    return Effect((call.inputs[0],), keeps_zero=keeps_zero, flow="pointwise")


@register_rule(
    _layers.LeakyReLU,
    _layers.ELU,
    _layers.Identity,
    _layers.ActivityRegularization,
    _layers.GaussianNoise,
    _layers.GaussianDropout,
    _layers.AlphaDropout,
    _layers.SpatialDropout1D,
    _layers.SpatialDropout2D,
    _layers.SpatialDropout3D,
)
def passes(call: LayerCall) -> Effect:
    """Every channel goes through unchanged in place; zero stays zero."""
    return Effect((call.inputs[0],), keeps_zero=True, flow="pointwise")


def scaled_channels(call: LayerCall, weight: str, size_argument: str) -> Effect:
    """The effect of a layer that multiplies each channel of the last axis by a factor of its own.

    Args:
        call: The layer's call.
        weight: The layer's attribute with the factors, [channels].
        size_argument: The constructor's argument, and attribute, with the number of channels.

    Returns:
        The effect.
    """
    axes = call.inputs[0]
    labels, size = axes[-1], getattr(call.layer, size_argument)
    return Effect(
        (axes,),
        {weight: Weight((labels,), "other", 0)},
        resize=lambda keep: {size_argument: keep.size(labels, size)},
        keeps_zero=True,
        flow="pointwise",
    )


@register_rule(_layers.Dropout)
def dropout(call: LayerCall) -> Effect:
    """Like `passes`, but channels on an axis for which the noise has a fixed size are protected."""
    noise = call.layer.noise_shape or (None,) * len(call.inputs[0])
    for size, labels in zip(noise, call.inputs[0], strict=True):
        if size not in (None, 1):
            call.protect(labels, f"{call.title} has a noise_shape that names their number")
    return Effect((call.inputs[0],), keeps_zero=True, flow="same")


@register_rule(_layers.Activation)
def activation(call: LayerCall) -> Effect:
    """A function of each value; if it mixes channels (softmax), they are protected."""
    for labels in call.inputs[0]:
        check_activation(call, labels)
    keeps_zero = is_zero_at_zero(call.layer.activation)
    return Effect((call.inputs[0],), keeps_zero=keeps_zero, flow="pointwise")


@register_rule(_layers.Softmax)
def softmax(call: LayerCall) -> Effect:
    """Channels on the axis of the softmax are protected: each output depends on all of them."""
    axes = call.inputs[0]
    axis = call.layer.axis
    for a in axis if isinstance(axis, (list, tuple)) else [axis]:
        call.protect(axes[a], f"{call.title} is a softmax over these channels")
    return Effect((axes,))


@register_rule(_layers.PReLU)
def prelu(call: LayerCall) -> Effect:
    """The layer has one slope per value except along the shared axes."""
    axes = call.inputs[0]
    shared = call.layer.shared_axes or []
    slopes = tuple(None if a in shared else axes[a] for a in range(1, len(axes)))
    channel_axes = [i for i, labels in enumerate(slopes) if labels is not None]
    out_axis = channel_axes[-1] if channel_axes else None
    flow = "pointwise" if len(shared) == len(axes) - 2 else ""
    alpha = Weight(slopes, "other", out_axis)
    return Effect((axes,), {"alpha": alpha}, keeps_zero=True, flow=flow)


@register_rule(_layers.Rescaling)
def rescaling(call: LayerCall) -> Effect:
    """One factor for all values; channels with factors of their own are protected."""
    layer: Any = call.layer
    if np.size(layer.scale) > 1 or np.size(layer.offset) > 1:
        call.protect_all(call.inputs[0], f"{call.title} has a constant for each")
    keeps_zero = bool(np.all(np.asarray(layer.offset) == 0))
    return Effect((call.inputs[0],), keeps_zero=keeps_zero, flow="pointwise")


@register_rule(
    _layers.Add,
    _layers.Subtract,
    _layers.Multiply,
    _layers.Average,
    _layers.Maximum,
    _layers.Minimum,
)
def merge(call: LayerCall) -> Effect:
    """Channels with the same index live and die together; axes of size one are broadcast."""
    rank = len(call.output_shapes[0])
    operands = [
        pad_rank(shape, axes, rank, 1)
        for shape, axes in zip(call.input_shapes, call.inputs, strict=True)
    ]
    out = same_axes(call, operands, call.output_shapes[0])
    sums = isinstance(call.layer, _layers.Add)
    return Effect((out,), keeps_zero=_same_shapes(operands), flow="pointwise", sums=sums)


def _same_shapes(operands: list[tuple[Any, Axes]]) -> bool:
    return len({shape[1:] for shape, _ in operands}) == 1
