"""Scores for the units of one channel group, over all layers that make or scale its channels.

A group with several producers (a residual connection) has several filters per unit, and so does one
with depthwise followers. Each layer's scores are divided by their mean, so that layers of different
magnitude count alike, and averaged over the layers. Higher means more important.

- "l1", "l2": norm of each filter (Li et al., ICLR 2017; CPrune, ECCV 2022, section 3.4 uses l1).
- "fpgm": distance to all other filters of the layer, so what lies near the geometric median goes
  first (He et al., CVPR 2019, equation 4).
- "bn_scale": absolute gamma of the group's normalisations (Liu et al., ICCV 2017).
- "taylor": squared first-order change of the loss when the unit's gate closes (Molchanov et al.,
  CVPR 2019, equation 8): see `cprune_tf.importance.taylor`.
- "random": uniform, from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.errors import UserError
from cprune_tf.graph import ChannelGroup
from cprune_tf.graph.channel_graph import GroupWeight
from cprune_tf.graph.layers import weight_arrays

Array = npt.NDArray[np.float64]

METHODS = ("l1", "l2", "fpgm", "bn_scale", "taylor", "random")


class ImportanceError(UserError, ValueError):
    """A score that cannot be computed: says what is missing."""


def score(
    model: Any,
    group: ChannelGroup,
    method: str = "l1",
    *,
    data: Any = None,
    seed: int = 0,
) -> Array:
    """Importance of each unit of a channel group.

    Args:
        model: The model the group was found in.
        group: One of `analyze(model).groups`.
        method: One of METHODS.
        data: For "taylor": (inputs, targets) arrays or an iterable of such batches.
        seed: For "random".

    Returns:
        Scores, float64 [group.num_channels], all finite; higher is more important.

    Raises:
        ImportanceError: For an unknown method, NaN weights, or a method that this group or call
            has nothing to offer (no normalisation, no data).
    """
    if method not in METHODS:
        raise ImportanceError(f"method is {method!r}; expected one of {', '.join(METHODS)}.")
    if method == "random":
        return np.random.default_rng(seed).random(group.num_channels)
    if method == "taylor":
        from cprune_tf.importance.taylor import taylor_scores

        return taylor_scores(model, group, data)
    if method == "bn_scale":
        return _bn_scale(model, group)
    measure: Callable[[Array], Array] = {"l1": _l1, "l2": _l2, "fpgm": _fpgm}[method]
    filters = list(unit_matrices(model, group))
    if not filters:
        raise ImportanceError(
            f"The group '{group.name}' has no kernels, so {method} has no filters."
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


def _l1(matrix: Array) -> Array:
    return np.asarray(np.abs(matrix).sum(axis=1))


def _l2(matrix: Array) -> Array:
    return np.asarray(np.sqrt(np.square(matrix).sum(axis=1)))


def _fpgm(matrix: Array) -> Array:
    """Sum of distances to the other rows, by the Gram matrix; NaN rows stay NaN."""
    result = np.full(len(matrix), np.nan)
    present = ~np.isnan(matrix).any(axis=1)
    rows = matrix[present] - matrix[present].mean(axis=0)  # centred: less cancellation
    squares = np.square(rows).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2.0 * (rows @ rows.T)
    np.fill_diagonal(distances, 0.0)
    result[present] = np.sqrt(np.maximum(distances, 0.0)).sum(axis=1)
    return result


def _bn_scale(model: Any, group: ChannelGroup) -> Array:
    scales = [
        np.abs(by_unit(read_weight(model, weight), weight, group.num_channels)).mean(axis=1)
        for weight in group.weights
        if weight.role == "scale"
    ]
    if not scales:
        raise ImportanceError(
            f"The group '{group.name}' goes through no normalisation with a scale, so bn_scale has "
            "nothing to measure; use l1, l2, fpgm or taylor."
        )
    return average(scales)
