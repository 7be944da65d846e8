"""What the outputs of a model end in: a sigmoid, a softmax, or neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from cprune_tf.graph import keras_internals
from cprune_tf.graph.flat import Call, Tensor, flatten

LINEAR = "linear"
# What follows an activation without changing its range; resizing mixes neighbours of one channel.
_PASSED_LAYERS = (
    *(keras.layers.Reshape, keras.layers.Flatten, keras.layers.Permute, keras.layers.Identity),
    *(keras.layers.Dropout, keras.layers.Cropping1D, keras.layers.Cropping2D),
    *(keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.Resizing),
    *(keras.layers.Concatenate, keras.layers.Activation),
)
_PASSED_OPERATIONS = {
    f"ops.{name}"
    for name in ("Reshape", "Transpose", "Squeeze", "ExpandDims", "Cast", "Concatenate", "GetItem")
}


def output_activations(model: keras.Model) -> tuple[str, ...]:
    """Finds the activation that each output of a model ends in.

    Layers' activations, activation layers and raw operations such as `keras.ops.sigmoid` are found,
    in nested models and behind reshapes too.

    Args:
        model: A functional or built Sequential model.

    Returns:
        The activation's name for each output, in the model's order: "sigmoid", "softmax" (over the
        last axis), another name, or "linear" where there is none.

    Raises:
        GraphError: If the model has no graph of layers.
    """
    flat = flatten(model)
    makers = {id(tensor): call for call in flat.calls for tensor in call.outputs}
    return tuple(_activation(makers, output, output) for output in keras.tree.flatten(flat.outputs))


def _activation(makers: Mapping[int, Call], tensor: Tensor, output: Tensor) -> str:
    call = makers.get(id(tensor))
    if call is None:
        return LINEAR
    found = _own_activation(call.operation, len(tensor.shape))
    # A softmax over an axis that is cut or merged later is none of the output's last axis.
    if found == "softmax" and tensor.shape[-1] != output.shape[-1]:
        return LINEAR
    if found != LINEAR or not _is_passed(call.operation):
        return found
    names = {_activation(makers, one, output) for one in call.inputs}
    return names.pop() if len(names) == 1 else LINEAR


def _own_activation(operation: Any, rank: int) -> str:
    while isinstance(operation, keras.layers.Wrapper):
        operation = operation.layer
    activation = getattr(operation, "activation", None) or keras.activations.linear
    name = str(getattr(activation, "__name__", type(activation).__name__))
    kind = keras_internals.operation_kind(operation)
    if kind == "ops.Sigmoid":
        name = "sigmoid"
    elif kind == "ops.Softmax" or isinstance(operation, keras.layers.Softmax):
        name = "softmax"
    if name == "softmax" and getattr(operation, "axis", -1) not in (-1, rank - 1):
        return LINEAR
    return name


def _is_passed(operation: Any) -> bool:
    return (
        isinstance(operation, _PASSED_LAYERS)
        or keras_internals.operation_kind(operation) in _PASSED_OPERATIONS
    )
