"""Trains a small model alone, in two replicas of this process, or as one of two workers.

python -m tests.training.replica_training KIND FOLDER [SEED [LAST_STEP]]

KIND is multi_worker, or what two replicas train: whole_loss or all_else. This is a process of its
own, since a process's devices and workers are decided before TensorFlow starts.
Writes FOLDER/TRAINING_KIND.npz, for a worker FOLDER/TRAINING_INDEX.npz.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.config import FitConfig
from cprune_tf.data import ImageData
from cprune_tf.training import TrainingError, distribution, fit
from tests.strategies.kills import Killed
from tests.training.penalties import Plain

# The last batch is smaller than the number of replicas.
NUM_IMAGES, BATCH = 33, 16

# All that the loss has; what comes out must not depend on the number of replicas.
WHOLE_LOSS = FitConfig(
    epochs=2, learning_rate=0.05, weight_decay=0.01, distill=0.3, label_smoothing=0.1
)
# All else: draws random numbers, keeps statistics of each part of a batch, averages, bfloat16.
ALL_ELSE = FitConfig(
    epochs=2, learning_rate=0.05, schedule="cosine", ema=0.9, precision="mixed_bfloat16"
)


def small_data() -> ImageData:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, NUM_IMAGES).astype(np.int32)
    images = random.normal(size=(NUM_IMAGES, 8, 8, 1)).astype(np.float32)
    images += labels[:, None, None, None]

    def batches(seed: int) -> tf.data.Dataset:
        # Not tf.data's own shuffling, which depends on the process's global seed too.
        order = np.random.default_rng(seed).permutation(NUM_IMAGES)
        return tf.data.Dataset.from_tensor_slices((images[order], labels[order])).batch(BATCH)

    return ImageData("random", (8, 8, 1), 3, (), images, labels, NUM_IMAGES, batches)


def small_model(synchronized: bool, dropout: float = 0.0, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(6, 3, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    x = keras.layers.BatchNormalization(synchronized=synchronized)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    x = keras.layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def _penalty(model: keras.Model, progress: tf.Tensor) -> tf.Tensor:
    return progress * tf.reduce_sum(tf.square(model.trainable_variables[0].value))


def _save(path: pathlib.Path, model: keras.Model, losses: list[float]) -> None:
    np.savez(path, *model.get_weights(), losses=losses)


def train_whole_loss(
    path: pathlib.Path,
    replicas: tf.distribute.Strategy | None,
    seed: int = 1,
    last_step: int | None = None,
) -> None:
    def on_step(done: int, total: int, loss: float) -> None:
        if done == last_step:
            os._exit(0)

    model, teacher = small_model(synchronized=True), small_model(synchronized=True, seed=1)
    result = fit(
        model, small_data(), WHOLE_LOSS, seed=seed, teacher=teacher, penalty=Plain(_penalty),
        replicas=replicas, on_step=on_step,
    )  # fmt: skip
    _save(path, model, [epoch.loss for epoch in result.epochs])


def train_all_else(
    path: pathlib.Path, replicas: tf.distribute.Strategy | None, *, killed: bool = False
) -> None:
    steps = []

    def on_step(done: int, total: int, loss: float) -> None:
        steps.append(done)
        if killed and steps == [1, 2, 3, 4]:
            raise Killed

    model, data = small_model(synchronized=False, dropout=0.3), small_data()
    checkpoint = path.with_suffix(".checkpoint") if killed else None
    if killed:
        with contextlib.suppress(Killed):
            fit(
                small_model(synchronized=False, dropout=0.3), data, ALL_ELSE, seed=1,
                replicas=replicas, checkpoint=checkpoint, on_step=on_step,
            )  # fmt: skip
        steps.append(0)
    result = fit(
        model, data, ALL_ELSE, seed=1, replicas=replicas, checkpoint=checkpoint, on_step=on_step
    )
    assert not killed or steps == [1, 2, 3, 4, 0, 4, 5, 6]
    _save(path, model, [epoch.loss for epoch in result.epochs])


def main(kind: str, folder: pathlib.Path, *options: str) -> None:
    if kind == "multi_worker":
        replicas = distribution.open_strategy(kind)
        index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        train_whole_loss(folder / f"whole_loss_{index}.npz", replicas, *map(int, options))
        train_all_else(folder / f"all_else_{index}.npz", replicas)
        return
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    replicas = distribution.open_strategy("mirrored")
    if kind == "whole_loss":
        train_whole_loss(folder / "whole_loss_alone.npz", None)
        train_whole_loss(folder / "whole_loss_mirrored.npz", replicas)
        return
    train_all_else(folder / "all_else_mirrored.npz", replicas)
    train_all_else(folder / "all_else_killed.npz", replicas, killed=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:])
    except TrainingError as error:
        sys.exit(f"TrainingError: {error}")
