"""The arrays of a model that Keras 2 saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import keras
import numpy as np

from cprune_tf.graph.copying import plain_layers
from cprune_tf.models.errors import ModelError

# The state of a random generator, which is no weight in Keras 3.
_RANDOM_STATE = "StateVar"


def load_weights(group: h5py.Group, model: keras.Model, file_names: Mapping[str, str]) -> None:
    """Sets the weights of a model.

    Args:
        group: The group `model_weights` of the file.
        model: The model, built.
        file_names: The name in the file of each layer of the model.

    Raises:
        ModelError: The file lacks weights, or has others than the model.
    """
    unread = {name for name in _texts(group, "layer_names") if _saved(group[name])}
    for layer in model.layers:
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        name = file_names.get(layer.name, layer.name)
        unread.discard(name)
        saved = _saved(group[name]) if name in group else []
        if not variables and not saved:
            continue
        for variable, array in _matched(layer, variables, saved):
            variable.assign(array)
    if unread:
        raise ModelError(
            f"the file has weights of {', '.join(map(repr, sorted(unread)))}, which the model in "
            "its config lacks; expected the weights of one model. Save it again, completely."
        )
    for layer in plain_layers(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _saved(group: h5py.Group) -> list[tuple[str, Any]]:
    """The names and arrays of one layer, in Keras 2's order."""
    names = [name for name in _texts(group, "weight_names")]
    return [
        (name, np.asarray(group[name]))
        for name in names
        if _key(name)[-1] != _RANDOM_STATE and name in group
    ]


def _matched(
    layer: Any, variables: list[Any], saved: list[tuple[str, Any]]
) -> list[tuple[Any, Any]]:
    """Pairs each variable of a layer, or of a model that is one, with its array.

    Both Keras 2 and Keras 3 order them alike, except below a layer that is partly frozen. So names
    decide where they are the same in both.
    """
    new, old = [_key(v.path) for v in variables], [_key(name) for name, _ in saved]
    arrays = in_order = [array for _, array in saved]
    if len(set(old)) == len(old) and set(new) == set(old):
        by_key = dict(zip(old, arrays, strict=True))
        arrays = [by_key[key] for key in new]
    own, own_old = [key[-1] for key in new], [key[-1] for key in old]
    # Names of the same words in another order: the order would give weights to wrong variables.
    if arrays is in_order and own != own_old and sorted(own) == sorted(own_old):
        raise _mismatch(layer, variables, saved)
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [array.shape for array in arrays]:
        raise _mismatch(layer, variables, saved)
    return list(zip(variables, arrays, strict=True))


def _mismatch(layer: Any, variables: list[Any], saved: list[tuple[str, Any]]) -> ModelError:
    expected = [f"{'/'.join(_key(v.path))} {tuple(v.shape)}" for v in variables]
    received = [f"{'/'.join(_key(name))} {array.shape}" for name, array in saved]
    return ModelError(
        f"the weights of the layer {layer.name!r} ({type(layer).__name__}) in the file are "
        f"{_listed(received)}; expected {_listed(expected)}. Save the model again, completely."
    )


def _listed(texts: list[str]) -> str:
    return f"{', '.join(texts[:8])}{', ...' if len(texts) > 8 else ''}" if texts else "none"


def _key(path: str) -> tuple[str, ...]:
    """The last two parts of a weight's name: its layer's and its own."""
    return tuple(path.split(":")[0].split("/")[-2:])


def _texts(group: h5py.Group, name: str) -> list[str]:
    """Reads a list of names, which HDF5 may hold in several attributes: name0, name1, ..."""
    keys = [name] if name in group.attrs else []
    while f"{name}{len(keys)}" in group.attrs:
        keys.append(f"{name}{len(keys)}")
    values = [value for key in keys for value in group.attrs[key]]
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values]
