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

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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
        self._constraints = dict(constraints)
        self._kernels = {name: _kernel(model, name) for name in constraints}
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
        kept = {}
        for name, constraint in self._constraints.items():
            weights = np.asarray(self._kernels[name])
            kept[name] = constraint.on_both(weights)
            self._kernels[name].assign(weights * kept[name].mask())
        return kept

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


class PatternPruning(keras.callbacks.Callback):
    """Trains a model towards patterns in any `fit`, by `Admm`.

    The penalty joins the model's losses when `fit` begins, and leaves them when it ends. Each epoch
    logs the mean residuals as `admm_patterns` and `admm_connectivity`. After the last epoch, call
    `admm.finish()` and train once more inside `keep_zeros`.

    Args:
        admm: The variables, for the model that is fitted.
        rho: The strength of the pull in each stage; the stages are equally long.
    """

    def __init__(self, admm: Admm, rho: tuple[float, ...] = (1e-4, 1e-3, 1e-2)) -> None:
        super().__init__()
        if not rho or any(value <= 0 for value in rho):
            raise ValueError(f"rho is {rho}; expected one or more positive numbers.")
        self._admm = admm
        self._stages = rho
        self._last_rho = rho[0]
        self._rho = tf.Variable(rho[0], trainable=False, dtype=tf.float32)

    def set_model(self, model: Any) -> None:
        """See Keras: called before the training function is made, so the penalty is part of it."""
        super().set_model(model)
        for name in self._admm.layers:
            _kernel(model, name).regularizer = _Pull(self._admm, name, self._rho)
        model.train_function = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """See Keras: chooses the stage's rho."""
        num_epochs = max(int(self.params.get("epochs", 1)), 1)
        rho = self._stages[min(epoch * len(self._stages) // num_epochs, len(self._stages) - 1)]
        if rho != self._last_rho:
            self._admm.scale_duals(self._last_rho / rho)
            self._rho.assign(rho)
            self._last_rho = rho

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """See Keras: projects anew and updates the dual variables."""
        residuals = self._admm.update().values()
        if logs is not None:
            logs["admm_patterns"] = float(np.mean([one.patterns for one in residuals]))
            logs["admm_connectivity"] = float(np.mean([one.connectivity for one in residuals]))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """See Keras: takes the penalty out of the model's losses."""
        for name in self._admm.layers:
            _kernel(self.model, name).regularizer = None
        self.model.train_function = None


class _Pull(keras.regularizers.Regularizer):
    """rho / 2 times the penalty of one layer, in the form of a Keras regularizer."""

    def __init__(self, admm: Admm, name: str, rho: tf.Variable) -> None:
        self._admm = admm
        self._name = name
        self._rho = rho

    def __call__(self, kernel: Any) -> tf.Tensor:
        return self._rho / 2 * self._admm.penalty(self._name, kernel)


class _Zeros(keras.constraints.Constraint):
    """Sets the weights that a mask leaves out to zero after every step."""

    def __init__(self, mask: np.ndarray) -> None:
        self._mask = tf.constant(mask, tf.float32)

    def __call__(self, kernel: Any) -> tf.Tensor:
        return kernel * self._mask


@contextlib.contextmanager
def keep_zeros(model: keras.Model, kept: Mapping[str, SparseKernel]) -> Iterator[None]:
    """Lets any training inside the block leave the zeros of a projected model alone.

    Args:
        model: The model; its training function is made anew.
        kept: What stays of each layer, from `Admm.finish`.
    """
    kernels = {name: _kernel(model, name) for name in kept}
    own = {name: kernel.constraint for name, kernel in kernels.items()}
    for name, kernel in kernels.items():
        kernel.constraint = _Zeros(kept[name].mask())
    model.train_function = None
    try:
        yield
    finally:
        for name, kernel in kernels.items():
            kernel.constraint = own[name]
        model.train_function = None


def _kernel(model: keras.Model, name: str) -> Any:
    """The variable of a convolution's weights."""
    layer = next((layer for layer in model.layers if layer.name == name), None)
    kernel = getattr(layer, "kernel", None)
    if kernel is None or len(kernel.shape) != 4:
        shape = "no kernel" if kernel is None else f"a kernel of shape {tuple(kernel.shape)}"
        found = "there is no such layer" if layer is None else f"it has {shape}"
        raise ValueError(
            f"The layer {name!r} cannot be trained for patterns: {found}; expected a convolution "
            "with a kernel [height, width, inputs, outputs]."
        )
    return kernel
