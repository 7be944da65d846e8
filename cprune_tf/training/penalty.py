"""What may be added to the loss of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import keras
import tensorflow as tf


class Penalty(Protocol):
    """A term of the loss that depends on the weights, with a state of its own."""

    @property
    def name(self) -> str:
        """Equal for two that begin alike and compute alike.

        A training goes on only with the penalty that it began with.
        """

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """Its state, which a training keeps in its checkpoint, always in the same order."""

    def __call__(self, model: keras.Model, progress: tf.Tensor) -> tf.Tensor:
        """Computes the term; called while a step is traced.

        Args:
            model: The copy of the model that the steps run on, with weights in the same order.
            progress: Which part of the training is done (0..1), float32 [].

        Returns:
            float32 [].
        """

    def end_epoch(self, done: int, planned: int) -> Mapping[str, float]:
        """Changes the state after an epoch, when the trained model has the new weights.

        Args:
            done: Epochs done.
            planned: Epochs of the whole training.

        Returns:
            Numbers that tell how the epoch went, by name; may be empty.
        """
