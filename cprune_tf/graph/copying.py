"""Goes through a model layer by layer, nested models included, and copies it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from cprune_tf.graph.naming import any_names


def plain_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields all layers that are no models, those inside nested models too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from plain_layers(layer)
        else:
            yield layer


def copy_model(
    model: keras.Model,
    copy_layer: Callable[[keras.layers.Layer], keras.layers.Layer],
    *,
    input_dtype: str | None = None,
) -> keras.Model:
    """Copies a model, its nested models and its weights.

    Args:
        model: Functional or Sequential. It is not changed.
        copy_layer: Makes the copy of one layer that is no model.
        input_dtype: The type of the copy's inputs of floating point; None: as the model's.

    Returns:
        An independent model whose `get_weights()` fit the given one. It is not compiled: a loss of
        the user's that is not registered could not be copied.
    """
    copies: dict[int, keras.layers.Layer] = {}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        # A layer that two nested models share has one copy, too.
        if id(layer) not in copies:
            is_model = isinstance(layer, keras.Model)
            copies[id(layer)] = (
                _clone(layer, clone_function=copy) if is_model else copy_layer(layer)
            )
        return copies[id(layer)]

    arguments: dict[str, Any] = {}
    if input_dtype is not None:
        arguments["input_tensors"] = keras.tree.map_structure(
            lambda tensor: keras.Input(
                tensor.shape[1:],
                dtype=input_dtype if "float" in tensor.dtype else tensor.dtype,
                name=tensor.name,
            ),
            model.inputs[0] if isinstance(model, keras.Sequential) else model.input,
        )
    with any_names():
        twin = _clone(model, clone_function=copy, **arguments)
    twin.set_weights(model.get_weights())
    return twin


def _clone(model: keras.Model, **arguments: Any) -> keras.Model:
    """Clones a model without its compile state, which Keras would serialise."""
    was_compiled = model.compiled
    model.compiled = False
    try:
        return keras.models.clone_model(model, **arguments)
    finally:
        model.compiled = was_compiled
