"""A model that became the current one, with all that is known about it."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from cprune_tf import graph
from cprune_tf.accuracy import Evaluation
from cprune_tf.devices import Latency
from cprune_tf.runtimes import RuntimeModel


@dataclasses.dataclass(frozen=True, eq=False)
class CurrentModel:
    """The original or an accepted model, with all that is known about it.

    Attributes:
        iteration: Number of candidates accepted up to this model; 0 for the original.
        model: The Keras model.
        prepared: The model as the runtime sees it; all its tasks are measured.
        channels: The model's channel groups.
        library: The file that the runtime built from the model.
        evaluation: The accuracy on all images that decide.
        latency: Latency of the whole model on the device.
        latency_ratio: Median latency / the original's, measured side by side.
        history: The removals that led from the original to this model.
    """

    iteration: int
    model: Any
    prepared: RuntimeModel
    channels: graph.ChannelGraph
    library: pathlib.Path
    evaluation: Evaluation
    latency: Latency
    latency_ratio: float
    history: graph.PruningHistory

    @property
    def accuracy(self) -> float:
        """The accuracy on the images that decide, 0..1."""
        return self.evaluation.accuracy
