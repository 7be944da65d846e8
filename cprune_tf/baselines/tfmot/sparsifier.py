"""Prunes the weights of a Keras 3 model with TFMOT, with the training that other results get."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Callable, Iterator

import numpy as np

from cprune_tf.baselines.tfmot import description, running
from cprune_tf.baselines.tfmot import job as jobs
from cprune_tf.config import ConfigError, FitConfig, PruneConfig

if typing.TYPE_CHECKING:
    import keras

    from cprune_tf.data import ImageData

UNSTRUCTURED, TWO_OF_FOUR = PATTERNS = ("unstructured", "2:4")

_NUM_PROBES = 4
# TFMOT's own default is every 100 steps; short trainings need more updates than that gives them.
_MAX_FREQUENCY = 100
_MIN_UPDATES = 10
_PRUNED = ("Conv2D", "SeparableConv2D", "Dense")
_MIN_STEPS = 2
# Options of FitConfig that TFMOT's training has no part for, with the values that mean "off".
_LEFT_OUT = {"distill": 0.0, "ema": 0.0, "stop_after": 0}


@dataclasses.dataclass(frozen=True, eq=False)
class TfmotSparsifier:
    """Sets weights to zero with `prune_low_magnitude`, in a child process.

    Attributes:
        config: The config of the run.
        pattern: One of PATTERNS.
    """

    config: PruneConfig
    pattern: str

    def check(self, model: keras.Model, data: ImageData) -> None:
        """Builds the model in Keras 2 and compares what both compute; trains nothing.

        Args:
            model: The original.
            data: Gives the images that are compared.

        Raises:
            TfmotError: TFMOT is not installed, or cannot prune the model.
            ConfigError: There is no training, in which TFMOT would prune.
        """
        if not self.fit.epochs:
            raise ConfigError(
                "config.training.short_term.epochs and long_term.epochs are 0, but TFMOT prunes "
                "while it trains; expected one epoch or more in one of them."
            )
        job = self._job(model, data, 0)
        self._run_child(model, data, job, np.zeros(0, np.float32), iter(()))

    def __call__(
        self, model: keras.Model, data: ImageData, on_step: Callable[[int, int, str], None]
    ) -> str:
        """Trains a model in place, so that weights become zero.

        Args:
            model: The model.
            data: Training batches.
            on_step: Told after each batch (batches handed over, batches in all, text).

        Returns:
            What was done, with the numbers.

        Raises:
            TfmotError: The child process fails.
            TrainingError: There are no training batches.
        """
        from cprune_tf.training.step import learning_rates
        from cprune_tf.training.trainer import count_batches

        fit = self.fit
        num_batches = count_batches(data, fit, self.config.seed)
        num_steps = max(num_batches * fit.epochs, _MIN_STEPS)
        trained = self._run_child(
            model,
            data,
            self._job(model, data, num_steps),
            learning_rates(fit, num_steps),
            _endless(data, fit, self.config.seed),
            lambda done: on_step(done, num_steps, "training with TFMOT"),
        )
        layers = description.layers_of(model).values()
        for layer, arrays in zip(layers, trained, strict=True):
            layer.set_weights(arrays)
        zeros = zeros_of(model)
        left_out = [name for name, off in _LEFT_OUT.items() if getattr(fit, name) != off]
        note = f"; trained without {', '.join(left_out)}, unlike others" if left_out else ""
        return (
            f"{zeros.fraction:.1%} of the weights of {zeros.num_layers} kernels are zero after "
            f"{fit.epochs} epochs; no filter is removed{note}"
        )

    @property
    def fit(self) -> FitConfig:
        """The long-term training, with the epochs of the result of a one-shot strategy.

        Such a result is trained first for a short and then for a long time; TFMOT trains once.
        """
        training = self.config.training
        epochs = training.short_term.epochs + training.long_term.epochs
        return dataclasses.replace(training.long_term, epochs=epochs)

    def _job(self, model: keras.Model, data: ImageData, num_steps: int) -> jobs.TrainingJob:
        from cprune_tf.training.losses import gives_probabilities

        fit = self.fit
        last = max(round(num_steps * self.config.tfmot.ramp) - 1, 1)
        frequency = max(min(_MAX_FREQUENCY, last // _MIN_UPDATES), 1)
        return jobs.TrainingJob(
            pattern=self.pattern,
            sparsity=self.config.tfmot.sparsity,
            # TFMOT reaches the sparsity only if the last step is one at which it chooses zeros.
            end_step=last // frequency * frequency,
            frequency=frequency,
            num_steps=num_steps,
            num_classes=data.num_classes,
            gives_probabilities=gives_probabilities(model, data.judges[0][:_NUM_PROBES]),
            momentum=fit.momentum,
            weight_decay=fit.weight_decay,
            label_smoothing=fit.label_smoothing,
            seed=self.config.seed,
        )

    def _run_child(
        self,
        model: keras.Model,
        data: ImageData,
        job: jobs.TrainingJob,
        rates: jobs.Array,
        batches: Iterator[tuple[jobs.Array, jobs.Array]],
        on_step: Callable[[int], None] | None = None,
    ) -> list[list[jobs.Array]]:
        described = description.describe(model)
        weights = [layer.get_weights() for layer in description.layers_of(model).values()]
        probes = _probes(model, described, data.judges[0][:_NUM_PROBES])
        return running.run_child(job, described, weights, probes, rates, batches, on_step)


@dataclasses.dataclass(frozen=True)
class Zeros:
    """The zeros in the kernels that TFMOT prunes.

    Attributes:
        num_layers: Number of those kernels.
        num_weights: Their weights.
        num_zeros: How many of them are zero.
    """

    num_layers: int
    num_weights: int
    num_zeros: int

    @property
    def fraction(self) -> float:
        """Zeros / weights, 0..1."""
        return self.num_zeros / max(self.num_weights, 1)


def pruned_kernels(model: keras.Model) -> dict[str, jobs.Array]:
    """Returns the kernels that TFMOT prunes, by layer name: [..., inputs, outputs]."""
    kernels: dict[str, jobs.Array] = {}
    for name, layer in description.layers_of(model).items():
        if type(layer).__name__ in _PRUNED:
            # A separable convolution has a depthwise kernel first, which TFMOT leaves alone.
            kernel = layer.get_weights()[int(type(layer).__name__ == "SeparableConv2D")]
            kernels[name] = kernel
    return kernels


def zeros_of(model: keras.Model) -> Zeros:
    """Counts the zeros in the kernels that TFMOT prunes."""
    kernels = list(pruned_kernels(model).values())
    return Zeros(
        len(kernels),
        sum(kernel.size for kernel in kernels),
        sum(int(np.count_nonzero(kernel == 0)) for kernel in kernels),
    )


def _probes(
    model: keras.Model, described: description.ModelDescription, images: jobs.Array
) -> running.Probes:
    """Computes the outputs of a model and of its layers that are called once."""
    import keras

    from cprune_tf import graph

    # In a flat copy, each layer has the calls of this model only.
    copy = graph.functional_twin(model)
    called = [call.layer for call in described.calls]
    once = [index for index in range(len(described.layers)) if called.count(index) == 1]
    layers = description.layers_of(copy)
    outputs = [layers[described.layers[index].name].output for index in once]
    *inner, output = keras.Model(copy.inputs, [*outputs, copy.outputs[0]])([images], training=False)
    by_layer = {index: np.asarray(array) for index, array in zip(once, inner, strict=True)}
    return running.Probes(np.asarray(images), np.asarray(output), by_layer)


def _endless(data: ImageData, fit: FitConfig, seed: int) -> Iterator[tuple[jobs.Array, jobs.Array]]:
    """The batches of one epoch after the other, the same as those of every other training."""
    from cprune_tf.training.trainer import epoch_dataset

    for epoch in itertools.count(1):
        yield from epoch_dataset(data, fit, seed, epoch).as_numpy_iterator()
