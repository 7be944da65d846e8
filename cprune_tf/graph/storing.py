"""Writes models to `.keras` files and reads them back, whatever classes and losses a user has.

A stored file holds layers and weights only: no class of the user's own model, no loss, metric or
optimizer. So it loads without the user's code, unless a layer itself is the user's. What the file
leaves out comes back from the original, which the caller of a run has at hand.
"""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from cprune_tf.graph import keras_internals
from cprune_tf.graph.copying import plain_layers
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.replaying import copy_compile_state, model_class


def stored_form(model: Any) -> Any:
    """Returns a model of the same layers that is saved without the user's class and compile state.

    Args:
        model: A functional or Sequential model; it is not changed.

    Returns:
        `model` itself if it is neither compiled nor of another class.
    """
    if not model.compiled and type(model).__module__.startswith("keras."):
        return model
    functional = keras_internals.functional(model)
    inputs = keras.tree.pack_sequence_as(
        keras_internals.input_structure(functional), list(functional.inputs)
    )
    outputs = keras.tree.pack_sequence_as(
        keras_internals.output_structure(functional), list(functional.outputs)
    )
    return keras.Model(inputs, outputs, name=model.name)


def load_stored(path: pathlib.Path, original: Any) -> Any:
    """Loads a model that was saved in its `stored_form`.

    Args:
        path: The `.keras` file, which this process or one before it wrote; code of Lambda layers in
            it runs if the original has such layers.
        original: The model that the stored one descends from. Its classes of layers, its functions,
            its own class and its compile state are used.

    Returns:
        The model, compiled as the original with a new optimizer.
    """
    has_lambda = any(isinstance(one, keras.layers.Lambda) for one in plain_layers(original))
    model = keras.models.load_model(
        path, custom_objects=_own_objects(original), compile=False, safe_mode=not has_lambda
    )
    cls = model_class(original)
    if cls is not keras.Model:
        model = cls(inputs=model.input, outputs=model.output, name=model.name)
    copy_compile_state(original, model)
    return model


def check_storable(model: Any) -> None:
    """Raises GraphError unless a model comes back from a file with all of its weights.

    Args:
        model: A functional or Sequential model.

    Raises:
        GraphError: Keras cannot save a layer or load it again, or weights are lost on the way.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        try:
            stored_form(model).save(path)
            loaded = load_stored(path, model)
        except Exception as error:  # Layers' own methods raise what they like.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise GraphError(
                f"The model '{model.name}' cannot be saved and loaded again: {reason} Expected a "
                "model that can, since a run keeps its models in files. Give each own layer a "
                "get_config() with all constructor arguments, and each Lambda an output_shape; or "
                "use layers of Keras."
            ) from error
    lost = [
        weight.path
        for weight, value in zip(model.weights, loaded.get_weights(), strict=True)
        if not np.array_equal(keras_internals.view(weight), value, equal_nan=True)
    ]
    if lost:
        raise GraphError(
            f"The model '{model.name}' loses weights when it is saved and loaded again: "
            f"{', '.join(lost[:5])}. Expected layers that keep their weights, since a run keeps "
            "its models in files. Give them a build() that makes all of their weights."
        )


def _own_objects(model: Any) -> dict[str, Any]:
    """The classes and functions in a model that are not Keras', by name."""
    objects: dict[str, Any] = {}
    for layer in plain_layers(model):
        objects |= {
            function.__name__: function
            for function in keras_internals.own_functions(layer).values()
        }
        if not type(layer).__module__.startswith("keras."):
            objects[type(layer).__name__] = type(layer)
            objects[keras.saving.get_registered_name(type(layer))] = type(layer)
    return objects
