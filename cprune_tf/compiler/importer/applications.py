"""Converters of layer classes that `keras.applications` defines for its own models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, scalar
from cprune_tf.compiler.importer.registry import register_converter


@register_converter("keras.src.applications.convnext.LayerScale")
def convert_layer_scale(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts ConvNeXt's learned scale: one factor per channel."""
    return emitter.emit(relax.op.multiply(x, emitter.param("gamma", layer.gamma)))


@register_converter("keras.src.applications.inception_resnet_v2.CustomScaleLayer")
def convert_custom_scale(emitter: Emitter, layer: Any, tensors: Sequence[Any]) -> Any:
    """Converts Inception-ResNet's scaled residual: x + y * scale."""
    x, y = tensors
    return emitter.emit(relax.op.add(x, relax.op.multiply(y, scalar(float(layer.scale), y))))
