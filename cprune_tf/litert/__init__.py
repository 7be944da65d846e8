"""`.tflite` files: conversion, quantisation, accuracy, and where int8 loses it."""

from __future__ import annotations

from cprune_tf.litert.conversion import PRECISIONS, convert
from cprune_tf.litert.errors import ConversionError
from cprune_tf.litert.evaluation import evaluate
from cprune_tf.litert.layer_errors import LayerError, compare_layers
from cprune_tf.litert.quantization import (
    FloatOperator,
    Quantized,
    quantize,
    quantize_for_timing,
)

__all__ = [
    "PRECISIONS",
    "ConversionError",
    "FloatOperator",
    "LayerError",
    "Quantized",
    "compare_layers",
    "convert",
    "evaluate",
    "quantize",
    "quantize_for_timing",
]
