"""Weights so close to zero that some processors compute with them many times more slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_SMALLEST_NORMAL = np.finfo(np.float32).tiny


def count_subnormals(model: Any) -> int:
    """Counts the weights of a Keras model that are subnormal numbers in float32."""
    return sum(int(np.count_nonzero(_subnormal(w))) for w in map(np.asarray, model.get_weights()))


def flush_subnormals(model: Any) -> int:
    """Sets the subnormal weights of a Keras model to zero; training with weight decay leaves some.

    Args:
        model: Changed in place.

    Returns:
        How many weights were changed.
    """
    total = 0
    for variable in model.weights:
        values = np.asarray(variable)
        subnormal = _subnormal(values)
        if subnormal.any():
            variable.assign(np.where(subnormal, np.zeros_like(values), values))
            total += int(np.count_nonzero(subnormal))
    return total


def _subnormal(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return (values != 0) & (np.abs(values) < _SMALLEST_NORMAL)
