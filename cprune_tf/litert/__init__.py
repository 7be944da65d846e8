"""Keras to `.tflite`, and the same model compared on every runtime of a device."""

from __future__ import annotations

from cprune_tf.litert.convert import ConversionError, convert
from cprune_tf.litert.cross_check import (
    CrossCheck,
    Deployment,
    RuntimeResult,
    Speedup,
    cross_check,
)

__all__ = [
    "ConversionError",
    "CrossCheck",
    "Deployment",
    "RuntimeResult",
    "Speedup",
    "convert",
    "cross_check",
]
