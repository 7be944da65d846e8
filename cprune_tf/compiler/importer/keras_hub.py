"""Converters of layers of KerasHub that have weights of their own; the package is not imported.

Most of KerasHub's layers only call others and are unfolded (`cprune_tf.graph.unfolding`).
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, scalar, shape
from cprune_tf.compiler.importer.normalization import normalize
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter

_MODELS = "keras_hub.src.models"


@register_converter(
    f"{_MODELS}.dinov2.dinov2_layers.DINOV2LayerScale",
    f"{_MODELS}.dinov3.dinov3_layers.DINOV3LayerScale",
)
def convert_layer_scale(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a learned scale: one factor per channel."""
    return emitter.emit(relax.op.multiply(x, emitter.param("lambda1", layer.lambda1)))


@register_converter(f"{_MODELS}.mobilenetv5.mobilenetv5_layers.LayerScale2d")
def convert_layer_scale_of_images(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a learned scale of images: one factor per channel."""
    _check_channels_last(layer)
    return emitter.emit(relax.op.multiply(x, emitter.param("gamma", layer.gamma)))


@register_converter(f"{_MODELS}.mobilenetv5.mobilenetv5_layers.RmsNorm2d")
def convert_rms_norm(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts a normalisation by the root mean square of the channels."""
    _check_channels_last(layer)
    y = normalize(emitter, x, [len(shape(x)) - 1], layer.eps, centered=False)
    return emitter.emit(relax.op.multiply(y, emitter.param("gamma", layer.gamma)))


@register_converter(f"{_MODELS}.hgnetv2.hgnetv2_layers.HGNetV2LearnableAffineBlock")
def convert_affine(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts one factor and one constant for all values."""
    scale, bias = (scalar(float(value), x) for value in (layer.scale, layer.bias))
    return emitter.emit(relax.op.add(relax.op.multiply(x, scale), bias))


def _check_channels_last(layer: Any) -> None:
    if layer.data_format == "channels_first":
        raise UnsupportedOperationError("its channels come first; expected channels last")
