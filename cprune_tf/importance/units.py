"""Weights as one row per unit of a channel group, and averages over the group's layers.

A group with several producers (a residual connection) has several filters per unit, and so does one
with depthwise followers. Each layer's scores are divided by their mean, so that layers of different
magnitude count alike, and averaged over the layers.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.importance.registry import Array, ImportanceError, ScoringRequest

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGroup
    from cprune_tf.graph.channel_graph import GroupWeight


def score_filters(request: ScoringRequest, measure: Callable[[Array], Array]) -> Array:
    """Scores a group by what its filters are, layer by layer.

    Args:
        request: The model and the group.
        measure: Gives one score per row of a matrix with one row per unit; NaN rows (units that
            the layer does not serve) stay NaN.

    Returns:
        float64 [group.num_channels].

    Raises:
        ImportanceError: The group has no kernels, or a kernel holds NaN.
    """
    filters = list(unit_matrices(request.model, request.group))
    if not filters:
        raise ImportanceError(
            f"The group '{request.group.name}' has no kernels, so {request.method} has no filters."
        )
    return average([measure(matrix) for matrix in filters])


def unit_matrices(model: Any, group: ChannelGroup) -> Iterator[Array]:
    """For each kernel whose outputs are the group's: one row per unit.

    Args:
        model: The model.
        group: The group.

    Yields:
        The kernel's values by unit, float64 [num_channels, values per unit]; rows of a kernel that
        serves only some of the units (a concatenation's part) are NaN for the others.
    """
    for weight in group.weights:
        if weight.role == "kernel" and weight.is_output:
            yield by_unit(read_weight(model, weight), weight, group.num_channels)


def read_weight(model: Any, weight: GroupWeight) -> npt.NDArray[Any]:
    """A weight's values.

    Raises:
        ImportanceError: Where some are NaN or infinite.
    """
    from cprune_tf.graph.layers import weight_arrays

    value = np.asarray(weight_arrays(model, weight.layer)[weight.weight])
    if not np.isfinite(value.astype(np.float32)).all():
        raise ImportanceError(
            f"The weight '{weight.weight}' of layer '{weight.layer}' holds NaN or infinite values; "
            "importance is undefined. Was the model trained to divergence?"
        )
    return value


def by_unit(value: npt.NDArray[Any], weight: GroupWeight, num_units: int) -> Array:
    """Rearranges a weight to one row per unit; units without an index here get NaN.

    Args:
        value: The weight.
        weight: Which of its axes holds the units.
        num_units: Number of units of the group.

    Returns:
        float64 [num_units, values per unit].
    """
    held = np.flatnonzero(weight.units >= 0)
    units = weight.units[held]
    rows = np.moveaxis(value, weight.axis, 0)[held].reshape(len(held), -1).astype(np.float64)
    order = np.argsort(units, kind="stable")
    present, starts, counts = np.unique(units[order], return_index=True, return_counts=True)
    cube = np.full((num_units, int(counts.max()), rows.shape[1]), np.nan)
    # Units may own different numbers of indices (a slice joined to its whole): zeroes fill up.
    cube[present] = 0.0
    nth = np.arange(len(held)) - np.repeat(starts, counts)
    cube[units[order], nth] = rows[order]
    return cube.reshape(num_units, -1)


def average(scores: list[Array]) -> Array:
    """Averages scores over layers, each divided by its mean; NaN means "not in this layer"."""
    normalised = []
    for values in scores:
        mean = np.nanmean(values)
        normalised.append(values / mean if mean > 0 else values)
    stacked = np.stack(normalised)
    present = ~np.isnan(stacked)
    total = np.where(present, stacked, 0.0).sum(axis=0)
    return np.asarray(total / np.maximum(present.sum(axis=0), 1))
