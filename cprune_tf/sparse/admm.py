"""PatDNN's extended ADMM: weights are pulled, while they train, to what a sparse layer can hold.

Section 4.2 of PatDNN (Niu et al., ASPLOS 2020) splits the problem "least loss under the patterns
and the connectivity" in parts. For each layer, with W its weights, Z their part on the patterns, Y
their part on the connectivity, and U and V the scaled dual variables:

    W: trained on the loss + rho / 2 * (||W - Z + U||^2 + ||W - Y + V||^2)
    Z: the projection of W + U on the patterns;        then U becomes U + W - Z
    Y: the projection of W + V on the connectivity;    then V becomes V + W - Y

The last three lines are done at the end of every epoch. rho grows over the training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.sparse.kernels import kernel_of
from cprune_tf.sparse.patterns import Floats, PatternSet
from cprune_tf.sparse.projection import (
    Ints,
    SparseKernel,
    project,
    project_on_connectivity,
    project_on_patterns,
)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerConstraint:
    """What a layer's weights shall hold in the end.

    Attributes:
        patterns: Patterns of kernels of the layer's size.
        num_kept: The number of pairs of an input channel and a block that stay; 0: all, as in
            PatDNN's first layer and in depthwise layers.
        block_size: Filters in a block.
        order: The filters in the order in which blocks take them; None: as they are.
        balanced: Whether all blocks keep equally many pairs.
    """

    patterns: PatternSet
    num_kept: int = 0
    block_size: int = 1
    order: Ints | None = None
    balanced: bool = False

    @property
    def _blocks(self) -> dict[str, Any]:
        return {"block_size": self.block_size, "order": self.order}

    def on_patterns(self, kernel: Floats) -> Floats:
        """The nearest weights that keep to patterns, [height, width, inputs, outputs]."""
        return kernel * project_on_patterns(kernel, self.patterns, **self._blocks).mask()

    def on_connectivity(self, kernel: Floats) -> Floats:
        """The nearest weights with few enough kernels, [height, width, inputs, outputs]."""
        if not self.num_kept:
            return kernel
        kept = project_on_connectivity(
            kernel, self.num_kept, **self._blocks, balanced=self.balanced
        )
        return kernel * kept.mask()

    def on_both(self, kernel: Floats) -> SparseKernel:
        """What stays of the nearest weights that keep to both."""
        if not self.num_kept:
            return project_on_patterns(kernel, self.patterns, **self._blocks)
        return project(kernel, self.patterns, self.num_kept, **self._blocks, balanced=self.balanced)


@dataclasses.dataclass(frozen=True)
class Residual:
    """How far a layer's weights are from what they shall hold, as parts of their norm.

    Attributes:
        patterns: ||W - Z|| / ||W||.
        connectivity: ||W - Y|| / ||W||.
    """

    patterns: float
    connectivity: float


class Admm:
    """The variables Z, Y, U and V of some layers of a model.

    Args:
        model: Its weights are read and, by `finish`, changed.
        constraints: By the names of layers with a kernel [height, width, inputs, outputs].

    Raises:
        ValueError: If a layer is missing or its kernel has another shape.
    """

    def __init__(self, model: keras.Model, constraints: Mapping[str, LayerConstraint]) -> None:
        self._model = model
        self._constraints = dict(constraints)
        self._kernels = {name: kernel_of(model, name) for name in constraints}
        self._split: dict[str, dict[str, tf.Variable]] = {}
        for name, kernel in self._kernels.items():
            weights = np.asarray(kernel)
            constraint = self._constraints[name]
            parts = {
                "z": constraint.on_patterns(weights),
                "y": constraint.on_connectivity(weights),
                "u": np.zeros_like(weights),
                "v": np.zeros_like(weights),
            }
            self._split[name] = {
                key: tf.Variable(value, trainable=False, dtype=tf.float32)
                for key, value in parts.items()
            }

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers."""
        return tuple(self._constraints)

    def penalty(self, name: str, kernel: Any) -> tf.Tensor:
        """Computes ||W - Z + U||^2 + ||W - Y + V||^2 of a layer; usable inside a tf.function.

        Args:
            name: The layer's name.
            kernel: Its weights W, or a copy's, [height, width, inputs, outputs].

        Returns:
            float32 [].
        """
        split = self._split[name]
        weights = tf.cast(tf.convert_to_tensor(kernel), tf.float32)
        to_patterns = tf.reduce_sum(tf.square(weights - split["z"] + split["u"]))
        if not self._constraints[name].num_kept:
            return to_patterns
        return to_patterns + tf.reduce_sum(tf.square(weights - split["y"] + split["v"]))

    def update(self) -> dict[str, Residual]:
        """Projects anew and updates the dual variables: the end of an epoch.

        Returns:
            How far each layer is from its projections.
        """
        residuals = {}
        for name, constraint in self._constraints.items():
            weights, split = np.asarray(self._kernels[name]), self._split[name]
            norm = float(np.linalg.norm(weights)) or 1.0
            distances = []
            for primal, dual, onto in (
                ("z", "u", constraint.on_patterns),
                ("y", "v", constraint.on_connectivity),
            ):
                scaled = split[dual].numpy()
                nearest = onto(weights + scaled)
                split[primal].assign(nearest)
                split[dual].assign(scaled + weights - nearest)
                distances.append(float(np.linalg.norm(weights - nearest)) / norm)
            residuals[name] = Residual(*distances)
        return residuals

    def scale_duals(self, factor: float) -> None:
        """Multiplies the dual variables, which hold the multipliers divided by rho.

        When rho grows, the multipliers must not (Boyd et al., 2011, section 3.4.1).

        Args:
            factor: The rho so far / the new one.
        """
        for split in self._split.values():
            for key in ("u", "v"):
                split[key].assign(split[key] * factor)

    def finish(self) -> dict[str, SparseKernel]:
        """Projects the weights on both constraints at once and writes them to the model.

        Returns:
            What stays of each layer.
        """
        return project_model(self._model, self._constraints)

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """Z, Y, U and V of all layers, for a checkpoint."""
        return tuple(self._variables().values())

    def state(self) -> dict[str, np.ndarray]:
        """The variables as arrays, to go on later; see `restore`."""
        return {key: variable.numpy() for key, variable in self._variables().items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over the variables of an earlier session.

        Args:
            state: From `state`, for the same layers.

        Raises:
            ValueError: If a variable is missing, unknown or has another shape.
        """
        own = self._variables()
        expected = {key: tuple(variable.shape) for key, variable in own.items()}
        received = {key: tuple(value.shape) for key, value in state.items()}
        if received != expected:
            wrong = sorted(
                key for key in {*expected, *received} if expected.get(key) != received.get(key)
            )
            raise ValueError(
                f"The state of ADMM differs from this model's in {', '.join(wrong)}; expected the "
                "state of a training of the same model under the same constraints."
            )
        for key, variable in own.items():
            variable.assign(state[key])

    def _variables(self) -> dict[str, tf.Variable]:
        return {
            f"{name}/{key}": variable
            for name, split in self._split.items()
            for key, variable in split.items()
        }


def project_model(
    model: keras.Model, constraints: Mapping[str, LayerConstraint]
) -> dict[str, SparseKernel]:
    """Projects layers of a model on both of their constraints at once.

    Args:
        model: Changed in place.
        constraints: By the names of layers with a kernel [height, width, inputs, outputs].

    Returns:
        What stays of each layer.

    Raises:
        ValueError: If a layer is missing or its kernel has another shape.
    """
    kept = {}
    for name, constraint in constraints.items():
        kernel = kernel_of(model, name)
        weights = np.asarray(kernel)
        kept[name] = constraint.on_both(weights)
        kernel.assign(weights * kept[name].mask())
    return kept
