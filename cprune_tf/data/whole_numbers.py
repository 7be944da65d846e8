"""Data for models whose inputs are integers, as uint8 for pixels: rounded, never cut off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.devices import input_types

# Images within these limits that are no whole numbers were scaled for another model.
_LARGEST_SCALED_PIXEL = 8.0
_NUM_PROBES = 256


def fit_to_input(data: ImageData, model: keras.Model) -> ImageData:
    """Rounds images for a model whose input is of an integer type; they stay float32.

    Args:
        data: Images, preprocessed.
        model: A model with one input.

    Returns:
        The same data where the input is of a floating-point type.

    Raises:
        DataError: If the images were scaled, so that rounding would leave nothing of them, or lie
            outside of the type.
    """
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    if not is_integer(dtype):
        return data
    for images in (data.test_images, data.validation_images):
        if images is not None:
            _require_pixels(data.name, images[:_NUM_PROBES], dtype)

    def rounding(
        source: Callable[[int], tf.data.Dataset],
    ) -> Callable[[int], tf.data.Dataset]:
        def rounded(images: tf.Tensor, *rest: Any) -> tuple[Any, ...]:
            return (tf.cast(to_type(images, dtype), tf.float32), *rest)

        return lambda seed: source(seed).map(rounded)

    validation, compiled = data.validation_images, data.compiled_dataset
    return dataclasses.replace(
        data,
        test_images=_rounded(data.test_images, dtype),
        validation_images=None if validation is None else _rounded(validation, dtype),
        train_dataset=rounding(data.train_dataset),
        compiled_dataset=None if compiled is None else rounding(compiled),
    )


def is_integer(dtype: str) -> bool:
    """Whether a type has whole numbers only, truth values among them."""
    return dtype == "bool" or "int" in dtype


def to_type(values: Any, dtype: str) -> Any:
    """Converts an array or tensor; floating-point numbers become the nearest integers.

    Args:
        values: A NumPy array or a TensorFlow tensor of any shape.
        dtype: The type's name.

    Returns:
        The same kind of array, of this type.
    """
    if not tf.is_tensor(values):
        return input_types.to_type(values, dtype)
    if is_integer(dtype) and not is_integer(values.dtype.name):
        low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        values = tf.clip_by_value(tf.round(values), float(low), float(high))
    return tf.cast(values, dtype)


def _rounded(images: np.ndarray, dtype: str) -> np.ndarray:
    rounded: np.ndarray = to_type(images, dtype).astype(np.float32)
    return rounded


def _require_pixels(name: str, images: np.ndarray, dtype: str) -> None:
    low, high = float(images.min()), float(images.max())
    rounded = _rounded(images, dtype)
    is_scaled = max(abs(low), abs(high)) <= _LARGEST_SCALED_PIXEL and (rounded != images).any()
    if is_scaled or np.abs(rounded - images).max() > 1:
        raise DataError(
            f"{name}: images are {low:.4g}..{high:.4g} after preprocessing, and the model's input "
            f"is of the type {dtype}; expected whole numbers of this type. Set data.mean=(0.0,) "
            "and data.std=(1.0,), or give images as the model takes them."
        )
