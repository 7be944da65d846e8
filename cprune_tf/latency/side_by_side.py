"""Compares TVM and LiteRT layer by layer: TVM's subgraphs beside LiteRT's operators.

The two runtimes fuse layers differently. So the comparison uses the smallest sets of layers that
both runtimes compute separately from all other layers. TVM's subgraphs are timed alone, one after
the other with warm caches; LiteRT's profiler times its operators inside the running model. So each
sum is also compared with the latency of its whole model. The comparison covers these two runtimes
at float32, and the model must be opened with TVM.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import ModelFile
from cprune_tf.graph.flat import flatten
from cprune_tf.graph.naming import savable_twin
from cprune_tf.latency.operator_ties import tie_operators
from cprune_tf.latency.workspace import OpenedModel
from cprune_tf.litert.tracing import TracedFile, trace
from cprune_tf.runtimes.base import input_specs
from cprune_tf.runtimes.tvm import TvmRuntime, require_tvm

_ROUNDS = 3

# (layers, name, milliseconds) of one subgraph or operator.
Timed = tuple[tuple[str, ...], str, float]


@dataclasses.dataclass(frozen=True)
class LayerTimes:
    """Both runtimes' times for layers that they compute separately from all other layers.

    Attributes:
        layers: The Keras layers, in the model's order; empty if the layers are unknown.
        tvm: Names of TVM's tasks, once for each subgraph.
        litert: Names of LiteRT's operators.
        tvm_ms: Total time of these subgraphs; None if TVM has no subgraph for the layers.
        litert_ms: Total time of these operators; None if no operator of LiteRT is known to belong
            to the layers.
    """

    layers: tuple[str, ...]
    tvm: tuple[str, ...]
    litert: tuple[str, ...]
    tvm_ms: float | None
    litert_ms: float | None

    @property
    def ratio(self) -> float | None:
        """TVM's time / LiteRT's; None if a time is missing or LiteRT's profiler rounded to 0."""
        if self.tvm_ms is None or not self.litert_ms:
            return None
        return self.tvm_ms / self.litert_ms


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """A model's times on both runtimes.

    Attributes:
        rows: The times by sets of layers, in the model's order; rows without layers come last.
        tvm_whole_ms: Median latency of TVM's library.
        litert_whole_ms: Median latency of LiteRT without its profiler.
        num_threads: Number of threads of both runtimes.
    """

    rows: tuple[LayerTimes, ...]
    tvm_whole_ms: float
    litert_whole_ms: float
    num_threads: int

    @property
    def tvm_sum_ms(self) -> float:
        """Total time of TVM's subgraphs."""
        return sum(row.tvm_ms or 0.0 for row in self.rows)

    @property
    def litert_sum_ms(self) -> float:
        """Total time of LiteRT's operators."""
        return sum(row.litert_ms or 0.0 for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison as JSON types."""
        return {
            **dataclasses.asdict(self),
            "tvm_sum_ms": self.tvm_sum_ms,
            "litert_sum_ms": self.litert_sum_ms,
        }


def compare_layers(
    opened: OpenedModel,
    measure: MeasureConfig,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> SideBySide:
    """Times a tuned model's subgraphs in TVM and its operators in LiteRT, in turns.

    Args:
        opened: The model, opened with TVM and tuned.
        measure: Warm-up and duration of each measurement. Its number of threads is ignored in
            favour of the runtime's.
        on_round: Called with (rounds done, total rounds) before each round.

    Returns:
        Both runtimes' times by layers: medians over the rounds.

    Raises:
        ConfigError: If the model was opened with a runtime other than TVM.
        ConversionError: If TensorFlow cannot convert the model.
        UntiedOperatorsError: If LiteRT's operators cannot be tied to those of the file.
        DeviceError: If the device fails, or has no LiteRT with a profiler.
    """
    runtime = require_tvm(opened.runtime, "A comparison of single layers")
    num_threads = runtime.num_threads
    file = trace(flatten(savable_twin(opened.model)))
    tasks: list[Any] = [cost.task for cost in runtime.task_costs(opened.prepared)]
    wholes_ms: list[tuple[float, float]] = []
    samples_ms: dict[int, list[float]] = {task.key: [] for task in tasks}
    operators_by_round: list[list[Timed]] = []
    with tempfile.TemporaryDirectory(prefix="cprune_layers_") as folder:
        models = _files(runtime, opened, file, pathlib.Path(folder))
        for number in range(_ROUNDS):
            on_round(number, _ROUNDS)
            latencies = opened.device.time_models(models, num_threads, measure)
            wholes_ms.append((latencies[0].median_ms, latencies[1].median_ms))
            times = opened.device.profile_litert(models[1].path, num_threads, measure)
            operators_by_round.append(
                [(layers, time.name, time.ms) for time, layers in tie_operators(times, file)]
            )
            for task in tasks:
                samples_ms[task.key] += runtime.samples_ms(task)
    subgraphs = [
        (subgraph.layers, task.name, statistics.median(samples_ms[task.key]))
        for task in tasks
        for subgraph in task.subgraphs
    ]
    operators = [
        (rounds[0][0], rounds[0][1], statistics.median(ms for _, _, ms in rounds))
        for rounds in zip(*operators_by_round, strict=True)
    ]
    tvm_ms, litert_ms = (statistics.median(column) for column in zip(*wholes_ms, strict=True))
    order = list(flatten(opened.model).layers())
    return SideBySide(merge_by_layers(subgraphs, operators, order), tvm_ms, litert_ms, num_threads)


def merge_by_layers(
    tvm: Iterable[Timed], litert: Iterable[Timed], order: Sequence[str]
) -> tuple[LayerTimes, ...]:
    """Groups the times of both runtimes by the layers that they are for.

    Args:
        tvm: (layers, task name, milliseconds) of each of TVM's subgraphs.
        litert: (layers, operator name, milliseconds) of each of LiteRT's operators.
        order: All layers in the model's order.

    Returns:
        One row for each smallest set of layers that both runtimes compute separately from all
        others. If there are subgraphs without layers, one row for these follows at the end; the
        same holds for operators without layers.
    """
    parts = [*((0, timed) for timed in tvm), *((1, timed) for timed in litert)]
    layer_sets = _joined_layers(layers for _, (layers, _, _) in parts)
    position = {layer: number for number, layer in enumerate(order)}
    # Maps the representative of a set of layers to (TVM's parts, LiteRT's parts).
    grouped: dict[str | int, tuple[list[Timed], list[Timed]]] = {}
    for side, timed in parts:
        # A part without layers has no layer in common with the other runtime, so each runtime
        # gets a row of its own for such parts.
        key = layer_sets[timed[0][0]] if timed[0] else side
        grouped.setdefault(key, ([], []))[side].append(timed)
    rows = [_row(tvm_parts, litert_parts, position) for tvm_parts, litert_parts in grouped.values()]
    last = len(position)
    return tuple(
        sorted(rows, key=lambda row: position.get(row.layers[0], last) if row.layers else last + 1)
    )


def _row(tvm: Sequence[Timed], litert: Sequence[Timed], position: Mapping[str, int]) -> LayerTimes:
    layers = {layer for names, _, _ in (*tvm, *litert) for layer in names}
    return LayerTimes(
        tuple(sorted(layers, key=lambda layer: position.get(layer, len(position)))),
        tuple(name for _, name, _ in tvm),
        tuple(name for _, name, _ in litert),
        sum(ms for _, _, ms in tvm) if tvm else None,
        sum(ms for _, _, ms in litert) if litert else None,
    )


def _joined_layers(parts: Iterable[Sequence[str]]) -> DisjointSet:
    """Joins the layers that occur in the same part; `result[layer]` represents the joined set."""
    layer_sets = DisjointSet()
    for layers in parts:
        for layer in layers:
            layer_sets.add(layer)
            layer_sets.merge(layers[0], layer)
    return layer_sets


def _files(
    runtime: TvmRuntime, opened: OpenedModel, file: TracedFile, folder: pathlib.Path
) -> tuple[ModelFile, ModelFile]:
    library, tflite = folder / f"whole{runtime.suffix}", folder / "whole.tflite"
    runtime.build(opened.prepared, library)
    tflite.write_bytes(file.content)
    return (
        runtime.file(library, opened.model),
        ModelFile(tflite.name, "litert", str(tflite), input_specs(opened.model)),
    )
