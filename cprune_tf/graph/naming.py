"""Names of layers that TensorFlow cannot trace, because it makes name scopes of them."""

from __future__ import annotations

import re
from typing import Any

import keras

from cprune_tf.graph import keras_internals
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.flat import Call, flatten
from cprune_tf.graph.replaying import copy_weights, make_operation, replay

# What tf.function takes for a scope inside others, and for one outside all others.
_INNER = re.compile(r"[A-Za-z0-9_.>-]+")
_OUTER = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.>-]*")
_OTHER_CHARACTER = re.compile(r"[^A-Za-z0-9_.-]")


def check_names(model: Any) -> None:
    """Raises GraphError for names of layers with which Keras can neither train nor predict.

    Args:
        model: A functional or built Sequential model.
    """
    names = [model.name] if not _OUTER.fullmatch(model.name) else []
    names += [name for name in _scopes(model) if not _INNER.fullmatch(name)]
    if names:
        listed = ", ".join(repr(name) for name in list(dict.fromkeys(names))[:5])
        raise GraphError(
            f"The model {model.name!r} has layers (or is itself) named {listed}; expected letters "
            "of English, digits and _.>- only, since Keras with TensorFlow can neither train nor "
            "evaluate others. Give them other names before the run: layer.name = '...'."
        )


def traceable_twin(model: Any) -> Any:
    """Returns a model whose names TensorFlow can trace and save.

    Args:
        model: A functional or built Sequential model; it is not changed.

    Returns:
        `model` itself if its names allow it, or a copy with other names that computes the same.
    """
    if all(_OUTER.fullmatch(name) for name in _scopes(model)):
        return model
    copies: dict[str, Any] = {}
    calls: dict[str, Call] = {}

    def make(call: Call) -> Any:
        layer = make_operation(call, {})
        layer.name = f"layer_{len(copies)}_{_OTHER_CHARACTER.sub('_', call.name)}"
        copies[call.name], calls[call.name] = layer, call
        return layer

    twin = replay(flatten(model), make)
    for name, layer in copies.items():
        copy_weights(calls[name], layer, {}, None)
    twin.name = f"model_{_OTHER_CHARACTER.sub('_', model.name)}"
    return twin


def _scopes(model: Any) -> list[str]:
    """The names of a model and its layers, but those of inputs, which compute nothing."""
    return [
        one.name
        for one in keras_internals.all_layers(model)
        if not isinstance(one, keras.layers.InputLayer)
    ]
