"""Rule of augmentation layers, which change images in training and nothing at inference."""

from __future__ import annotations

import keras

from cprune_tf.graph.rules.common import names_in
from cprune_tf.graph.rules.registry import Effect, LayerCall, register_rule

# AutoContrast, Equalization and ContrastLimitedAdaptiveHistogramEqualization change images at
# inference too, so they are not among these. Older versions of Keras lack some.
_NAMES = names_in(
    """
    AugMix CutMix MaxNumBoundingBoxes MixUp RandAugment RandomBrightness RandomColorDegeneration
    RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip
    RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization
    RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom
    Solarization
    """
)
AUGMENTATIONS: tuple[type, ...] = tuple(
    getattr(keras.layers, name) for name in sorted(_NAMES) if hasattr(keras.layers, name)
)


@register_rule(*AUGMENTATIONS)
def augmentation(call: LayerCall) -> Effect:
    """Returns its input. In training it works on colours, so channels of its input stay."""
    if len(call.inputs) != 1 or call.input_shapes != call.output_shapes:
        return call.opaque(f"{call.title} takes or makes more than images of one size")
    axes = call.inputs[0]
    call.protect_all(axes, f"{call.title} changes images in training, by their colours")
    return Effect((axes,), keeps_zero=True, flow="same")
