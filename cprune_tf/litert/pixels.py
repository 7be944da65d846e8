"""Models that take pixels: preprocessing becomes part of the file that is deployed."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt

PREPROCESSING = "pixels"
"""The name of the layer that preprocesses."""


def taking_pixels(model: keras.Model, mean: Sequence[float], std: Sequence[float]) -> keras.Model:
    """Puts preprocessing in front of a model.

    Args:
        model: A model with one image as its input, preprocessed as (pixels - mean) / std.
        mean: One value or one per channel, 0..255.
        std: One value or one per channel.

    Returns:
        A model that shares the layers and takes uint8 pixels [batch, height, width, channels].
    """
    pixels = keras.Input(model.inputs[0].shape[1:], dtype="uint8", name=PREPROCESSING + "_in")
    scale = 1 / np.asarray(std, np.float64)
    offset = -np.asarray(mean, np.float64) * scale
    rescaling = keras.layers.Rescaling(_plain(scale), _plain(offset), name=PREPROCESSING)
    return keras.Model(pixels, model(rescaling(pixels)), name=f"{model.name}_{PREPROCESSING}")


def to_pixels(
    images: npt.NDArray[np.float32], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """Returns the pixels that preprocessing made images of.

    Args:
        images: float32 [num_images, height, width, channels], preprocessed.
        mean: As for `taking_pixels`.
        std: As for `taking_pixels`.

    Returns:
        uint8, of the same shape.
    """
    values = images * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _plain(values: npt.NDArray[np.float64]) -> float | list[float]:
    """Returns one number where there is only one: `Rescaling` then needs no channel axis."""
    return float(values.ravel()[0]) if values.size == 1 else values.tolist()
