"""Short-term and long-term training (CPrune, section 3: after each pruning, and at the end)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from cprune_tf import sparse
from cprune_tf.config import FitConfig
from cprune_tf.data import Data, ImageData
from cprune_tf.training import distribution
from cprune_tf.training import step as steps
from cprune_tf.training.averaging import WeightAverage
from cprune_tf.training.checkpoint import Checkpoint, fingerprint
from cprune_tf.training.errors import TrainingError, check_model
from cprune_tf.training.objectives import make_objective
from cprune_tf.training.penalty import Penalty
from cprune_tf.training.teaching import Teacher
from cprune_tf.training.twin import chosen_precision, training_twin

# Keeps the seeds of the epochs of two trainings apart.
_MOST_EPOCHS = 100_000

# Makes what computes the outputs of the copy of the model that is trained, in its place.
MakeForward = Callable[[keras.Model], steps.Forward]


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What one epoch did.

    Attributes:
        epoch: Counted from 1.
        num_epochs: Epochs of the whole training.
        loss: Mean over the epoch's batches.
        accuracy: Fraction of training images classified right, while training (augmented); NaN
            for other tasks.
        learning_rate: At the epoch's end.
        duration_sec: Wall time.
        measures: What the penalty, or what computes in the model's place, tells of the epoch.
    """

    epoch: int
    num_epochs: int
    loss: float
    accuracy: float
    learning_rate: float
    duration_sec: float
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)


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
    data: Data,
    config: FitConfig,
    *,
    seed: int,
    teacher: keras.Model | Teacher | None = None,
    penalty: Penalty | None = None,
    make_forward: MakeForward | None = None,
    kept: Mapping[str, sparse.SparseKernel] | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    log_dir: str | pathlib.Path | None = None,
    checkpoint: pathlib.Path | None = None,
    replicas: tf.distribute.Strategy | None = None,
) -> FitResult:
    """Trains a model in place with a fresh optimizer.

    The steps run on a copy whose weights are written back after each epoch, so the model's own
    compile state, optimizer and trainable flags stay as they are, and a training that fails within
    an epoch leaves the weights of the epoch before. With config.ema, the averaged weights are
    written back, and the steps go on from the copy's own. The same weights, data, config and seed
    give the same result on the same machine.

    Args:
        model: A Functional or Sequential classifier; probabilities or logits. For `SampleData`, any
            model that is compiled: its losses are used, its optimizer is not.
        data: Training batches.
        config: Epochs, rate, momentum, weight decay, schedule, loss, averaging, early end.
        seed: Decides shuffling, augmentation and dropout.
        teacher: The model whose outputs are to be kept; needed when config.distill > 0. A
            `Teacher` that several trainings share computes each output only once, where it can;
            not with replicas, which need copies of their own.
        penalty: Added to the loss.
        make_forward: Called once with the copy; what it makes computes the outputs of each step in
            the copy's place. Not with replicas. None: the copy computes them.
        kept: What stays of some layers' weights: all others of these layers are set to zero, and
            are zero after each step and in the average. Not with replicas.
        on_epoch: Called after each epoch, when the model has the new weights.
        on_step: Called after each step with (steps done, steps in all, loss).
        stop: Asked before each step; True ends the training, keeping what was learned.
        log_dir: Where to write TensorBoard scalars for each epoch.
        checkpoint: A file that keeps the state after each epoch. If it holds this very training
            (same weights, config, seed, teacher, penalty and zeros), the training goes on from
            there. Not with several workers.
        replicas: Each batch is split over them; see `distribution`. With several workers, each
            calls this with the same arguments and gets the same weights; `stop`, which would end
            only one of them, is not possible then. None: one device trains.

    Returns:
        Loss and accuracy of each epoch.

    Raises:
        TrainingError: When model and data don't fit, a teacher is missing, the loss is NaN, or
            the other workers train something else or are gone.
        StorageError: When the checkpoint cannot be written.
    """
    config.validate("fit")
    several = distribution.is_multi_worker(replicas)
    if several and (checkpoint is not None or stop is not None):
        raise ValueError(
            "fit: a checkpoint or `stop` was given with several workers; leave it out."
        )
    if replicas is not None and isinstance(teacher, Teacher):
        raise ValueError("fit: a Teacher was given with replicas; expected the model itself.")
    if replicas is not None and make_forward is not None:
        raise ValueError("fit: make_forward was given with replicas; expected one of them at most.")
    if replicas is not None and kept:
        raise ValueError("fit: zeros are to be kept with replicas; expected one of them at most.")
    check_model(model, data)
    start = time.perf_counter()
    if not config.epochs:
        return FitResult((), 0, False, 0.0)
    logged = log_dir is not None and distribution.is_chief(replicas)
    writer = tf.summary.create_file_writer(str(log_dir)) if logged else None
    with distribution.lost_workers_explained(replicas):
        training = _Training(
            model, data, config, seed, teacher, penalty, make_forward, kept or {},
            checkpoint, replicas,
        )  # fmt: skip
        while not training.has_ended and training.train_epoch(on_step, stop):
            _log(writer, training.epochs[-1])
            if on_epoch is not None:
                on_epoch(training.epochs[-1])
    if writer is not None:
        writer.close()
    stopped = len(training.epochs) < config.epochs
    duration_sec = time.perf_counter() - start
    return FitResult(tuple(training.epochs), training.num_steps, stopped, duration_sec)


class _Training:
    """One training, epoch by epoch; see `fit` for the arguments.

    Attributes:
        epochs: The completed ones, those of an interrupted training included.
        num_steps: Batches trained on.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        config: FitConfig,
        seed: int,
        teacher: keras.Model | Teacher | None,
        penalty: Penalty | None,
        make_forward: MakeForward | None,
        kept: Mapping[str, sparse.SparseKernel],
        checkpoint: pathlib.Path | None,
        replicas: tf.distribute.Strategy | None,
    ) -> None:
        self._model, self._data, self._config, self._seed = model, data, config, seed
        num_batches = count_batches(data, config, seed)
        self._total = num_batches * config.epochs
        given = teacher.model if isinstance(teacher, Teacher) else teacher
        others = [] if given is None else [given]
        if replicas is not None and distribution.is_multi_worker(replicas):
            name = fingerprint(model, config, seed, *others) + _first_batch(data, config, seed)
            distribution.check_same_training(replicas, f"{name} {num_batches}")
        with contextlib.nullcontext() if replicas is None else replicas.scope():
            precision = chosen_precision(config.precision)
            twin = training_twin(model, seed=seed, precision=precision)
            sparse.hold_zeros(twin, kept)
            # Not of the copy: it is not compiled.
            objective = make_objective(model, data, config)
            forward = None if make_forward is None else make_forward(twin)
            self._optimizer = steps.make_optimizer(twin, config, self._total)
            if given is not None and given is teacher and config.distill:
                teacher = Teacher(given, data, precision, keeps=replicas is None)
            self._step = steps.make_step(
                twin,
                self._optimizer,
                objective,
                teacher=teacher if isinstance(teacher, Teacher) else None,
                distill=config.distill,
                penalty=_bound(penalty, twin, self._optimizer, self._total),
                forward=forward,
                replicas=replicas,
            )
        # Outside the scope: one average is enough for weights that all replicas share.
        self._average = WeightAverage(twin, config.ema)
        self._followers = [one for one in (forward, penalty) if one is not None]
        name = ""
        if checkpoint is not None:
            names = [*(one.name for one in self._followers), sparse.fingerprint(kept)]
            name = fingerprint(model, config, seed, *others) + "".join(names)
        self._checkpoint = Checkpoint(
            checkpoint,
            name,
            # `variables` hold the states of dropout's random generators, `weights` do not.
            (
                *twin.variables,
                *self._optimizer.variables,
                *self._average.variables,
                *(variable for one in self._followers for variable in one.variables),
            ),
        )
        self.epochs = [EpochResult(**values) for values in self._checkpoint.restore()]
        self.num_steps = len(self.epochs) * num_batches
        if self.epochs:
            model.set_weights(self._average.weights())

    @property
    def has_ended(self) -> bool:
        """Whether all epochs are done, or the loss has stalled."""
        done, config = len(self.epochs), self._config
        return done >= config.epochs or _has_stalled(self.epochs, config.stop_after)

    def train_epoch(
        self, on_step: Callable[[int, int, float], None] | None, stop: Callable[[], bool] | None
    ) -> bool:
        """Trains for one epoch and gives the model its weights; False if `stop` ended it early."""
        start = time.perf_counter()
        number = len(self.epochs) + 1
        values = []
        stopped = False
        for images, labels, indices in _numbered(self._data, self._config, self._seed, number):
            stopped = stop is not None and stop()
            if stopped:
                break
            values.append(_finite(self._step(images, labels, indices), number, self._config))
            self._average.update()
            self.num_steps += 1
            if on_step is not None:
                on_step(self.num_steps, self._total, values[-1][0])
        self._model.set_weights(self._average.weights())
        if stopped:
            return False
        loss, accuracy = np.mean(values, axis=0).tolist()
        rate = float(tf.convert_to_tensor(self._optimizer.learning_rate))
        num_epochs = self._config.epochs
        measures: dict[str, float] = {}
        for one in self._followers:
            measures |= one.end_epoch(number, num_epochs)
        duration_sec = time.perf_counter() - start
        self.epochs.append(
            EpochResult(number, num_epochs, loss, accuracy, rate, duration_sec, measures)
        )
        self._checkpoint.save([dataclasses.asdict(epoch) for epoch in self.epochs])
        return True


def epoch_dataset(data: Data, config: FitConfig, seed: int, epoch: int) -> tf.data.Dataset:
    """The batches of one epoch.

    Each epoch has a seed of its own, so that a training that goes on with its fifth epoch sees what
    it would have seen without the interruption.
    """
    dataset = data.train_dataset(_epoch_seed(seed, epoch))
    limit = config.max_steps_per_epoch
    return dataset.take(limit) if limit else dataset


def _numbered(data: Data, config: FitConfig, seed: int, epoch: int) -> tf.data.Dataset:
    """The batches of one epoch, each with the numbers of its images if the data number them."""
    dataset = epoch_dataset(data, config, seed, epoch)
    none = tf.zeros([0], tf.int64)
    if not isinstance(data, ImageData):
        return dataset.map(lambda inputs, *labels: (inputs, labels, none))
    if data.train_indices is None:
        return dataset.map(lambda images, labels: (images, labels, none))
    indices = data.train_indices(_epoch_seed(seed, epoch))
    return tf.data.Dataset.zip(dataset, indices).map(lambda batch, numbers: (*batch, numbers))


def _epoch_seed(seed: int, epoch: int) -> int:
    return seed * _MOST_EPOCHS + epoch


def count_batches(data: Data, config: FitConfig, seed: int) -> int:
    """Returns the number of batches in an epoch.

    Raises:
        TrainingError: When an epoch has no end, or no batch.
    """
    dataset = epoch_dataset(data, config, seed, 1)
    count = int(dataset.cardinality())
    if count < 0:  # unknown or infinite
        if not config.max_steps_per_epoch and count == tf.data.INFINITE_CARDINALITY:
            raise TrainingError(
                f"the training data {data.name} repeat without end; set data.steps_per_epoch."
            )
        count = sum(1 for _ in dataset)
    if not count:
        raise TrainingError(f"the training data {data.name} have no batch.")
    return count


def _first_batch(data: Data, config: FitConfig, seed: int) -> str:
    """A name of the first batch that a training sees."""
    digest = hashlib.sha256()
    for batch in epoch_dataset(data, config, seed, 1).take(1):
        for one in keras.tree.flatten(batch):
            digest.update(one.numpy().tobytes())
    return digest.hexdigest()


def _bound(
    penalty: Penalty | None,
    twin: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    total_steps: int,
) -> Callable[[], tf.Tensor] | None:
    """A penalty as a function of variables alone."""
    if penalty is None:
        return None
    # The optimizer's count of steps is a variable, so the step is traced once for all of them.
    return lambda: penalty(twin, tf.cast(optimizer.iterations, tf.float32) / total_steps)


def _has_stalled(epochs: Sequence[EpochResult], patience: int) -> bool:
    """Whether the lowest loss is `patience` epochs old; never for a patience of 0."""
    losses = [epoch.loss for epoch in epochs]
    return bool(patience and losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def _finite(values: Sequence[tf.Tensor], epoch: int, config: FitConfig) -> tuple[float, float]:
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
        own = {name: getattr(result, name) for name in ("loss", "accuracy", "learning_rate")}
        for name, number in {**own, **result.measures}.items():
            if math.isnan(number):
                continue
            value = tf.constant(number, tf.float32)
            tf.summary.write(f"train/{name}", value, metadata=metadata)
