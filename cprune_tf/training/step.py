"""One training step as one graph: forward, loss, gradients, update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.config import FitConfig
from cprune_tf.training import distribution
from cprune_tf.training.errors import TrainingError
from cprune_tf.training.objectives import Objective
from cprune_tf.training.teaching import Teacher

# Inputs and labels are tensors, or nested ones.
Step = Callable[[Any, Any, tf.Tensor], Sequence[tf.Tensor]]


class Forward(Protocol):
    """Computes a model in its training in another way than the model itself does.

    Attributes:
        variables: What changes while it computes, beside the model's own variables.
        name: Equal for two that compute alike.
    """

    variables: Sequence[tf.Variable]
    name: str

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Computes the output for a batch of training images."""

    def end_epoch(self, done: int, planned: int) -> Mapping[str, float]:
        """Changes what it needs after an epoch; see `penalty.Penalty.end_epoch`."""


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly, and then follows a schedule from its beginning.

    Args:
        peak: The rate of the last warm-up step, and the schedule's first.
        num_steps: Number of warm-up steps; the first has a rate of peak / num_steps.
        schedule: What follows; None: the rate stays at the peak.
    """

    def __init__(
        self,
        peak: float,
        num_steps: int,
        schedule: keras.optimizers.schedules.LearningRateSchedule | None,
    ) -> None:
        self.peak = peak
        self.num_steps = num_steps
        self.schedule = schedule

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of a step, counted from 0."""
        step = tf.cast(step, tf.float32)
        rising = self.peak * (step + 1.0) / self.num_steps
        later = self.peak if self.schedule is None else self.schedule(step - self.num_steps)
        return tf.where(step < self.num_steps, rising, later)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras."""
        return {"peak": self.peak, "num_steps": self.num_steps, "schedule": self.schedule}


def make_optimizer(
    model: keras.Model, config: FitConfig, total_steps: int
) -> keras.optimizers.Optimizer:
    """SGD as the config says, with weight decay on kernels only.

    Args:
        model: Whose trainable variables it updates.
        config: Rate, momentum, decay, warm-up, schedule.
        total_steps: Number of steps of all epochs, after which a cosine schedule reaches zero.

    Returns:
        A built optimizer.
    """
    optimizer = keras.optimizers.SGD(
        _learning_rate(config, total_steps),
        momentum=config.momentum,
        weight_decay=config.weight_decay or None,
    )
    variables = model.trainable_variables
    if config.weight_decay:
        # Biases, betas and gammas have one axis; kernels have two or more.
        optimizer.exclude_from_weight_decay(var_list=[v for v in variables if v.ndim < 2])
    optimizer.build(variables)
    return optimizer


def learning_rates(config: FitConfig, total_steps: int) -> np.ndarray:
    """Returns the learning rate of each step, for a training elsewhere; see `make_optimizer`.

    Args:
        config: Rate, warm-up, schedule.
        total_steps: Number of steps of all epochs.

    Returns:
        [total_steps] float32.
    """
    rate = _learning_rate(config, total_steps)
    if callable(rate):
        return np.asarray(rate(tf.range(total_steps, dtype=tf.float32)), np.float32)
    return np.full(total_steps, rate, np.float32)


def _learning_rate(
    config: FitConfig, total_steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    warmup_steps = round(total_steps * config.warmup_epochs / max(config.epochs, 1))
    schedule = None
    if config.schedule == "cosine":
        schedule = keras.optimizers.schedules.CosineDecay(
            config.learning_rate, max(total_steps - warmup_steps, 1)
        )
    if warmup_steps:
        return WarmUp(config.learning_rate, warmup_steps, schedule)
    return config.learning_rate if schedule is None else schedule


def make_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    objective: Objective,
    *,
    teacher: Teacher | None,
    distill: float,
    penalty: Callable[[], tf.Tensor] | None = None,
    forward: Forward | None = None,
    replicas: tf.distribute.Strategy | None = None,
) -> Step:
    """Builds the function that trains on one batch.

    Args:
        model: Its variables are updated.
        optimizer: Built for the model.
        objective: Gives the types of a batch, and compares outputs with labels and the teacher.
        teacher: Used when distill > 0.
        distill: Weight of the teacher in the loss, 0..1.
        penalty: Computes what is added to the loss, from variables; None: nothing is.
        forward: Computes the model's outputs in its place; None: the model does.
        replicas: Each batch is split over them; model and optimizer were made in their scope.
            None: one device trains on the whole batch.

    Returns:
        A function of (inputs, labels, numbers of the samples) that gives the loss and the fraction
        that is classified right; NaN where nothing is classified.
    """
    if distill and teacher is None:
        raise TrainingError(
            f"fit.distill is {distill}, but no teacher was given; expected the original model."
        )
    variables = model.trainable_variables

    def compute(
        images: Any,
        labels: Any,
        indices: tf.Tensor,
        share: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            given = model(images, training=True) if forward is None else forward(images)
            outputs = keras.tree.map_structure(lambda one: tf.cast(one, tf.float32), given)
            loss = objective.loss(labels, outputs)
            if distill and teacher is not None:
                taught = objective.distillation(outputs, teacher.outputs(images, indices))
                loss = (1.0 - distill) * loss + distill * taught
            if model.losses:
                loss += tf.add_n(model.losses)
            if penalty is not None:
                loss += penalty()
            # The optimizer sums the gradients of all replicas.
            target = loss if share is None else share * loss
        gradients = tape.gradient(target, [v.value for v in variables])
        optimizer.apply(gradients, variables)
        return loss, objective.accuracy(labels, outputs)

    def compute_in_replicas(
        images: tf.Tensor, labels: tf.Tensor, indices: tf.Tensor
    ) -> Sequence[tf.Tensor]:
        def compute_part(
            images: tf.Tensor, labels: tf.Tensor, share: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            # No replica's teacher keeps outputs, so none needs the numbers of its images.
            return compute(images, labels, indices, share)

        return distribution.run_in_replicas(replicas, model, compute_part, images, labels)

    # None for the batch: a last, smaller batch must not trace everything anew.
    signature = [*objective.signature, tf.TensorSpec([None], tf.int64)]
    whole = compute if replicas is None else compute_in_replicas
    return tf.function(whole, input_signature=signature, autograph=False)
