"""Trainings towards patterns (PatDNN): ADMM's pull, and straight-through estimation beside it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.sparse import Admm, LayerConstraint, Pull, SparseKernel, kernel_of

# The x of `default_rho` in each stage.
_PULLS = (0.6, 1.2, 2.4)

# Names of what an epoch tells.
PATTERNS, CONNECTIVITY = "patterns_residual", "connectivity_residual"


@dataclasses.dataclass(frozen=True, eq=False)
class TowardsPatterns:
    """A training of all weights that ends in a projection.

    Attributes:
        method: "admm", "straight_through" or "one_shot", which projects first and then trains what
            stays.
        constraints: What each layer shall hold in the end.
        epochs: Number of epochs.
        learning_rate: The constant learning rate.
        rho: ADMM's pull in each stage; empty: see `default_rho`.
    """

    method: str
    constraints: Mapping[str, LayerConstraint]
    epochs: int
    learning_rate: float
    rho: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Projected:
    """What such a training left.

    Attributes:
        kept: What stays of each layer.
        epochs: What each epoch told; see `PatternPenalty.end_epoch`. Empty where nothing pulls.
    """

    kept: Mapping[str, SparseKernel]
    epochs: tuple[Mapping[str, float], ...]


class PatternPenalty:
    """ADMM's pull as a penalty; see `sparse.Admm`.

    Args:
        model: The model that is trained.
        constraints: What its layers shall hold in the end.
        rho: The strength of the pull in each stage; the stages are equally long.
    """

    def __init__(
        self,
        model: keras.Model,
        constraints: Mapping[str, LayerConstraint],
        rho: tuple[float, ...],
    ) -> None:
        self._pull = Pull(Admm(model, constraints), rho)
        positions = {id(weight): position for position, weight in enumerate(model.weights)}
        self._positions = {name: positions[id(kernel_of(model, name))] for name in constraints}
        self._name = f"admm {rho} {describe_constraints(constraints)}"

    @property
    def name(self) -> str:
        """See Penalty."""
        return self._name

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """See Penalty: rho, the projections and the dual variables."""
        return self._pull.variables

    def __call__(self, model: Any, progress: tf.Tensor) -> tf.Tensor:
        """See Penalty."""
        weights = model.weights
        return tf.add_n(
            [
                self._pull.penalty(name, weights[position].value)
                for name, position in self._positions.items()
            ]
        )

    def end_epoch(self, done: int, planned: int) -> dict[str, float]:
        """See Penalty: projects anew, moves the duals, and chooses the next epoch's rho.

        Returns:
            How far weights are from their projections, as parts of their norm: means over layers.
        """
        residual = self._pull.end_epoch()
        self._pull.begin_epoch(done, planned)
        return {PATTERNS: residual.patterns, CONNECTIVITY: residual.connectivity}


class StraightThrough:
    """Computes a model with projected weights, whose gradients all weights get.

    The projection is made anew at each epoch's end, as often as ADMM's.

    Args:
        model: The copy that the steps run on.
        constraints: What its layers shall hold in the end.

    Attributes:
        variables: Which weights stay, for each layer.
        name: Equal for equal constraints.
    """

    def __init__(self, model: keras.Model, constraints: Mapping[str, LayerConstraint]) -> None:
        self._model = model
        self._constraints = dict(constraints)
        self._kernels = {name: kernel_of(model, name) for name in constraints}
        self._masks = {name: tf.Variable(self._mask(name), trainable=False) for name in constraints}
        self.variables: Sequence[tf.Variable] = tuple(self._masks.values())
        self.name = f"straight_through {describe_constraints(constraints)}"

    def __call__(self, images: Any) -> Any:
        """See Forward."""
        mapping = []
        for name, kernel in self._kernels.items():
            weights = tf.convert_to_tensor(kernel.value)
            removed = tf.stop_gradient(weights * (1.0 - self._masks[name]))
            mapping.append((kernel, weights - removed))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = self._model(images, training=True)
        # Moving statistics and the states of random generators.
        for variable in self._model.non_trainable_variables:
            if (value := scope.get_current_value(variable)) is not None:
                variable.assign(value)
        return outputs

    def end_epoch(self, done: int, planned: int) -> dict[str, float]:
        """See Forward: projects anew.

        Returns:
            How much of the weights the projection removes, as a part of their norm: the mean over
            layers.
        """
        distances = []
        for name, variable in self._masks.items():
            mask, weights = self._mask(name), np.asarray(self._kernels[name])
            variable.assign(mask)
            norm = float(np.linalg.norm(weights)) or 1.0
            distances.append(float(np.linalg.norm(weights * (1 - mask))) / norm)
        return {PATTERNS: float(np.mean(distances))}

    def _mask(self, name: str) -> np.ndarray:
        weights = np.asarray(self._kernels[name])
        return self._constraints[name].on_both(weights).mask().astype(np.float32)


def default_rho(learning_rate: float, momentum: float, steps_per_epoch: int) -> tuple[float, ...]:
    """Chooses the rho of three stages by how far weights come in an epoch.

    The duals add up, once an epoch, what is still missing. If an epoch hardly moves the weights,
    the duals wind up and the weights overshoot; if it moves them all the way, the loss has little
    say. With SGD, the pull alone takes weights 1 - exp(-x) of the way in an epoch, with
    x = 2 rho rate / (1 - momentum) steps.

    Args:
        learning_rate: Constant over the training.
        momentum: Its momentum, 0..1.
        steps_per_epoch: Batches in an epoch.

    Returns:
        Rising values, all below `largest_rho`.
    """
    speed = 2.0 * learning_rate / (1.0 - momentum) * steps_per_epoch
    most = largest_rho(learning_rate, momentum) / 2
    return tuple(min(pull / speed, most) for pull in _PULLS)


def largest_rho(learning_rate: float, momentum: float) -> float:
    """The rho from which on SGD overshoots further with each step instead of converging.

    The two terms of the penalty have a second derivative of 2 rho together; SGD with momentum m is
    stable below 2 (1 + m) / rate.

    Args:
        learning_rate: The largest rate of the training.
        momentum: Its momentum, 0..1.
    """
    return (1.0 + momentum) / learning_rate


def describe_constraints(constraints: Mapping[str, LayerConstraint]) -> str:
    """A name of constraints: equal for equal ones."""
    digest = hashlib.sha256()
    for name, one in sorted(constraints.items()):
        numbers = (one.num_kept, one.block_size, one.balanced, *one.patterns.masks.shape)
        digest.update(f"{name} {numbers}".encode())
        digest.update(np.packbits(one.patterns.masks).tobytes())
        if one.order is not None:
            digest.update(np.asarray(one.order, np.int64).tobytes())
    return digest.hexdigest()
