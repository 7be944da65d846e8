"""What all stages of a run share: its settings, its directory, the device and what was given."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from cprune_tf import graph
from cprune_tf.config import PruneConfig
from cprune_tf.cross_check import Score
from cprune_tf.data import Data, ImageData
from cprune_tf.devices import Device
from cprune_tf.runs import Progress, RunDirectory
from cprune_tf.runs.journal import Journal
from cprune_tf.runtimes import RuntimeOptions
from cprune_tf.strategies.workbench import Hooks
from cprune_tf.strategies.workbench.reweighting import Sparsifier
from cprune_tf.training.deployed import Int8Judge

# The suffix of LiteRT's files.
TFLITE = ".tflite"


@dataclasses.dataclass(frozen=True)
class PipelineInput:
    """The model and the data of a run.

    Attributes:
        model: The original Keras model, which may contain nested models; it is never modified.
        hooks: The functions that train and evaluate models.
        data: The images and labels. Only the cross-check uses the test images, unless there are no
            validation images.
        judging_reason: Why the validation images are not those of the config; "" if they are.
        own_score: Whether the caller's own function gives the accuracies.
        sparsifier: Changes the original's weights in place of the strategy and of long-term
            training; None: the strategy prunes.
        int8: Makes int8 files; None in a run without them.
        score_outputs: Judges all outputs on the test data, where models are judged by a metric of
            the caller's; None: the images' classes tell, or nothing.
    """

    model: Any
    hooks: Hooks
    data: Data
    judging_reason: str = ""
    own_score: bool = False
    sparsifier: Sparsifier | None = None
    int8: Int8Judge | None = None
    score_outputs: Score | None = None

    @property
    def images(self) -> ImageData:
        """The data of a classifier of images; called only where those are."""
        assert isinstance(self.data, ImageData)
        return self.data


@dataclasses.dataclass(frozen=True, eq=False)
class RunContext:
    """A run as its stages see it.

    Attributes:
        config: The config of the run, validated.
        run: The run directory, locked by this process.
        device: The open device.
        progress: The display of the run's progress, entered as a context manager.
        given: The model, the hooks and the data.
    """

    config: PruneConfig
    run: RunDirectory
    device: Device
    progress: Progress
    given: PipelineInput

    @property
    def journal(self) -> Journal:
        """The journal of the run."""
        return self.run.journal

    @property
    def runtime_options(self) -> RuntimeOptions:
        """The settings that the runtime is opened with."""
        config = self.config
        return RuntimeOptions(
            precision=config.precision,
            workdir=self.run.tuning_dir,
            tuning=config.tuning,
            num_threads=config.measure.num_threads,
            seed=config.seed,
            frontend=config.frontend,
            weights=config.weights,
            quantization=config.quantization,
            quantize=None if self.given.int8 is None else self.given.int8.quantize,
        )

    def load(self, path: pathlib.Path) -> Any:
        """Loads a model that the run has saved."""
        return graph.load_stored(path, self.given.model)
