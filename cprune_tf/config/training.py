"""How candidates and the result are trained."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """One training phase: SGD with momentum and decoupled weight decay, constant or cosine rate.

    Attributes:
        epochs: Passes over the training images.
        learning_rate: The first rate.
        momentum: Of SGD.
        weight_decay: L2 coefficient on kernels.
        schedule: "constant" or "cosine" (to zero).
        max_steps_per_epoch: Shorten an epoch to this many batches (0: the whole set).
        distill: Weight of the original model's softened outputs in the loss (0: none).
    """

    epochs: int = 5
    learning_rate: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    max_steps_per_epoch: int = 0
    distill: float = 0.0

    def validate(self, where: str) -> None:
        """Raises ConfigError where a field cannot work."""
        require(self.epochs >= 0, f"{where}.epochs", self.epochs, "0 or more")
        rate = self.learning_rate
        require(rate > 0, f"{where}.learning_rate", rate, "a positive number")
        require(0 <= self.momentum < 1, f"{where}.momentum", self.momentum, "a number in [0, 1)")
        decay = self.weight_decay
        require(decay >= 0, f"{where}.weight_decay", decay, "0 or more")
        schedules = ("constant", "cosine")
        require(
            self.schedule in schedules, f"{where}.schedule", self.schedule, "constant or cosine"
        )
        steps = self.max_steps_per_epoch
        require(steps >= 0, f"{where}.max_steps_per_epoch", steps, "0 (all) or more")
        require(0 <= self.distill <= 1, f"{where}.distill", self.distill, "a number in [0, 1]")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Short-term training of each candidate, long-term training of the result.

    Attributes:
        short_term: After each candidate that passed the latency gate.
        long_term: Once, at the end.
    """

    short_term: FitConfig = FitConfig()
    long_term: FitConfig = FitConfig(epochs=100)

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        self.short_term.validate("training.short_term")
        self.long_term.validate("training.long_term")
