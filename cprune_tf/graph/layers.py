"""Looks layers and weights up by their flat name."""

from __future__ import annotations

from typing import Any

import numpy as np

from cprune_tf.graph import keras_internals
from cprune_tf.graph.flat import flatten


def layer_named(model: Any, name: str) -> Any:
    """Returns a layer by its name in the flat graph.

    Args:
        model: A functional or built Sequential model.
        name: The layer's flat name.

    Returns:
        The layer itself, not a copy.

    Raises:
        KeyError: The model has no such layer.
    """
    if not keras_internals.has_nested_models(model):
        functional = keras_internals.functional(model)
        for operation in functional.operations:
            if operation.name == name:
                return operation
    layers = flatten(model).layers()
    if name not in layers:
        raise KeyError(f"The model '{model.name}' has no layer {name!r}.")
    return layers[name]


def weight_variables(model: Any, layer: str) -> dict[str, Any]:
    """Returns a layer's variables by name relative to the layer ("kernel", "query/kernel")."""
    named_layer = layer_named(model, layer)
    names = keras_internals.relative_weight_names(named_layer)
    return dict(zip(names, named_layer.weights, strict=True))


def weight_arrays(model: Any, layer: str) -> dict[str, Any]:
    """Returns a layer's weights as arrays, by the names that `weight_variables` uses."""
    return {name: np.asarray(value) for name, value in weight_variables(model, layer).items()}
