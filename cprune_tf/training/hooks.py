"""The default training and evaluation of a pruning run, and the caller's own in their place."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cprune_tf.accuracy import Hits
from cprune_tf.config import FitConfig, PruneConfig
from cprune_tf.data import Data, ImageData
from cprune_tf.sparse import SparseKernel, project_model
from cprune_tf.training.aware import train_aware
from cprune_tf.training.batch_norm import recalibrate_batch_norm
from cprune_tf.training.checkpoint import Checkpoint, fingerprint
from cprune_tf.training.errors import TrainingError
from cprune_tf.training.evaluation import evaluate, evaluate_batches
from cprune_tf.training.pattern_training import (
    PatternPenalty,
    Projected,
    StraightThrough,
    TowardsPatterns,
    default_rho,
)
from cprune_tf.training.penalty import Penalty
from cprune_tf.training.scoring import Scorer
from cprune_tf.training.teaching import Teacher
from cprune_tf.training.trainer import FitResult, MakeForward, count_batches, fit
from cprune_tf.training.twin import chosen_precision

# Called after each step of a training with (steps done, steps planned, text). Steps planned are 0
# while nobody knows how many an epoch has. At the end both numbers are equal.
StepProgress = Callable[[int, int, str], None]

# What stays of layers' weights, by their names.
Kept = Mapping[str, SparseKernel]

_PHASES = {
    "short": "short-term training",
    "long": "long-term training",
    "soft": "soft start",
    "patterns": "training towards patterns",
    "aware": "training for int8",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains and judges models on one data set as the config says.

    Attributes:
        config: The run's configuration.
        data: Training and test images.
        teacher: The original model, for distillation.
        own_compile: Train with the model's own compiled loss and optimizer (`model.fit`).
        log_dir: Folder for TensorBoard; None: nothing is logged.
        on_step: Told after each step how far a training is; None: nobody is told.
        checkpoint_dir: Folder that keeps the state of an interrupted training; None: none is kept.
        replicas: What each batch is split over, all in this process; None: one device trains. With
            own_compile it has no effect.
        scorer: Judges models by a metric of the caller's; None: by `config.strategy.metric`, "top1"
            or "top5", or not at all.
    """

    config: PruneConfig
    data: Data
    teacher: keras.Model
    own_compile: bool = False
    log_dir: pathlib.Path | None = None
    on_step: StepProgress | None = None
    checkpoint_dir: pathlib.Path | None = None
    replicas: tf.distribute.Strategy | None = None
    scorer: Scorer | None = None
    _teachers: dict[str, Teacher] = dataclasses.field(default_factory=dict, init=False)

    def short_term_train(self, model: keras.Model, kept: Kept | None = None) -> None:
        """Trains a candidate in place for a few epochs.

        Args:
            model: The candidate.
            kept: What stays of its layers' weights; None: all.
        """
        self._train(model, self.config.training.short_term, "short", kept=kept)

    def long_term_train(self, model: keras.Model, kept: Kept | None = None) -> None:
        """Trains the result in place; in a run at int8, for that too if the config asks for it.

        Args:
            model: The result.
            kept: What stays of its layers' weights; None: all.
        """
        self._train(model, self.config.training.long_term, "long", kept=kept)
        if self.config.precision == "int8" and self.config.quantization.aware.epochs:
            self._train_aware(model, kept)

    def train_one_step(self, model: keras.Model) -> None:
        """Trains a model in place for one batch as long-term training would; keeps no record."""
        training, quantization = self.config.training, self.config.quantization
        training = dataclasses.replace(
            training,
            long_term=_one_step(training.long_term),
            recalibration_batches=min(1, training.recalibration_batches),
        )
        if quantization.aware.epochs:
            aware = _one_step(quantization.aware)
            quantization = dataclasses.replace(quantization, aware=aware)
        dataclasses.replace(
            self,
            config=dataclasses.replace(self.config, training=training, quantization=quantization),
            log_dir=None,
            on_step=None,
            checkpoint_dir=None,
        ).long_term_train(model)

    def soft_start(self, model: keras.Model, penalty: Penalty, epochs: int) -> None:
        """Trains a model in place before units are removed from it.

        As in short-term training, but at a constant rate, without averaging and without an early
        end: the penalty is strongest at the end, and the loss grows with it.

        Args:
            model: The model that still has the units.
            penalty: What presses them to zero.
            epochs: Number of epochs.
        """
        config = dataclasses.replace(
            self.config.training.short_term,
            epochs=epochs,
            schedule="constant",
            warmup_epochs=0.0,
            ema=0.0,
            stop_after=0,
        )
        self._train(model, config, "soft", penalty=penalty)

    def train_patterns(self, model: keras.Model, towards: TowardsPatterns) -> Projected:
        """Trains all weights in place towards patterns, and projects them.

        As in short-term training, but at a constant rate, without averaging and without an early
        end: the pull is strongest at the end, and the loss grows with it.

        Args:
            model: The model before.
            towards: How, and to what.

        Returns:
            What stays, exactly; all else is zero.
        """
        config = dataclasses.replace(
            self.config.training.short_term,
            epochs=towards.epochs,
            learning_rate=towards.learning_rate,
            schedule="constant",
            warmup_epochs=0.0,
            ema=0.0,
            stop_after=0,
        )
        constraints, penalty, make_forward, kept = towards.constraints, None, None, None
        if towards.method == "one_shot":
            kept = project_model(model, constraints)
        elif towards.method == "admm":
            num_batches = count_batches(self.data, config, self._seed_of(model))
            rho = towards.rho or default_rho(config.learning_rate, config.momentum, num_batches)
            penalty = PatternPenalty(model, constraints, rho)
        else:
            make_forward = functools.partial(StraightThrough, constraints=constraints)
        result = self._fit(
            model, config, "patterns", penalty=penalty, make_forward=make_forward, kept=kept
        )
        kept = kept or project_model(model, constraints)
        # The statistics must be those of the weights that stay.
        self._recalibrate(model)
        measures = tuple(epoch.measures for epoch in result.epochs if epoch.measures)
        return Projected(kept, measures)

    def evaluate(self, model: keras.Model) -> float:
        """Accuracy on the validation images, 0..1; on the test images if there are no others.

        With a scorer, the score on the validation or test data.
        """
        if self.scorer is not None:
            return self.scorer.of_model(model, *self.data.judges)
        return evaluate(model, self._images, self.config.strategy.metric, part="validation")

    def evaluate_batches(
        self, model: keras.Model, order: npt.NDArray[np.integer[Any]] | None
    ) -> Iterator[Hits]:
        """Hits on the images of `evaluate`, batch by batch; see `evaluation.evaluate_batches`."""
        metric = self.config.strategy.metric
        return evaluate_batches(model, self._images, metric, part="validation", order=order)

    def sample(self) -> Any:
        """A few batches of training images and labels, the same at every call."""
        count = self.config.strategy.importance_batches
        return list(self.data.train_dataset(self.config.seed).take(count).as_numpy_iterator())

    @property
    def _images(self) -> ImageData:
        """The data, where top1 and top5 judge: those of a classifier."""
        if not isinstance(self.data, ImageData):
            raise TrainingError(
                f"The data {self.data.name} are not those of a classifier of one image; expected a "
                "metric that the model was compiled with."
            )
        return self.data

    def _train(
        self,
        model: keras.Model,
        config: FitConfig,
        phase: str,
        *,
        penalty: Penalty | None = None,
        kept: Kept | None = None,
    ) -> None:
        if self.own_compile:
            self._train_as_compiled(model, config, phase, self._seed_of(model))
            return
        self._fit(model, config, phase, penalty=penalty, kept=kept)
        self._recalibrate(model)

    def _fit(
        self,
        model: keras.Model,
        config: FitConfig,
        phase: str,
        *,
        penalty: Penalty | None = None,
        make_forward: MakeForward | None = None,
        kept: Kept | None = None,
    ) -> FitResult:
        seed = self._seed_of(model)
        log_dir, on_step, folder = self.log_dir, self.on_step, self.checkpoint_dir
        result = fit(
            model,
            self.data,
            config,
            seed=seed,
            teacher=self._teacher_at(config) if config.distill > 0 else None,
            penalty=penalty,
            make_forward=make_forward,
            kept=kept,
            on_step=self._report_of(phase),
            log_dir=None if log_dir is None else log_dir / f"{phase}_{model.count_params()}",
            checkpoint=None if folder is None else folder / f"{phase}.npz",
            replicas=self.replicas,
        )
        if result.stopped and on_step is not None:
            text = _describe(phase, result.epochs[-1].loss)
            on_step(result.num_steps, result.num_steps, text)
        return result

    def _recalibrate(self, model: keras.Model) -> None:
        if num_batches := self.config.training.recalibration_batches:
            seed = self._seed_of(model)
            recalibrate_batch_norm(model, self.data, num_batches, seed=seed, include_frozen=False)

    def _seed_of(self, model: keras.Model) -> int:
        # A function of the model's size, so that a resumed run trains as the first one would have.
        return self.config.seed + model.count_params()

    def _train_aware(self, model: keras.Model, kept: Kept | None) -> None:
        log_dir, on_step, folder = self.log_dir, self.on_step, self.checkpoint_dir
        result = train_aware(
            model,
            self.data,
            self.config.quantization,
            seed=self.config.seed,
            metric=self.config.strategy.metric,
            scorer=self.scorer,
            on_step=self._report_of("aware"),
            log_dir=None if log_dir is None else log_dir / f"aware_{model.count_params()}",
            checkpoint=None if folder is None else folder / "aware.npz",
            kept=kept,
        )
        if on_step is not None:
            num_steps = result.training.num_steps
            on_step(num_steps, num_steps, f"{_PHASES['aware']}: {result}")

    def _teacher_at(self, config: FitConfig) -> keras.Model | Teacher:
        """The teacher at a training's precision, shared by all trainings of the run."""
        if self.replicas is not None:
            return self.teacher  # copied to them by each training
        precision = chosen_precision(config.precision)
        if precision not in self._teachers:
            self._teachers[precision] = Teacher(self.teacher, self.data, precision)
        return self._teachers[precision]

    def _train_as_compiled(
        self, model: keras.Model, config: FitConfig, phase: str, seed: int
    ) -> None:
        keras.utils.set_random_seed(seed)
        model.optimizer.build(model.trainable_variables)
        path = None if self.checkpoint_dir is None else self.checkpoint_dir / f"{phase}.npz"
        name = "" if path is None else fingerprint(model, config, seed)
        # Metrics begin each epoch anew; Keras makes some of them only when it trains.
        metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
        state = [variable for variable in model.variables if id(variable) not in metrics]
        kept = _KeptEpochs(Checkpoint(path, name, (*state, *model.optimizer.variables)))
        reports = [] if self.on_step is None else [_StepReports(self.on_step, phase)]
        batches, limit = self.data.as_compiled(seed), config.max_steps_per_epoch
        model.fit(
            batches.take(limit) if limit else batches,
            epochs=config.epochs,
            initial_epoch=len(kept.epochs),
            verbose=0,
            callbacks=[kept, *reports],
        )

    def _report_of(self, phase: str) -> Callable[[int, int, float], None] | None:
        on_step = self.on_step
        if on_step is None:
            return None

        def report(done: int, planned: int, loss: float) -> None:
            on_step(done, planned, _describe(phase, loss))

        return report


def _one_step(config: FitConfig) -> FitConfig:
    return dataclasses.replace(config, epochs=1, max_steps_per_epoch=1, warmup_epochs=0.0)


class _KeptEpochs(keras.callbacks.Callback):
    """Keeps the state of `model.fit` after each epoch.

    Args:
        checkpoint: The file; the model is set to what it holds.

    Attributes:
        epochs: The loss and metrics of each completed epoch.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self.epochs = checkpoint.restore()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the file."""
        self.epochs.append({name: float(value) for name, value in (logs or {}).items()})
        self._checkpoint.save(self.epochs)


class _StepReports(keras.callbacks.Callback):
    """Tells how far `model.fit` is.

    Args:
        on_step: Whom to tell.
        phase: One of _PHASES.
    """

    def __init__(self, on_step: StepProgress, phase: str) -> None:
        super().__init__()
        self._on_step = on_step
        self._phase = phase
        self._steps_per_epoch = 0
        self._done_before_epoch = 0
        self._done = 0
        self._text = ""

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Learns how many steps an epoch has, where Keras knows."""
        self._steps_per_epoch = self.params.get("steps") or 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Counts the epochs of an interrupted training as done."""
        self._done_before_epoch = epoch * self._steps_per_epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Reports one step, or several that Keras ran at once."""
        self._done = self._done_before_epoch + batch + 1
        if self._steps_per_epoch:
            # Where several steps run at once, Keras may count beyond the epoch's last.
            self._done = min(self._done, self._done_before_epoch + self._steps_per_epoch)
        self._text = _describe(self._phase, float((logs or {}).get("loss", math.nan)))
        planned = self._steps_per_epoch * self.params["epochs"]
        self._on_step(self._done, planned, self._text)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Counts the steps of the first epoch, where Keras did not know them."""
        if not self._steps_per_epoch:
            self._steps_per_epoch = self._done

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Says that it ended, however many steps were planned."""
        if self._done:
            self._on_step(self._done, self._done, self._text)


def _describe(phase: str, loss: float) -> str:
    return f"{_PHASES[phase]}: loss {loss:.4f}"
