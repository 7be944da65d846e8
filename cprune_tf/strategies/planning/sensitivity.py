"""How much the loss grows when units of a group go, measured group by group.

The least important units of one group are taken away from what consumes them, batch normalisation
uses the statistics of each batch (as if they had been re-estimated), and the loss of some training
batches is compared with that of the whole model. Nothing is trained and nothing is rebuilt: one
graph serves all groups and counts.

Where all units of a group go, the branch that it lies in vanishes: the sums that read the branch
receive zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.graph import ChannelGraph, ChannelGroup
from cprune_tf.graph.gating import gated_model
from cprune_tf.importance.taylor import batches

# The scores' share in a group where the scan found no loss, relative to the average group. It keeps
# units from being given away for nothing.
_LEAST_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What the loss of a model does when units of one group go.

    Attributes:
        removed: Numbers of units that were removed, ascending.
        loss_increases: By how much the loss was higher each time; negative where it was lower.
    """

    removed: tuple[int, ...]
    loss_increases: tuple[float, ...]


def scan(
    model: Any,
    channels: ChannelGraph,
    ranking: Mapping[str, Sequence[int]],
    removed: Mapping[str, Sequence[int]],
    data: Any,
    on_group: Callable[[int, int, str], None] | None = None,
) -> dict[str, Sensitivity]:
    """Measures the sensitivity of several groups.

    Args:
        model: A compiled Keras model; its loss is used.
        channels: Its channel groups.
        ranking: All unit indices by group name, the least important first.
        removed: How many of these to remove, by group name. All of them only where the group may
            vanish.
        data: (images, labels), or an iterable of such batches.
        on_group: Called with (groups done, groups in all, group name) before each group, and at
            the end.

    Returns:
        By group name.
    """
    from cprune_tf.training.twin import statistics_twin

    pairs = list(batches(data))
    whole_groups = [n for n, counts in removed.items() if channels[n].num_channels in counts]
    gated, gates = gated_model(channels, whole_groups) if whole_groups else (model, {})
    twin = statistics_twin(gated)
    loss = _mean_loss(model, twin, pairs)
    whole = loss()
    result = {}
    for number, (name, counts) in enumerate(removed.items()):
        if on_group is not None:
            on_group(number, len(removed), name)
        increases = []
        for count in counts:
            if count == channels[name].num_channels:
                with_all = _close(twin, gates[name])
            else:
                with_all = _silence(twin, channels[name], ranking[name][:count])
            increases.append(loss() - whole)
            for variable, value in with_all:
                variable.assign(value)
        result[name] = Sensitivity(tuple(counts), tuple(increases))
    if on_group is not None:
        on_group(len(removed), len(removed), "")
    return result


def scanned_removals(counts: Sequence[int]) -> tuple[int, ...]:
    """Chooses how many units of a group to remove in a scan: all that may go, and about half.

    Args:
        counts: The counts that the group may take, ascending; the last keeps all units. With 0
            among them, all units are removed as well.

    Returns:
        Numbers of units, ascending.
    """
    total = counts[-1]
    if not counts[0]:
        return (*(scanned_removals(counts[1:]) if len(counts) > 2 else ()), total)
    most = total - counts[0]
    half = min(counts[:-1], key=lambda count: abs(total - count - most / 2))
    return tuple(sorted({total - half, most}))


def kept_values(
    scores: Mapping[str, npt.NDArray[np.float64]],
    sensitivities: Mapping[str, Sensitivity],
    counts: Mapping[str, Sequence[int]],
) -> dict[str, tuple[float, ...]]:
    """What keeping so many units of each group is worth: minus the loss that removing costs.

    The sum of the removed units' scores gives the shape of the curve, the scan its height: between
    two scanned numbers of units the ratio of measured loss to scores is interpolated. A branch with
    a few units costs no more than its absence: training can close it.

    Args:
        scores: Importance of each unit by group name, float64 [num_channels].
        sensitivities: From `scan`.
        counts: Counts to keep by group name, ascending.

    Returns:
        For each group and count a value; it never falls as the count grows and is 0 for all units.
    """
    scales = {
        name: _scales(scores[name], sensitivity) for name, sensitivity in sensitivities.items()
    }
    known = np.concatenate([values for _, values in scales.values()]) if scales else np.ones(1)
    positive = known[known > 0]
    least = _LEAST_SCALE * float(np.median(positive)) if positive.size else 1.0
    values = {}
    for name, options in counts.items():
        sums = np.concatenate([[0.0], np.cumsum(np.sort(scores[name]))])
        removed = len(scores[name]) - np.asarray(options)
        positions, scale = scales.get(name, (np.zeros(1), np.ones(1)))
        costs = np.interp(removed, positions, np.maximum(scale, least)) * sums[removed]
        if not options[0]:
            costs = np.minimum(costs, costs[0])
        # From the most units kept to the fewest, a cost may not fall.
        costs = np.maximum.accumulate(costs[::-1])[::-1]
        values[name] = tuple(-float(cost) for cost in costs)
    return values


def _scales(
    scores: npt.NDArray[np.float64], sensitivity: Sensitivity
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Measured loss / summed scores, at each scanned number of removed units."""
    sums = np.cumsum(np.sort(scores))[np.asarray(sensitivity.removed) - 1]
    increases = np.maximum(np.asarray(sensitivity.loss_increases), 0.0)
    tiny = np.finfo(np.float64).tiny
    return np.asarray(sensitivity.removed, float), increases / np.maximum(sums, tiny)


def _mean_loss(model: Any, twin: Any, pairs: Sequence[Any]) -> Callable[[], float]:
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def batch_loss(images: Any, labels: Any) -> Any:
        outputs = twin(images, training=True)
        return model.compute_loss(x=images, y=labels, y_pred=outputs, training=False)

    def mean() -> float:
        losses = [float(batch_loss(images, labels)) for images, labels in pairs]
        weights = [len(labels) for _, labels in pairs]
        return float(np.average(losses, weights=weights))

    return mean


def _close(model: Any, gates: Sequence[str]) -> list[tuple[Any, npt.NDArray[Any]]]:
    """Sets gates to zero; returns them with their former values."""
    variables = [model.get_layer(name).gate for name in gates]
    before = [(variable, np.asarray(variable).copy()) for variable in variables]
    for variable in variables:
        variable.assign(0.0)
    return before


def _silence(
    model: Any, group: ChannelGroup, units: Sequence[int]
) -> list[tuple[Any, npt.NDArray[Any]]]:
    """Sets to zero what consumers multiply some units with.

    Returns:
        The changed variables with their former values.
    """
    from cprune_tf.graph.layers import weight_variables

    removed = np.zeros(group.num_channels + 1, dtype=bool)  # The last place stands for "no unit".
    removed[list(units)] = True
    changed = []
    for weight in group.weights:
        if weight.is_output or weight.role != "kernel":
            continue
        variable = weight_variables(model, weight.layer)[weight.weight]
        value = np.asarray(variable)
        shape = [1] * value.ndim
        shape[weight.axis] = len(weight.units)
        gone = removed[weight.units].reshape(shape)
        changed.append((variable, value.copy()))
        variable.assign(np.where(gone, 0, value))
    return changed
