"""Rules of layers of KerasHub that have weights of their own; the package is not imported.

Most of KerasHub's layers only call others and are unfolded (`cprune_tf.graph.unfolding`).
"""

from __future__ import annotations

from cprune_tf.graph.rules.elementwise import scaled_channels
from cprune_tf.graph.rules.registry import Effect, LayerCall, Weight, register_rule

_MODELS = "keras_hub.src.models"


@register_rule(
    f"{_MODELS}.dinov2.dinov2_layers.DINOV2LayerScale",
    f"{_MODELS}.dinov3.dinov3_layers.DINOV3LayerScale",
)
def layer_scale(call: LayerCall) -> Effect:
    """Multiplies each channel by its own factor."""
    return scaled_channels(call, "lambda1", "hidden_dim")


@register_rule(f"{_MODELS}.mobilenetv5.mobilenetv5_layers.LayerScale2d")
def layer_scale_of_images(call: LayerCall) -> Effect:
    """Multiplies each channel by its own factor."""
    if call.layer.data_format == "channels_first":
        return call.opaque(f"{call.title} has its channels first")
    return scaled_channels(call, "gamma", "dim")


@register_rule(f"{_MODELS}.mobilenetv5.mobilenetv5_layers.RmsNorm2d")
def rms_norm(call: LayerCall) -> Effect:
    """Divides by the root mean square of the channels, in which removed ones do not count."""
    if call.layer.data_format == "channels_first":
        return call.opaque(f"{call.title} has its channels first")
    axes = call.inputs[0]
    labels = axes[-1]
    return Effect(
        (axes,),
        {"gamma": Weight((labels,), "scale", 0)},
        resize=lambda keep: {"dim": keep.size(labels, call.layer.dim)},
        mixes=labels is not None,
    )


@register_rule(f"{_MODELS}.hgnetv2.hgnetv2_layers.HGNetV2LearnableAffineBlock")
def affine(call: LayerCall) -> Effect:
    """One factor and one constant for all values."""
    return Effect((call.inputs[0],), flow="pointwise")
