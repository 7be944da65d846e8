"""Names by which the operators of a `.tflite` file tell which Keras calls they compute.

Every call of a model's flat graph is traced under a separate name scope ("keras_call_17").
TensorFlow's converter joins the names of the operations that it fuses into one operator, separated
by semicolons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import keras

from cprune_tf.graph.flat import FlatGraph, Tensor

_SCOPE = "keras_call_{}"
_PATTERN = re.compile(r"keras_call_(\d+)")


def scoped_forward(graph: FlatGraph) -> Callable[..., Any]:
    """Returns a function that computes the model with each call under a separate name scope."""
    import tensorflow as tf

    def forward(*inputs: Any) -> Any:
        values: dict[Tensor, Any] = dict(zip(graph.inputs, inputs, strict=True))

        def value_of(value: Any) -> Any:
            return values[value] if isinstance(value, Tensor) else value

        for number, call in enumerate(graph.calls):
            args, kwargs = keras.tree.map_structure(value_of, (call.args, dict(call.kwargs)))
            if "training" in kwargs:
                kwargs["training"] = False
            # The slash makes the scope absolute, so that TensorFlow does not append a number.
            with tf.name_scope(_SCOPE.format(number) + "/"):
                results = keras.tree.flatten(call.operation(*args, **kwargs))
            values.update(zip(call.outputs, results, strict=True))
        return keras.tree.map_structure(value_of, graph.outputs)

    return forward


def call_positions(joined_names: str) -> Iterator[int]:
    """Yields the positions in `FlatGraph.calls` that the name of a tensor in a file tells."""
    for name in joined_names.split(";"):
        if match := _PATTERN.fullmatch(name.split("/")[0]):
            yield int(match[1])
