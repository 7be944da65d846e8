"""Conversion of Keras models to `.tflite` files."""

from __future__ import annotations

from cprune_tf.litert.conversion import ConversionError, convert

__all__ = ["ConversionError", "convert"]
