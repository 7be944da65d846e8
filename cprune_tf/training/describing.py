"""Shapes and types of labels, for messages."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def describe(labels: Any) -> str:
    """Writes shapes and types of labels, or of anything else in their structure."""
    described = keras.tree.map_structure(
        lambda array: f"{np.asarray(array).dtype} {list(np.shape(array))}", labels
    )
    return str(described).replace("'", "")
