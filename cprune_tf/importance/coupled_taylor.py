"""First-order Taylor importance of a whole unit, coupled over all layers that make it.

Removing unit j of a group closes its gates in all producers at once (a residual stream has one in
each block), so the derivatives are added before the absolute value is taken:

    I[j] = mean over batches of |sum over layers (gamma dL/dgamma + beta dL/dbeta)|,

and without a normalisation the same with kernel and bias. The scores estimate by how much the loss
changes; they are not normalised, so they can be compared between groups.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from cprune_tf.importance.registry import (
    Array,
    ImportanceError,
    ScoringRequest,
    register_criterion,
)
from cprune_tf.importance.taylor import batches, check_differentiable, gate_weights
from cprune_tf.importance.units import by_unit, read_weight

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGroup


def score_groups(model: Any, groups: Sequence[ChannelGroup], data: Any) -> dict[str, Array]:
    """Scores several groups with one differentiation for each batch.

    Args:
        model: Compiled; its loss is used.
        groups: Channel groups of the model.
        data: (inputs, targets) arrays, or an iterable of such batches.

    Returns:
        float64 [group.num_channels] by group name; comparable between groups.

    Raises:
        ImportanceError: Without data, for a model that is not compiled, or a group without
            parameters.
    """
    from cprune_tf.graph.layers import weight_variables

    check_differentiable("coupled_taylor", model, data)
    variables: dict[tuple[str, str], Any] = {}
    for group in groups:
        weights = gate_weights(group)
        if not weights:
            raise ImportanceError(f"The group '{group.name}' has no trainable parameters to score.")
        for weight in weights:
            read_weight(model, weight)
            variable = weight_variables(model, weight.layer)[weight.weight]
            variables[weight.layer, weight.weight] = variable
    totals = {group.name: np.zeros(group.num_channels) for group in groups}
    differentiate = _differentiation(model, variables)
    num_batches = 0
    for inputs, targets in batches(data):
        num_batches += 1
        products = differentiate(inputs, targets)
        for group in groups:
            totals[group.name] += np.abs(_summed_over_layers(group, products))
    if not num_batches:
        raise ImportanceError("The data for 'coupled_taylor' held no batch.")
    return {name: total / num_batches for name, total in totals.items()}


@register_criterion("coupled_taylor", needs_data=True, joint=score_groups)
def coupled_gate_derivatives(request: ScoringRequest) -> Array:
    """Mean over batches of the absolute gate derivative, summed over the group's layers.

    Args:
        request: A compiled model, whose loss is used, and data.

    Returns:
        float64 [group.num_channels].

    Raises:
        ImportanceError: Without data, for a model that is not compiled, or a group without
            parameters.
    """
    return score_groups(request.model, [request.group], request.data)[request.group.name]


def _differentiation(model: Any, variables: dict[tuple[str, str], Any]) -> Any:
    """A function of a batch that gives weight x gradient for each variable; None without one."""
    import tensorflow as tf

    values = {key: variable.value for key, variable in variables.items()}

    @tf.function(reduce_retracing=True, autograph=False)
    def gradients(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(values.values()))
            predictions = model(inputs, training=False)
            loss = model.compute_loss(x=inputs, y=targets, y_pred=predictions, training=False)
        return tape.gradient(loss, list(values.values()))

    def differentiate(inputs: Any, targets: Any) -> dict[tuple[str, str], Any]:
        products: dict[tuple[str, str], Any] = {}
        for (key, value), gradient in zip(values.items(), gradients(inputs, targets), strict=True):
            products[key] = None if gradient is None else np.asarray(value) * np.asarray(gradient)
        return products

    return differentiate


def _summed_over_layers(group: ChannelGroup, products: dict[tuple[str, str], Any]) -> Array:
    total = np.zeros(group.num_channels)
    reached = False
    for weight in gate_weights(group):
        product = products[weight.layer, weight.weight]
        if product is None:
            continue
        reached = True
        # Units that a layer does not make are NaN there; they change nothing.
        total += np.nan_to_num(by_unit(product, weight, group.num_channels).sum(axis=1))
    if not reached:
        raise ImportanceError(f"The loss does not depend on the group '{group.name}'.")
    return total
