"""Rules of the layers that `keras.applications` defines for its own models."""

from __future__ import annotations

from cprune_tf.graph import keras_internals
from cprune_tf.graph.rules.elementwise import merge, passes
from cprune_tf.graph.rules.registry import Effect, LayerCall, Weight, register_rule

_CLASSES = keras_internals.application_layers()

register_rule(_CLASSES["StochasticDepth"])(passes)
register_rule(_CLASSES["CustomScaleLayer"])(merge)


@register_rule(_CLASSES["LayerScale"])
def layer_scale(call: LayerCall) -> Effect:
    """Multiplies each channel by its own factor, as in ConvNeXt."""
    axes = call.inputs[0]
    labels = axes[-1]
    return Effect(
        (axes,),
        {"variable": Weight((labels,), "other", 0)},
        resize=lambda keep: {"projection_dim": keep.size(labels, call.layer.projection_dim)},
        keeps_zero=True,
        flow="pointwise",
    )
