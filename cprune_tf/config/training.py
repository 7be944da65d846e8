"""The configuration of training."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import ConfigError, require


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """One training phase: SGD with momentum and decoupled weight decay.

    Attributes:
        epochs: Number of passes over the training images.
        learning_rate: The initial learning rate.
        momentum: The momentum of SGD, 0 or more and below 1.
        weight_decay: L2 coefficient on kernels.
        schedule: The schedule of the learning rate: "constant" or "cosine" (to zero).
        max_steps_per_epoch: Maximum number of batches in an epoch; 0: the whole training set.
        distill: Weight (0..1) of the original model's softened outputs in the loss; 0: none.
        warmup_epochs: The learning rate rises linearly in so many first epochs, a fraction of one
            allowed; the schedule covers the others. 0: it starts at learning_rate.
        label_smoothing: How much (0..1) of each label is spread evenly over all classes, in the
            part of the loss that compares with labels; 0: none.
        ema: The decay of an exponential moving average of the weights, e.g. 0.999, which becomes
            the result; 0: the last weights are the result.
        stop_after: Training ends after so many epochs without a lower training loss; 0: it does
            not end early.
        precision: What the layers compute in while training: "float32", "mixed_bfloat16" or
            "auto", which is mixed_bfloat16 where the processor multiplies bfloat16. Weights,
            gradients and the trained model stay float32.
    """

    epochs: int = 5
    learning_rate: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    max_steps_per_epoch: int = 0
    distill: float = 0.0
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    stop_after: int = 0
    precision: str = "float32"

    def validate(self, field: str) -> None:
        """Raises ConfigError if a field is invalid.

        Args:
            field: This phase's dotted name below `config`, for the error.
        """
        require(self.epochs >= 0, f"{field}.epochs", self.epochs, "0 or more")
        rate = self.learning_rate
        require(rate > 0, f"{field}.learning_rate", rate, "a positive number")
        require(0 <= self.momentum < 1, f"{field}.momentum", self.momentum, "a number in [0, 1)")
        decay = self.weight_decay
        require(decay >= 0, f"{field}.weight_decay", decay, "0 or more")
        schedules = ("constant", "cosine")
        require(
            self.schedule in schedules, f"{field}.schedule", self.schedule, "constant or cosine"
        )
        steps = self.max_steps_per_epoch
        require(steps >= 0, f"{field}.max_steps_per_epoch", steps, "0 (all) or more")
        require(0 <= self.distill <= 1, f"{field}.distill", self.distill, "a number in [0, 1]")
        warmup = self.warmup_epochs
        # Without epochs there is no training, and nothing to check it against.
        require(
            warmup >= 0 and (warmup < self.epochs or not warmup or not self.epochs),
            f"{field}.warmup_epochs",
            warmup,
            f"0 or more, and less than {field}.epochs ({self.epochs})",
        )
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, f"{field}.label_smoothing", smoothing, "a number in [0, 1)")
        require(0 <= self.ema < 1, f"{field}.ema", self.ema, "a number in [0, 1)")
        precisions = ("float32", "mixed_bfloat16", "auto")
        require(
            self.precision in precisions,
            f"{field}.precision",
            self.precision,
            "float32, mixed_bfloat16 or auto",
        )
        require(self.stop_after >= 0, f"{field}.stop_after", self.stop_after, "0 (never) or more")


@dataclasses.dataclass(frozen=True)
class SoftStartConfig:
    """The training before units are removed, with a growing penalty on them.

    Its other settings are those of `config.training.short_term`.

    Attributes:
        epochs: Number of passes over the training images; 0: no soft start.
        penalty: The last and largest factor of the penalty; see
            cprune_tf.training.unit_penalty.
        num_stages: In so many equal steps the penalty rises to it.
    """

    epochs: int = 0
    penalty: float = 0.1
    num_stages: int = 10

    def validate(self, field: str) -> None:
        """Raises ConfigError if a field is invalid.

        Args:
            field: The dotted name of these settings below `config`, for the error.
        """
        require(self.epochs >= 0, f"{field}.epochs", self.epochs, "0 (no soft start) or more")
        penalty, stages = self.penalty, self.num_stages
        require(penalty > 0, f"{field}.penalty", penalty, "a positive number")
        require(stages >= 1, f"{field}.num_stages", stages, "1 or more")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How candidates and the result are trained.

    Attributes:
        short_term: The training of each candidate that passed the latency gate.
        long_term: The training of the result, once at the end of the run.
        teacher: Path of the Keras model whose outputs `distill` keeps; "": the original model. A
            larger model of the same data teaches more. It takes the original's inputs and gives
            outputs of the same shapes.
        recalibration_batches: After the training of a candidate or the result, the statistics of
            its batch normalisation are those of so many training batches together; 0: they stay
            moving averages, which depend on the luck of the last few batches.
        distribute: Where each step's batch is computed: "" on one device, "mirrored" on all GPUs of
            this machine, or "multi_worker" on all machines that the environment variable TF_CONFIG
            names, which only `tools/train.py` can do.
    """

    short_term: FitConfig = FitConfig()
    long_term: FitConfig = FitConfig(epochs=100)
    teacher: str = ""
    recalibration_batches: int = 20
    distribute: str = ""

    def check_one_process(self) -> None:
        """Raises ConfigError if several processes would train, which a pruning run cannot use."""
        if self.distribute == "multi_worker":
            raise ConfigError(
                "config.training.distribute is 'multi_worker'; expected '' or 'mirrored' in a "
                "pruning run, in which one process decides, measures and trains. Train the "
                "original or the result on several machines with tools/train.py."
            )

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        self.short_term.validate("training.short_term")
        self.long_term.validate("training.long_term")
        learns = self.short_term.distill or self.long_term.distill
        require(
            not self.teacher or bool(learns),
            "training.teacher",
            self.teacher,
            "empty while distill is 0 in training.short_term and training.long_term, for nothing "
            "learns from it",
        )
        batches = self.recalibration_batches
        require(batches >= 0, "training.recalibration_batches", batches, "0 (never) or more")
        require(
            self.distribute in ("", "mirrored", "multi_worker"),
            "training.distribute",
            self.distribute,
            "empty (one device), mirrored or multi_worker",
        )
