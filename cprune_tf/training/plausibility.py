"""Signs that a model and its data do not belong together, looked for before any work."""

from __future__ import annotations

import functools
import math

import keras
import numpy as np

from cprune_tf.accuracy import RANKS
from cprune_tf.data import Data, ImageData, SampleData
from cprune_tf.data.interface import batched
from cprune_tf.graph.copying import plain_layers
from cprune_tf.training.heads import SIGMOID, VALUES, Head, heads_of

# One-sided test: a model that guesses passes it in 1 of 40 cases.
_CLEAR_DEVIATIONS = 1.96
# Of fewer images, no accuracy says that a model only guesses.
_MIN_IMAGES = 30
# Images shown to find the range of pixels.
_NUM_PROBES = 256
# A layer with a smaller scale expects pixels of 0..255.
_LARGEST_PIXEL_SCALE = 1 / 32
_LARGEST_SCALED_PIXEL = 8.0
_BATCH = 64
# Of the largest value; outputs that vary less are the same but for rounding.
_LEAST_VARIATION = 1e-5


def scaling_note(model: keras.Model, data: Data) -> str:
    """Says that a model which scales pixels itself gets scaled ones; "" if it does not.

    Args:
        model: The original.
        data: Its images, preprocessed; of samples of other kinds, nothing is said.
    """
    if not isinstance(data, ImageData):
        return ""
    images = data.judges[0][:_NUM_PROBES]
    layer = next((one for one in plain_layers(model) if _is_for_pixels(one)), None)
    largest = max(abs(float(images.min())), abs(float(images.max())))
    if layer is None or largest > _LARGEST_SCALED_PIXEL:
        return ""
    return (
        f"The layer {layer.name!r} of {model.name!r} scales pixels of 0..255 by {layer.scale:.3g}, "
        f"but it gets {float(images.min()):.3g}..{float(images.max()):.3g}, which are scaled "
        "already. Set data.mean=(0.0,) and data.std=(1.0,), or give images of 0..255."
    )


def guessing_note(accuracy: float, data: ImageData, metric: str) -> str:
    """Says that a model is no better than chance, and why that may be; "" if it is better.

    Args:
        accuracy: On the images that decide, 0..1.
        data: The images.
        metric: "top1" or "top5".
    """
    count = len(data.judges[1])
    chance = min(1.0, RANKS.get(metric, 1) / data.num_classes)
    deviation = math.sqrt(chance * (1 - chance) / count)
    if count < _MIN_IMAGES or chance == 1 or accuracy > chance + _CLEAR_DEVIATIONS * deviation:
        return ""
    return (
        f"The original has an accuracy of {accuracy:.2%} ({metric}) on {count} images of "
        f"{data.name}, which is about what guessing gives ({chance:.2%} for {data.num_classes} "
        "classes); expected a trained model. The likely reasons: the preprocessing is not that of "
        "its training (data.mean, data.std); its outputs have another order than the labels "
        "(data.class_names); or it was trained for other classes."
    )


def constant_note(model: keras.Model, data: SampleData) -> str:
    """Says which outputs of a model are the same for all samples; "" if none is.

    Such a model may have a good score: nine of ten samples right, if these have the same label.
    Pruning costs it nothing, which tells nothing of another model.

    Args:
        model: The original.
        data: The samples.
    """
    inputs, labels = data.judges
    count = min(len(inputs[0]), _NUM_PROBES)
    if count < _MIN_IMAGES:
        return ""
    first = tuple(array[:count] for array in inputs)
    outputs = batched(data.interface, functools.partial(model, training=False), first, _BATCH)
    constant = [
        f"{head.port.name!r} ({what})"
        for head, values in zip(heads_of(model, data.interface, labels), outputs, strict=True)
        if (what := _constant(head, values))
    ]
    if not constant:
        return ""
    return (
        f"The original gives the same for each of {count} samples of {data.name} in the output "
        f"{' and '.join(constant)}, though their labels differ; expected a trained model. Its "
        "score is that of a constant, which pruning cannot make worse. Check the preprocessing, "
        "the labels' meaning and the training."
    )


def _constant(head: Head, values: np.ndarray) -> str:
    """What an output gives for every sample; "" if it varies, or its labels do not.

    Args:
        head: What is known of the output.
        values: Its values, [n, ...].
    """
    labels = head.labels
    if labels is None or (labels == labels[:1]).all():
        return ""
    if head.kind == VALUES:
        largest = float(np.abs(values).max())
        varies = float(np.ptp(values, axis=0).max()) > _LEAST_VARIATION * largest
        return "" if varies else "the same numbers"
    decided = values > 0.5 if head.kind == SIGMOID else values.argmax(axis=-1)
    if (decided != decided.flat[0]).any():
        return ""
    return f"always class {int(decided.flat[0])}"


def _is_for_pixels(layer: keras.layers.Layer) -> bool:
    if not isinstance(layer, keras.layers.Rescaling):
        return False
    scale = layer.scale
    return isinstance(scale, (int, float)) and 0 < scale <= _LARGEST_PIXEL_SCALE
