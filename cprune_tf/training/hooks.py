"""The default training and evaluation of a pruning run, and the caller's own in their place."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from cprune_tf.config import FitConfig, PruneConfig
from cprune_tf.data import ImageData
from cprune_tf.training.evaluation import evaluate
from cprune_tf.training.trainer import fit

# Called with (steps done, steps planned, text).
StepProgress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains and judges models on one data set as the config says.

    Attributes:
        config: Of the run.
        data: Training and test images.
        teacher: The original model, for distillation.
        own_compile: Train with the model's own compiled loss and optimizer (`model.fit`).
        log_dir: For TensorBoard; None: not logged.
        on_step: Told how far a training is.
    """

    config: PruneConfig
    data: ImageData
    teacher: keras.Model
    own_compile: bool = False
    log_dir: pathlib.Path | None = None
    on_step: StepProgress | None = None

    def short_term_train(self, model: keras.Model) -> None:
        """Trains a candidate in place for a few epochs."""
        self._train(model, self.config.training.short_term, "short")

    def long_term_train(self, model: keras.Model) -> None:
        """Trains the result in place."""
        self._train(model, self.config.training.long_term, "long")

    def evaluate(self, model: keras.Model) -> float:
        """Accuracy on the test images, 0..1."""
        return evaluate(model, self.data, self.config.strategy.metric)

    def sample(self) -> Any:
        """One batch of training images and labels."""
        return next(iter(self.data.train_dataset(self.config.seed)))

    def _train(self, model: keras.Model, config: FitConfig, phase: str) -> None:
        # A function of the model's size, so that a resumed run trains as the first one would have.
        seed = self.config.seed + model.count_params()
        if self.own_compile:
            keras.utils.set_random_seed(seed)
            model.fit(self.data.train_dataset(seed), epochs=config.epochs, verbose=0)
            return
        log_dir = self.log_dir
        fit(
            model,
            self.data,
            config,
            seed=seed,
            teacher=self.teacher if config.distill > 0 else None,
            on_step=self._show(phase),
            log_dir=None if log_dir is None else log_dir / f"{phase}_{model.count_params()}",
        )

    def _show(self, phase: str) -> Callable[[int, int, float], None] | None:
        on_step = self.on_step
        if on_step is None:
            return None

        def show(done: int, total: int, loss: float) -> None:
            on_step(done, total, f"{phase}-term training: loss {loss:.4f}")

        return show
