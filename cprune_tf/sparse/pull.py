"""The pull of ADMM over the epochs of a training: rho grows in stages, and the duals move."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.sparse.admm import Admm, Residual
from cprune_tf.sparse.kernels import kernel_of

# PatDNN's are 1e-4, 1e-3 and 1e-2, for Adam; section 4.2.
DEFAULT_RHO = (1e-4, 1e-3, 1e-2)


class Pull:
    """ADMM's penalty with a rho that grows.

    Args:
        admm: The variables.
        rho: The strength of the pull in each stage; the stages are equally long.

    Raises:
        ValueError: If there is no rho, or one is not positive.
    """

    def __init__(self, admm: Admm, rho: tuple[float, ...] = DEFAULT_RHO) -> None:
        if not rho or any(value <= 0 for value in rho):
            raise ValueError(f"rho is {rho}; expected one or more positive numbers.")
        self._admm = admm
        self._stages = rho
        self._rho = tf.Variable(rho[0], trainable=False, dtype=tf.float32)

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """All that an epoch changes, for a checkpoint."""
        return (self._rho, *self._admm.variables)

    def penalty(self, name: str, kernel: Any) -> tf.Tensor:
        """Computes what a layer adds to the loss, float32 []; see `Admm.penalty`."""
        return self._rho / 2 * self._admm.penalty(name, kernel)

    def begin_epoch(self, epoch: int, num_epochs: int) -> None:
        """Chooses the stage's rho.

        Args:
            epoch: Counted from 0.
            num_epochs: Epochs of the whole training.
        """
        stage = epoch * len(self._stages) // max(num_epochs, 1)
        rho = np.float32(self._stages[min(stage, len(self._stages) - 1)])
        last = self._rho.numpy()
        if rho != last:
            self._admm.scale_duals(float(last / rho))
            self._rho.assign(rho)

    def end_epoch(self) -> Residual:
        """Projects anew and updates the dual variables.

        Returns:
            The mean residual of all layers.
        """
        found = self._admm.update().values()
        return Residual(
            float(np.mean([one.patterns for one in found])),
            float(np.mean([one.connectivity for one in found])),
        )


class PatternPruning(keras.callbacks.Callback):
    """Trains a model towards patterns in any `fit`, by `Admm`.

    The penalty joins the model's losses when `fit` begins, and leaves them when it ends. Each epoch
    logs the mean residuals as `admm_patterns` and `admm_connectivity`. After the last epoch, call
    `admm.finish()` and train once more inside `keep_zeros`.

    Args:
        admm: The variables, for the model that is fitted.
        rho: The strength of the pull in each stage; the stages are equally long.
    """

    def __init__(self, admm: Admm, rho: tuple[float, ...] = DEFAULT_RHO) -> None:
        super().__init__()
        self._admm = admm
        self._pull = Pull(admm, rho)
        self._own: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        """See Keras: called before the training function is made, so the penalty is part of it."""
        super().set_model(model)
        for name in self._admm.layers:
            kernel = kernel_of(model, name)
            self._own[name] = kernel.regularizer
            kernel.regularizer = _Regularizer(self._pull, name, kernel.regularizer)
        model.train_function = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """See Keras: chooses the stage's rho."""
        self._pull.begin_epoch(epoch, int(self.params.get("epochs", 1)))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """See Keras: projects anew and updates the dual variables."""
        residual = self._pull.end_epoch()
        if logs is not None:
            logs["admm_patterns"] = residual.patterns
            logs["admm_connectivity"] = residual.connectivity

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """See Keras: takes the penalty out of the model's losses."""
        for name in self._admm.layers:
            kernel_of(self.model, name).regularizer = self._own[name]
        self.model.train_function = None


class _Regularizer(keras.regularizers.Regularizer):
    """The penalty of one layer, in the form of a Keras regularizer, beside the layer's own one."""

    def __init__(self, pull: Pull, name: str, own: Any) -> None:
        self._pull = pull
        self._name = name
        self._own = own

    def __call__(self, kernel: Any) -> tf.Tensor:
        penalty = self._pull.penalty(self._name, kernel)
        return penalty if self._own is None else penalty + self._own(kernel)
