"""An exponential moving average of a model's weights while it is trained."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


class WeightAverage:
    """The average of the weights after each step, in which recent steps count most.

    After n steps, the weights of step k count decay^(n - k), and all of them together 1. So the
    weights before the training count nothing: a pruned model starts with damaged ones. The moving
    statistics of batch normalisation are averaged in the same way, because they must fit the
    weights. What is no real number, as the state of a random generator, is not averaged.

    Args:
        model: The model that is trained.
        decay: How much each step takes from the weights of the steps before; 0: no average.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        self._model = model
        self._decay = decay
        self._num_steps = tf.Variable(0, trainable=False)
        real = [w for w in model.weights if w.dtype.startswith(("float", "bfloat"))]
        self._followed = real if decay else []
        self._averages = [tf.Variable(w.value, trainable=False) for w in self._followed]
        self._blend = tf.function(
            self._approach, input_signature=[tf.TensorSpec([])], autograph=False
        )

    @property
    def variables(self) -> list[tf.Variable]:
        """The state of the average, to be kept and restored."""
        return [self._num_steps, *self._averages] if self._decay else []

    def update(self) -> None:
        """Adds the weights that the model has after a step."""
        if not self._decay:
            return
        num_steps = int(self._num_steps.assign_add(1))
        # The share of the newest weights: 1 in the first step, 1 - decay after many.
        self._blend(tf.constant((1 - self._decay) / (1 - self._decay**num_steps)))

    def weights(self) -> list[np.ndarray]:
        """The averaged weights, in the order of `model.get_weights()`.

        Returns:
            The model's own weights if there is no average, or none yet.
        """
        current: list[np.ndarray] = self._model.get_weights()
        if not int(self._num_steps):
            return current
        averages = {
            id(weight): average.numpy()
            for weight, average in zip(self._followed, self._averages, strict=True)
        }
        return [
            averages.get(id(weight), value)
            for weight, value in zip(self._model.weights, current, strict=True)
        ]

    def _approach(self, share: tf.Tensor) -> None:
        for weight, average in zip(self._followed, self._averages, strict=True):
            average.assign_add(tf.cast(share, average.dtype) * (weight.value - average))
