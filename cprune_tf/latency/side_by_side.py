"""Both runtimes' times layer by layer: TVM's subgraphs beside LiteRT's operators.

The two fuse differently: what is compared is the smallest set of layers that both compute apart
from all others. TVM's subgraphs are timed alone, one after the other with warm caches; LiteRT's
operators are timed by its profiler inside the running model. So both sums are held against their
whole models as well. This is about these two runtimes, at float32: the model must be opened with
TVM.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from cprune_tf.compiler.importer.tflite_file import TracedFile, trace
from cprune_tf.config import MeasureConfig
from cprune_tf.devices import ModelFile
from cprune_tf.graph.flat import flatten
from cprune_tf.latency.operator_ties import tie_operators
from cprune_tf.latency.workspace import OpenedModel
from cprune_tf.runtimes.base import input_specs
from cprune_tf.runtimes.tvm import TvmRuntime, require_tvm

_ROUNDS = 3

# Layers, name and milliseconds of one subgraph or operator.
Timed = tuple[tuple[str, ...], str, float]


@dataclasses.dataclass(frozen=True)
class LayerTimes:
    """Layers that both runtimes compute apart from all others.

    Attributes:
        layers: In the model's order; empty where no layer is known to be behind it.
        tvm: TVM's tasks, once for each subgraph.
        litert: LiteRT's operators.
        tvm_ms: Of all these subgraphs; None where TVM computes nothing for the layers.
        litert_ms: Of all these operators; None where LiteRT is not known to compute anything.
    """

    layers: tuple[str, ...]
    tvm: tuple[str, ...]
    litert: tuple[str, ...]
    tvm_ms: float | None
    litert_ms: float | None

    @property
    def ratio(self) -> float | None:
        """TVM's time / LiteRT's; None where one is missing or LiteRT's is below its resolution."""
        if self.tvm_ms is None or not self.litert_ms:
            return None
        return self.tvm_ms / self.litert_ms


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """A model on both runtimes.

    Attributes:
        rows: In the model's order; those without layers last.
        tvm_whole_ms: Median latency of TVM's library.
        litert_whole_ms: Median latency of LiteRT without its profiler.
        num_threads: Threads of both.
    """

    rows: tuple[LayerTimes, ...]
    tvm_whole_ms: float
    litert_whole_ms: float
    num_threads: int

    @property
    def tvm_sum_ms(self) -> float:
        """Of all subgraphs."""
        return sum(row.tvm_ms or 0.0 for row in self.rows)

    @property
    def litert_sum_ms(self) -> float:
        """Of all operators."""
        return sum(row.litert_ms or 0.0 for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
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
        measure: Warm-up and time of each, but for the number of threads: that is the runtime's.
        on_round: Called with (rounds done, rounds in all).

    Returns:
        Both runtimes' times by layer: medians over the rounds.

    Raises:
        ConfigError: If the model was opened with another runtime than TVM.
        MissingTfliteError: The `tflite` package is not installed.
        ConversionError: TensorFlow cannot convert the model.
        UntiedOperatorsError: What LiteRT ran cannot be tied to the file.
        DeviceError: If the device fails, or has no LiteRT with a profiler.
    """
    runtime = require_tvm(opened.runtime, "A comparison of single layers")
    num_threads = runtime.num_threads
    file = trace(flatten(opened.model))
    tasks: list[Any] = [cost.task for cost in runtime.task_costs(opened.prepared)]
    wholes_ms: list[tuple[float, float]] = []
    samples_ms: dict[int, list[float]] = {task.key: [] for task in tasks}
    profiled: list[list[Timed]] = []
    with tempfile.TemporaryDirectory(prefix="cprune_layers_") as folder:
        models = _files(runtime, opened, file, pathlib.Path(folder))
        for number in range(_ROUNDS):
            on_round(number, _ROUNDS)
            latencies = opened.device.time_models(models, num_threads, measure)
            wholes_ms.append((latencies[0].median_ms, latencies[1].median_ms))
            times = opened.device.profile_litert(models[1].path, num_threads, measure)
            tied = tie_operators(times, file)
            profiled.append([(layers, time.name, time.ms) for time, layers in tied])
            for task in tasks:
                samples_ms[task.key] += runtime.samples_ms(task)
    subgraphs = [
        (subgraph.layers, task.name, statistics.median(samples_ms[task.key]))
        for task in tasks
        for subgraph in task.subgraphs
    ]
    operators = [
        (rounds[0][0], rounds[0][1], statistics.median(ms for _, _, ms in rounds))
        for rounds in zip(*profiled, strict=True)
    ]
    tvm_ms, litert_ms = (statistics.median(column) for column in zip(*wholes_ms, strict=True))
    order = list(flatten(opened.model).layers())
    return SideBySide(merge_by_layers(subgraphs, operators, order), tvm_ms, litert_ms, num_threads)


def merge_by_layers(
    tvm: Iterable[Timed], litert: Iterable[Timed], order: Sequence[str]
) -> tuple[LayerTimes, ...]:
    """Puts together what two runtimes need for the same layers.

    Args:
        tvm: Layers, task and ms of each of TVM's subgraphs.
        litert: Layers, name and ms of each of LiteRT's operators.
        order: All layers in the model's order.

    Returns:
        One row for each set of layers that neither runtime mixes with others; last one row each for
        subgraphs and operators without layers, if there are any.
    """
    parts = [*((0, timed) for timed in tvm), *((1, timed) for timed in litert)]
    joined = _joined(layers for _, (layers, _, _) in parts)
    position = {layer: number for number, layer in enumerate(order)}
    # By what represents the layers: TVM's and LiteRT's parts.
    grouped: dict[str | int, tuple[list[Timed], list[Timed]]] = {}
    for side, timed in parts:
        # A part without layers has none in common with the other runtime either.
        key = joined[timed[0][0]] if timed[0] else side
        grouped.setdefault(key, ([], []))[side].append(timed)
    rows = [_row(ours, theirs, position) for ours, theirs in grouped.values()]
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


def _joined(sets: Iterable[Sequence[str]]) -> DisjointSet:
    """The names, with those joined that occur in one set; `joined[name]` represents them."""
    joined = DisjointSet()
    for names in sets:
        for name in names:
            joined.add(name)
            joined.merge(names[0], name)
    return joined


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
