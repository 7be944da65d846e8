"""What a strategy works with: the compiler, the device, training, and the run's record."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from cprune_tf import graph
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.config import PruneConfig
from cprune_tf.devices import Device, Latency, ModelFile
from cprune_tf.runs import Progress, RunDirectory, Stage
from cprune_tf.strategies.candidates import find_target


@dataclasses.dataclass(frozen=True)
class Hooks:
    """How models are trained and judged; the caller's own functions or the defaults.

    Attributes:
        short_term_train: Trains a candidate in place.
        long_term_train: Trains the result in place.
        evaluate: Gives a model's accuracy, 0..1.
        sample: Labelled training images for data-driven importance.
    """

    short_term_train: Callable[[Any], None]
    long_term_train: Callable[[Any], None]
    evaluate: Callable[[Any], float]
    sample: Callable[[], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class CurrentModel:
    """An accepted model with everything that is known of it.

    Attributes:
        iteration: 0 for the original.
        model: The Keras model.
        lowered: As the compiler sees it; all its tasks are measured.
        channels: Its channel groups.
        library: Its tuned TVM library.
        accuracy: As `Hooks.evaluate` gave it.
        latency: Of the whole library, on the device.
        latency_ratio: latency / the original's, measured in one run.
        history: The removals that led here from the original.
    """

    iteration: int
    model: Any
    lowered: LoweredModel
    channels: graph.ChannelGraph
    library: pathlib.Path
    accuracy: float
    latency: Latency
    latency_ratio: float
    history: graph.PruningHistory


@dataclasses.dataclass(frozen=True, eq=False)
class Workbench:
    """What a strategy works with.

    Attributes:
        config: Of the run.
        run: The run directory with its journal.
        device: Where latencies are measured.
        session: The compiler.
        hooks: Training and evaluation.
        progress: What is shown.
    """

    config: PruneConfig
    run: RunDirectory
    device: Device
    session: CompilerSession
    hooks: Hooks
    progress: Progress

    def analyze(self, model: Any) -> graph.ChannelGraph:
        """The channel groups of a model, the user's protections applied."""
        return graph.analyze(model, self.config.protect)

    def library_path(self, iteration: int) -> pathlib.Path:
        """Where an accepted model's tuned library lies."""
        return self.run.path(f"models/iter_{iteration:04d}.so")

    def time(self, model: Any, *libraries: pathlib.Path) -> tuple[Latency, ...]:
        """Times TVM libraries of models with equal inputs, interleaved."""
        inputs = tuple(
            (str(tensor.dtype), (1, *(int(size) for size in tensor.shape[1:])))
            for tensor in model.inputs
        )
        files = [ModelFile(path.stem, "tvm", str(path), inputs) for path in libraries]
        return self.device.time_models(files, self.config.measure.num_threads, self.config.measure)

    def describe(self, current: CurrentModel) -> dict[str, Any]:
        """The fields that `baseline` and `accepted` events share."""
        statistics = graph.statistics(current.model)
        return {
            "iteration": current.iteration,
            "accuracy": current.accuracy,
            "latency": current.latency.to_json(),
            "latency_ratio": current.latency_ratio,
            "params": statistics.params,
            "macs": statistics.macs,
            "channels": channels_by_layer(current.channels),
            "tasks": self.task_rows(current),
            "model": f"models/iter_{current.iteration:04d}.keras",
        }

    def task_rows(self, current: CurrentModel) -> list[dict[str, Any]]:
        """The task table of a model, as the journal keeps it."""
        rows = []
        for row in self.session.task_table(current.lowered):
            target = find_target(row.task, current.channels)
            rows.append(
                {
                    "name": row.task.name,
                    "anchor": row.task.kind.split("_")[0],
                    "weight": row.task.weight,
                    "layers": list(row.task.layers),
                    "groups": list(target.groups),
                    "macs": row.task.flops / 2,
                    "latency_ms": row.latency_ms,
                    "total_ms": row.total_ms,
                    "share": row.share,
                    "gflops": row.gflops,
                    "structure_step": None if target.reason else row.structure.step,
                    "program": str(row.structure),
                    "protected": target.reason,
                }
            )
        return rows


def channels_by_layer(channels: graph.ChannelGraph) -> dict[str, int]:
    """Number of output channels of every layer that makes channels."""
    return {name: group.num_channels for group in channels.groups for name in group.producers}


def stage_progress(stage: Stage) -> Callable[[int, int, str], None]:
    """Lets a tuner or training show how far it is in a stage."""

    def show(done: int, planned: int, text: str) -> None:
        stage.total = planned
        stage.update(done, text)

    return show
