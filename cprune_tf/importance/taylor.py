"""First-order Taylor importance: what the loss would gain or lose if a unit's gate closed.

Molchanov et al., CVPR 2019, equation 8.

The gate of a unit multiplies its channels; the derivative of the loss by the gate, at one, is the
sum of gradient times weight over the last affine parameters that make those channels: a
normalisation's gamma and beta where the group has one (a kernel in front of a normalisation has no
say in the scale), otherwise the kernels and biases of its producers.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cprune_tf.importance.registry import (
    Array,
    ImportanceError,
    ScoringRequest,
    register_criterion,
)
from cprune_tf.importance.units import average, by_unit, read_weight

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGroup
    from cprune_tf.graph.channel_graph import GroupWeight


@register_criterion("taylor", needs_data=True)
def gate_derivatives(request: ScoringRequest) -> Array:
    """Mean over batches of the squared gate derivative.

    Args:
        request: A compiled model, whose loss is used, and data.

    Returns:
        float64 [group.num_channels].

    Raises:
        ImportanceError: Without data, for a model that is not compiled, or a group without
            parameters.
    """
    from cprune_tf.graph.layers import weight_variables

    model, group, data = request.model, request.group, request.data
    check_differentiable("taylor", model, data)
    weights = gate_weights(group)
    if not weights:
        raise ImportanceError(f"The group '{group.name}' has no trainable parameters to score.")
    for weight in weights:
        read_weight(model, weight)
    variables = [weight_variables(model, w.layer)[w.weight] for w in weights]
    totals: dict[str, Array] = {}
    count = 0
    for inputs, targets in batches(data):
        count += 1
        for layer, gate in _gates(model, group, weights, variables, inputs, targets).items():
            totals[layer] = totals.get(layer, 0.0) + np.square(gate)
    if not count:
        raise ImportanceError("The data for 'taylor' held no batch.")
    return average([total / count for total in totals.values()])


def check_differentiable(method: str, model: Any, data: Any) -> None:
    """Checks that there is a loss to differentiate.

    Args:
        method: The criterion's name, for the message.
        model: The model.
        data: The labelled data.

    Raises:
        ImportanceError: Without data, or for a model that is not compiled.
    """
    if data is None:
        raise ImportanceError(
            f"The method {method!r} needs data=(inputs, targets) or an iterable of such batches."
        )
    if not getattr(model, "compiled", False):
        raise ImportanceError(
            f"The method {method!r} needs a loss, but '{model.name}' is not compiled; call "
            "model.compile(loss=...) first."
        )


def gate_weights(group: ChannelGroup) -> list[GroupWeight]:
    """The parameters through which the group's gates act."""
    affine = [w for w in group.weights if w.role in ("scale", "shift") and w.is_output]
    if affine:
        return affine
    return [w for w in group.weights if w.role in ("kernel", "bias") and w.is_output]


def batches(data: Any) -> Iterator[tuple[Any, Any]]:
    """One (inputs, targets) pair as a single batch, or the pairs of an iterable."""
    if isinstance(data, tuple) and len(data) == 2:
        yield data
        return
    if not isinstance(data, Iterable):
        raise ImportanceError(
            f"data is {type(data).__name__}; expected (inputs, targets) or an iterable of them."
        )
    for batch in data:
        yield batch[0], batch[1]


def _gates(
    model: Any,
    group: ChannelGroup,
    weights: list[GroupWeight],
    variables: list[Any],
    inputs: Any,
    targets: Any,
) -> dict[str, Array]:
    """Derivative of the loss by each unit's gate, by layer; NaN for units a layer lacks."""
    import keras
    import tensorflow as tf

    values = [variable.value for variable in variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for value in values:
            tape.watch(value)
        predictions = model(inputs, training=False)
        loss = model.compute_loss(x=inputs, y=targets, y_pred=predictions, training=False)
    gradients = tape.gradient(loss, values)
    gates: dict[str, Array] = {}
    for weight, value, gradient in zip(weights, values, gradients, strict=True):
        if gradient is None:
            continue
        product = np.asarray(keras.ops.convert_to_numpy(value)) * np.asarray(gradient)
        sums = by_unit(product, weight, group.num_channels).sum(axis=1)
        gates[weight.layer] = gates.get(weight.layer, 0.0) + sums
    if not gates:
        raise ImportanceError(f"The loss does not depend on the group '{group.name}'.")
    return gates
