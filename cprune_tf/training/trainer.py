"""Short-term and long-term training (CPrune, section 3: after each pruning, and at the end)."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.config import FitConfig
from cprune_tf.data import ImageData
from cprune_tf.training import step as steps
from cprune_tf.training.averaging import WeightAverage
from cprune_tf.training.errors import TrainingError, check_model
from cprune_tf.training.twin import training_twin


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What one epoch did.

    Attributes:
        epoch: Counted from 1.
        num_epochs: Epochs of the whole training.
        loss: Mean over the epoch's batches.
        accuracy: Fraction of training images classified right, while training (augmented).
        learning_rate: At the epoch's end.
        duration_sec: Wall time.
    """

    epoch: int
    num_epochs: int
    loss: float
    accuracy: float
    learning_rate: float
    duration_sec: float


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a training did.

    Attributes:
        epochs: One for each completed epoch.
        num_steps: Batches trained on.
        stopped: Whether `stop` or `config.stop_after` ended it early.
        duration_sec: Wall time, set-up included.
    """

    epochs: tuple[EpochResult, ...]
    num_steps: int
    stopped: bool
    duration_sec: float


def fit(
    model: keras.Model,
    data: ImageData,
    config: FitConfig,
    *,
    seed: int,
    teacher: keras.Model | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    log_dir: str | pathlib.Path | None = None,
) -> FitResult:
    """Trains a model in place with a fresh optimizer.

    The steps run on a copy whose weights are written back after each epoch, so the model's own
    compile state, optimizer and trainable flags stay as they are, and a training that fails within
    an epoch leaves the weights of the epoch before. With config.ema, the averaged weights are
    written back, and the steps go on from the copy's own. The same weights, data, config and seed
    give the same result on the same machine.

    Args:
        model: A Functional or Sequential classifier; probabilities or logits.
        data: Training batches.
        config: Epochs, rate, momentum, weight decay, schedule, loss, averaging, early end.
        seed: Decides shuffling, augmentation and dropout.
        teacher: The model whose outputs are to be kept; needed when config.distill > 0.
        on_epoch: Called after each epoch, when the model has the new weights.
        on_step: Called after each step with (steps done, steps in all, loss).
        stop: Asked before each step; True ends the training, keeping what was learned.
        log_dir: Where to write TensorBoard scalars for each epoch.

    Returns:
        Loss and accuracy of each epoch.

    Raises:
        TrainingError: When model and data don't fit, a teacher is missing, or the loss is NaN.
    """
    config.validate("fit")
    check_model(model, data)
    start = time.perf_counter()
    if not config.epochs:
        return FitResult((), 0, False, 0.0)
    dataset, steps_per_epoch = epoch_dataset(data, config, seed)
    total = steps_per_epoch * config.epochs
    twin = training_twin(model, seed=seed)
    optimizer = steps.make_optimizer(twin, config, total)
    step = steps.make_step(
        twin,
        optimizer,
        data,
        teacher=teacher,
        distill=config.distill,
        label_smoothing=config.label_smoothing,
    )
    average = WeightAverage(twin, config.ema)
    epochs: list[EpochResult] = []
    num_steps, stopped = 0, False
    writer = tf.summary.create_file_writer(str(log_dir)) if log_dir is not None else None
    for epoch in range(1, config.epochs + 1):
        epoch_start = time.perf_counter()
        values = []
        for images, labels in dataset:
            if stop is not None and stop():
                stopped = True
                break
            values.append(_finite(step(images, labels), epoch, config))
            average.update()
            num_steps += 1
            if on_step is not None:
                on_step(num_steps, total, values[-1][0])
        model.set_weights(average.weights())
        if stopped:
            break
        loss, accuracy = np.mean(values, axis=0).tolist()
        rate = float(optimizer.learning_rate)
        duration_sec = time.perf_counter() - epoch_start
        epochs.append(EpochResult(epoch, config.epochs, loss, accuracy, rate, duration_sec))
        _log(writer, epochs[-1])
        if on_epoch is not None:
            on_epoch(epochs[-1])
        if epoch < config.epochs and _has_stalled(epochs, config.stop_after):
            stopped = True
            break
    if writer is not None:
        writer.close()
    return FitResult(tuple(epochs), num_steps, stopped, time.perf_counter() - start)


def epoch_dataset(data: ImageData, config: FitConfig, seed: int) -> tuple[tf.data.Dataset, int]:
    """Returns the data of one epoch, and its number of steps.

    Args:
        data: Training batches.
        config: Limits the steps of an epoch.
        seed: Decides shuffling and augmentation.

    Returns:
        The data set, which is shuffled anew at each pass, and the number of its batches.

    Raises:
        TrainingError: There are none, or no end of them.
    """
    dataset = data.train_dataset(seed)
    limit = config.max_steps_per_epoch
    if limit:
        dataset = dataset.take(limit)
    count = int(dataset.cardinality())
    if count < 0:  # unknown or infinite
        if not limit and count == tf.data.INFINITE_CARDINALITY:
            raise TrainingError(
                f"the training data {data.name} are endless; set fit.max_steps_per_epoch."
            )
        count = sum(1 for _ in dataset)
    if not count:
        raise TrainingError(f"the training data {data.name} have no batch.")
    return dataset, count


def _has_stalled(epochs: Sequence[EpochResult], patience: int) -> bool:
    """Whether the lowest loss is `patience` epochs old; never for a patience of 0."""
    losses = [epoch.loss for epoch in epochs]
    return bool(patience) and len(losses) - 1 - losses.index(min(losses)) >= patience


def _finite(
    values: tuple[tf.Tensor, tf.Tensor], epoch: int, config: FitConfig
) -> tuple[float, float]:
    loss, accuracy = float(values[0]), float(values[1])
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch}; expected a finite one. Lower the learning "
            f"rate (it is {config.learning_rate}), or check data.mean and data.std."
        )
    return loss, accuracy


def _log(writer: tf.summary.SummaryWriter | None, result: EpochResult) -> None:
    if writer is None:
        return
    # What tf.summary.scalar writes; that function is TensorBoard's, which may not be installed.
    metadata = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
    metadata.plugin_data.plugin_name = "scalars"
    with writer.as_default(step=result.epoch):
        for name in ("loss", "accuracy", "learning_rate"):
            value = tf.constant(getattr(result, name), tf.float32)
            tf.summary.write(f"train/{name}", value, metadata=metadata)
