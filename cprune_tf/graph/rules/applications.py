"""Rules of the layers that `keras.applications` defines for its own models."""

from __future__ import annotations

from cprune_tf.graph import keras_internals
from cprune_tf.graph.rules.elementwise import merge, passes, scaled_channels
from cprune_tf.graph.rules.registry import Effect, LayerCall, register_rule

_CLASSES = keras_internals.application_layers()

register_rule(_CLASSES["StochasticDepth"])(passes)
register_rule(_CLASSES["CustomScaleLayer"])(merge)


@register_rule(_CLASSES["LayerScale"])
def layer_scale(call: LayerCall) -> Effect:
    """Multiplies each channel by its own factor, as in ConvNeXt."""
    return scaled_channels(call, "variable", "projection_dim")
