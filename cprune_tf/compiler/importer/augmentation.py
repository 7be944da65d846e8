"""Converters of layers that have an effect in training only."""

from __future__ import annotations

from typing import Any

import keras
from tvm import relax

from cprune_tf.compiler.importer.emitter import Emitter, dtype, shape
from cprune_tf.compiler.importer.registry import UnsupportedOperationError, register_converter
from cprune_tf.graph.rules.augmentation import AUGMENTATIONS

_NOISE = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    "keras.src.applications.convnext.StochasticDepth",
)


@register_converter(*_NOISE, "ops.StopGradient", "ops.Copy")
def convert_identity(emitter: Emitter, layer: Any, x: Any) -> Any:
    """Converts layers that do nothing at inference: returns the input."""
    return x


@register_converter(*AUGMENTATIONS)
def convert_augmentation(emitter: Emitter, layer: Any, images: Any) -> Any:
    """Returns the images, in the type that the layer computes in."""
    if not isinstance(images, relax.Var):
        raise UnsupportedOperationError(
            "it takes images with labels or boxes; expected images alone: do this in the data"
        )
    announced = emitter.call.outputs[0].shape
    if tuple(announced[1:]) != shape(images)[1:]:
        raise UnsupportedOperationError(
            f"it announces the shape {announced} for inputs of the shape {shape(images)}, but "
            "Keras passes them on unchanged at inference; expected equal sizes: do this in the data"
        )
    target = emitter.output_dtype
    return images if dtype(images) == target else emitter.emit(relax.op.astype(images, target))
