"""Keeps the biases of nearly empty filters within int32.

A bias is stored in steps of its input's scale times its filter's scale. The scale of a filter that
training has emptied (weights of 1e-12, say, after its batch norm was folded in) is so small that
even 2^31 steps are next to nothing: the bias, which is all that the filter computes, is lost. One
weight of such a filter is enlarged until the bias fits. What it adds is below 1e-4 of the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.litert.tflite_graph import FileOperator, Product

_MAX_STEPS = 2.0**30  # of a bias; half of what int32 holds
_WEIGHT_STEPS = 127
_ACTIVATION_STEPS = 255


def fit_biases(operators: Sequence[FileOperator], ranges: Mapping[str, Any]) -> int:
    """Enlarges weights of a float32 file so that all its biases can be stored as int32.

    Args:
        operators: The operators of the file; their constants must be writable.
        ranges: Name of a tensor -> its "min" and "max", for the tensors that become int8.

    Returns:
        How many filters were changed.
    """
    num_changed = 0
    for operator in operators:
        product = operator.product
        if product is not None and product.factor.name in ranges:
            num_changed += _fit(product, ranges[product.factor.name])
    return num_changed


def _fit(product: Product, limits: Mapping[str, Any]) -> int:
    weight = product.weight.data
    bias = None if product.bias is None else product.bias.data
    if weight is None or bias is None:
        return 0
    low, high = min(float(np.min(limits["min"])), 0.0), max(float(np.max(limits["max"])), 0.0)
    input_step = max((high - low) / _ACTIVATION_STEPS, 1e-12)
    filters: npt.NDArray[np.float32] = np.moveaxis(weight, product.channel_axis, 0)
    others = tuple(range(1, filters.ndim))
    least = _WEIGHT_STEPS * np.abs(bias.ravel()) / (input_step * _MAX_STEPS)
    narrow = np.flatnonzero(np.abs(filters).max(axis=others) < least)
    for number in narrow:
        largest = np.unravel_index(np.abs(filters[number]).argmax(), filters[number].shape)
        sign = -1.0 if filters[number][largest] < 0 else 1.0
        filters[(number, *largest)] = sign * least[number]
    return len(narrow)
