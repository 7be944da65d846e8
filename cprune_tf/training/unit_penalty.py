"""A growing penalty on units that are about to be removed, so that removing them loses little.

The penalty is

    lambda * sum over groups g and units k of gamma[g, k] * ||w[g, k]||^2,

where w[g, k] are all trainable parameters of the unit: the filters that make it in every producer,
the gammas and betas that scale it, and the slices of the kernels that consume it. The weighting is
that of DepGraph (Fang et al., CVPR 2023, group-level sparsity): with the importances I of a group,

    gamma[k] = 2 ** (4 * (max(I) - I[k]) / (max(I) - min(I))),

so the least important unit is pressed 16 times as hard as the most important one. As in growing
regularisation (Wang et al., ICLR 2021), only units that will be removed are penalised, and lambda
rises in steps over the training; what stays is free to take over their part.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cprune_tf.graph.channel_graph import ChannelGraph, GroupWeight, Removal
from cprune_tf.graph.layers import weight_variables
from cprune_tf.graph.vanishing import find_vanishing
from cprune_tf.importance.registry import Array
from cprune_tf.importance.units import by_unit, read_weight

# DepGraph's alpha, and the largest coefficient that it gives.
_ALPHA = 4.0
_STRONGEST = 2.0**_ALPHA


@dataclasses.dataclass(frozen=True, eq=False)
class UnitPenalty:
    """The penalty, to be added to the loss; made by `unit_penalty`.

    Attributes:
        coefficients: For each penalised weight, by its position in `model.weights`: the
            coefficients of its squares, float32, of a shape that broadcasts to the weight's.
        factor: The last and largest lambda.
        num_stages: In so many equal steps lambda rises to it; the first stage has a part of it
            already.
    """

    coefficients: Mapping[int, npt.NDArray[np.float32]]
    factor: float
    num_stages: int

    @property
    def name(self) -> str:
        """See Penalty."""
        digest = hashlib.sha256()
        for position, values in self.coefficients.items():
            digest.update(f"{position} {values.shape} ".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return f"units {self.factor} {self.num_stages} {digest.hexdigest()}"

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """See Penalty: lambda depends on the progress alone."""
        return ()

    def end_epoch(self, done: int, planned: int) -> dict[str, float]:
        """See Penalty: there is nothing to change."""
        return {}

    def __call__(self, model: Any, progress: tf.Tensor) -> tf.Tensor:
        """Computes the penalty; usable inside a tf.function.

        Args:
            model: The model that the penalty was made for, or a copy with weights in the same
                order.
            progress: Which part of the training is done (0..1), float32 [].

        Returns:
            float32 [].
        """
        weights = model.weights
        sums = [
            tf.reduce_sum(values * tf.square(tf.cast(weights[position].value, tf.float32)))
            for position, values in self.coefficients.items()
        ]
        stage = tf.minimum(tf.floor(progress * self.num_stages) + 1.0, float(self.num_stages))
        return self.factor * stage / self.num_stages * tf.add_n(sums)


def unit_penalty(
    channels: ChannelGraph,
    removal: Removal,
    scores: Mapping[str, Array],
    factor: float,
    num_stages: int,
) -> UnitPenalty:
    """Makes the penalty on the units of a removal.

    Where a branch vanishes, all that only the branch has is penalised: parameters that belong to no
    removed unit (the normalisation before the sum, say) get the largest coefficient.

    Args:
        channels: The channel groups of the model.
        removal: Unit indices by group name, as for `graph.rebuild`.
        scores: The importance of all units of each of these groups, [num_channels].
        factor: The largest lambda.
        num_stages: Number of steps in which lambda rises to it.

    Returns:
        The penalty.

    Raises:
        GraphError: The removal is not possible.
    """
    model = channels.model
    positions = {id(weight): position for position, weight in enumerate(model.weights)}
    totals: dict[int, Any] = {}
    for name, units in removal.items():
        # The last place stands for "no unit of this group".
        by_index = np.zeros(channels[name].num_channels + 1)
        by_index[list(units)] = unit_coefficients(scores[name])[list(units)]
        for weight, variable in _trainable_weights(channels, name):
            shape = [1] * len(variable.shape)
            shape[weight.axis] = len(weight.units)
            values = by_index[weight.units].reshape(shape)
            position = positions[id(variable)]
            totals[position] = totals.get(position, 0.0) + values
    for variable in _vanishing_variables(channels, removal):
        position = positions[id(variable)]
        total = np.asarray(totals.get(position, 0.0))
        totals[position] = np.where(total > 0, total, _STRONGEST)
    coefficients = {
        position: np.asarray(total, np.float32)
        for position, total in sorted(totals.items())
        if np.any(total)
    }
    return UnitPenalty(coefficients, factor, num_stages)


def unit_coefficients(scores: Array) -> Array:
    """DepGraph's gamma of each unit of a group, float64 [num_channels], from 1 to 16.

    Args:
        scores: Importance of each unit, [num_channels]. If all are equal, so are the coefficients:
            they are the largest then.
    """
    largest, smallest = scores.max(), scores.min()
    if largest <= smallest:
        return np.full(scores.shape, _STRONGEST)
    return np.asarray(2.0 ** (_ALPHA * (largest - scores) / (largest - smallest)))


def largest_factor(learning_rate: float, momentum: float) -> float:
    """The lambda from which on SGD overshoots further with each step instead of converging.

    A parameter that two removed units share has twice the largest coefficient c, so the penalty's
    second derivative is 4 lambda c. SGD with momentum m is stable below 2 (1 + m) / rate.

    Args:
        learning_rate: The largest rate of the training.
        momentum: Its momentum, 0..1.
    """
    return (1.0 + momentum) / (2.0 * _STRONGEST * learning_rate)


def unit_norms(channels: ChannelGraph, removal: Removal) -> Array:
    """The Euclidean norm of each unit of a removal over all its trainable parameters.

    Args:
        channels: The channel groups of the model, whose present weights are read.
        removal: Unit indices by group name.

    Returns:
        float64 [number of units], in the removal's order.
    """
    norms = [np.zeros(0)]
    for name, units in removal.items():
        squares = np.zeros(channels[name].num_channels)
        for weight, _ in _trainable_weights(channels, name):
            rows = by_unit(read_weight(channels.model, weight), weight, len(squares))
            # NaN stands for units that this weight has no slice of.
            squares += np.nansum(np.square(rows), axis=1)
        norms.append(np.sqrt(squares[list(units)]))
    return np.concatenate(norms)


def _trainable_weights(channels: ChannelGraph, name: str) -> Iterator[tuple[GroupWeight, Any]]:
    """The weights of which a group's units own slices and that training changes."""
    for weight in channels[name].weights:
        variable = weight_variables(channels.model, weight.layer)[weight.weight]
        if variable.trainable:
            yield weight, variable


def _vanishing_variables(channels: ChannelGraph, removal: Removal) -> Iterator[Any]:
    """All trainable weights of the layers that a removal leaves out; raw operations have none."""
    propagation = channels.propagation
    vanishing = find_vanishing(propagation, channels.keep(removal))
    surviving = vanishing.surviving_layers(propagation.flat)
    for name, layer in propagation.flat.layers().items():
        if name not in surviving:
            yield from getattr(layer, "trainable_weights", ())
